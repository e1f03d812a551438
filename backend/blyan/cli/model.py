"""`blyan model import|export|list|verify`; others are `model_show`, `model_plan` and `model_change`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blyan.cli import model_change, model_plan
from blyan.cli.model_show import quantization_fields, quantization_line, show, when
from blyan.cli.output import Output, byte_size, short_count, table
from blyan.cli.passphrase import passphrase_of
from blyan.model.manifest import Manifest, read_manifest
from blyan.model.quantization import int4_groups, methods, schemes
from blyan.node.catalogue import manifest_of, manifests_of, no_such_model
from blyan.node.config import read_config
from blyan.node.data_directory import Ground, open_ground
from blyan.node.holdings import HeldModel, read_held
from blyan.node.verified import forget_verified, last_verified, remember_verified
from blyan.node.writer import opened
from blyan.primitives.clock import system_entropy, system_monotonic, system_seconds
from blyan.primitives.errors import BlockCorrupt, Fault, IntegrityFault, NotFound, UsageMistake
from blyan.primitives.ids import PayloadId
from blyan.primitives.model_name import canonical_name

_integrity_failure = 7  # exit code, docs/cli.md


def add_commands(verbs: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register the group."""
    group = verbs.add_parser("model", parents=[common, readable], help="import, list and verify models")
    commands = group.add_subparsers(metavar="VERB", required=True)
    imported = commands.add_parser("import", parents=[common, readable], help="import a Hugging Face checkpoint folder")
    imported.add_argument("folder", metavar="DIR", type=Path)
    imported.add_argument("--name", type=canonical_name, help="default: the folder's name")
    imported.add_argument("--quantize", metavar="int8|int4|fp8|bf16", choices=schemes, help="how to store the matrices")
    imported.add_argument("--group", type=int, choices=int4_groups, default=64, help="int4: inputs to a scale")
    imported.add_argument(
        "--method", choices=methods, help="int4: `search` (default) weighs errors by what a text shows"
    )
    imported.add_argument("--calibration", metavar="FILE", type=Path, help="that text; default: a built-in one")
    imported.set_defaults(run=_import)
    exported = commands.add_parser("export", parents=[common, readable], help="write a Hugging Face folder")
    exported.add_argument("name", metavar="NAME", type=canonical_name)
    exported.add_argument("folder", metavar="DIR", type=Path)
    exported.set_defaults(run=_export)
    listed = commands.add_parser("list", parents=[common, readable], help="the models of this node's chain")
    listed.set_defaults(run=_list)
    shown = commands.add_parser("show", parents=[common, readable], help="one model: sizes, licence, what is here")
    shown.add_argument("name", metavar="NAME", nargs="?", type=canonical_name, help="default: the only model")
    shown.set_defaults(run=show)
    model_plan.add_command(commands, common, readable)
    verified = commands.add_parser("verify", parents=[common, readable], help="hash every block of a model again")
    verified.add_argument("name", metavar="NAME", nargs="?", type=canonical_name)
    verified.add_argument("--all", action="store_true", help="every model")
    verified.set_defaults(run=_verify)
    model_change.add_commands(commands, common, readable)


def _import(options: argparse.Namespace, output: Output) -> int:
    from blyan.model.hf_import import read_checkpoint  # torch takes a second; other verbs do not need it
    from blyan.node.importing import import_checkpoint
    from blyan.node.quantizing import QuantizationRequest

    folder: Path = options.folder
    request = None
    if options.quantize:
        request = QuantizationRequest.of(
            options.quantize,
            now=system_monotonic,
            group=options.group,
            method=options.method,
            text=options.calibration,
        )
    elif options.method or options.calibration:
        raise UsageMistake("model import: expected --quantize with --method or --calibration, found none")
    checkpoint = read_checkpoint(folder)
    for sentence in checkpoint.notes:
        output.note(sentence)
    name = canonical_name(options.name or folder.resolve().name)
    config = read_config(options.data_dir)
    passphrase = passphrase_of(config)
    with opened(config, now=system_seconds, entropy=system_entropy, passphrase=passphrase, new=True) as ground:
        progress = output.progress("stored", in_bytes=True)
        imported = import_checkpoint(ground, checkpoint, name, progress, request, output.note)
    published, cost = imported.published, imported.manifest.quantization
    model = published.model
    value: dict[str, Any] = {
        "name": model.name,
        "version": model.version,
        "manifest": model.manifest,
        "blocks": published.blocks,
        "bytes": published.length,
        "changed": published.changed,
        "resumed_parts": imported.resumed,
        "quantization": None if cost is None else quantization_fields(cost),
    }
    lines = [
        f"{model.name} {model.version}: {published.blocks} blocks, {byte_size(published.length)}, "
        f"manifest {model.manifest}" + ("" if published.changed else " (was there already)")
    ]
    if cost is not None:
        lines.append(quantization_line(cost))
    if checkpoint.tokenizer is None:
        output.note("no tokenizer.json or tokenizer.model: the model takes and gives token ids only")
    output.data(value, "\n".join(lines))
    return 0


def _export(options: argparse.Namespace, output: Output) -> int:
    from blyan.node.export import export_model  # torch takes a second; other verbs do not need it

    ground = open_ground(options.data_dir)
    exported = export_model(ground, options.name, options.folder, output.progress("parts"))
    value = {
        "name": exported.version.name,
        "version": exported.version.version,
        "folder": str(options.folder),
        "bytes": exported.length,
        "dequantized": exported.dequantized,
        "rounded": exported.rounded,
    }
    how = ", bit for bit as imported"
    if exported.dequantized:
        how = ", multiplied out from what is stored quantised"
    elif exported.rounded:
        how = f", bit for bit as stored: rounded to {exported.rounded} at import"
    output.data(
        value, f"{value['name']} {value['version']}: {byte_size(exported.length)} of weights in {options.folder}{how}"
    )
    return 0


def _list(options: argparse.Namespace, output: Output) -> int:
    ground = open_ground(options.data_dir)
    rows = [["NAME", "VERSION", "FAMILY", "PARAMETERS", "ACTIVE", "STORED AS", "BYTES", "LICENCE", "VERIFIED"]]
    values: list[dict[str, Any]] = []
    for name, (version, manifest) in manifests_of(ground).items():
        length = sum(block.length for block in manifest.blocks.values())
        config = manifest.config
        scheme = manifest.quantization.scheme if manifest.quantization is not None else None
        verified = last_verified(ground.folder, version.manifest, manifest, ground.store)
        values.append(
            {
                "name": name,
                "version": version.version,
                "family": version.family,
                "parameters": config.parameters,
                "active_parameters": config.active_parameters,
                "bytes": length,
                "dtype": manifest.dtype,
                "quantization": scheme,
                "license": manifest.license,
                "manifest": version.manifest,
                "verified": verified,
            }
        )
        counts = [short_count(config.parameters), short_count(config.active_parameters)]
        told = [scheme or manifest.dtype, byte_size(length), manifest.license or "-"]
        rows.append(
            [name, version.version, version.family, *counts, *told, "-" if verified is None else when(verified)]
        )
    output.data(values, table(rows) if values else "no models; `blyan init` installs the built-in one")
    return 0


@dataclass(slots=True)
class _Hashed:
    """What a verification went through."""

    ground: Ground
    output: Output
    held: Mapping[PayloadId, HeldModel]
    checked: dict[PayloadId, bool] = field(default_factory=dict[PayloadId, bool])
    bad: list[Fault] = field(default_factory=list[Fault])
    elsewhere: int = 0  # blocks that other nodes hold on purpose


def _verify(options: argparse.Namespace, output: Output) -> int:
    if bool(options.name) == bool(options.all):
        raise UsageMistake("model verify: expected NAME or --all, found " + ("both" if options.name else "neither"))
    ground = open_ground(options.data_dir)
    hashed = _Hashed(ground, output, read_held(ground.folder))
    models = ground.chains.state.models
    apart = {held.name: manifest for manifest, held in hashed.held.items() if held.name not in models}
    names = sorted({*models, *apart}) if options.all else [options.name]
    for name in names:
        if name in apart:
            _verify_blocks(hashed, name, f"{name} of the swarm", apart[name], read_manifest(ground.store, apart[name]))
        else:
            _verify_model(hashed, name)
    failures = [{"code": fault.code, "message": fault.message, **fault.detail} for fault in hashed.bad]
    for fault in hashed.bad:
        output.note(f"blyan: {fault.message}")
    blocks, damaged = len(hashed.checked), sum(not whole for whole in hashed.checked.values())
    others = f"; {hashed.elsewhere} more are held by other nodes" if hashed.elsewhere else ""
    output.data(
        {"models": names, "blocks": blocks, "elsewhere": hashed.elsewhere, "corrupt": failures},
        f"{', '.join(names) or 'no models'}: {blocks - damaged} of {blocks} blocks match their payload ids{others}",
    )
    return _integrity_failure if hashed.bad else 0


def _verify_model(hashed: _Hashed, name: str) -> None:
    """Every version of one model: its manifest, that the chain names its blocks, and each block's bytes."""
    ground = hashed.ground
    versions = ground.chains.state.models.get(name)
    if versions is None:
        raise no_such_model(name, ground.chains.state.models)
    for version in versions:
        label = f"{name} {version.version}"
        try:
            _hash_again(ground, version.manifest, hashed.checked)
            manifest = manifest_of(ground, version)
        except (IntegrityFault, NotFound) as fault:
            hashed.bad.append(_naming(fault, name, label, "manifest"))
            continue
        _verify_blocks(hashed, name, label, version.manifest, manifest)


def _verify_blocks(hashed: _Hashed, name: str, label: str, manifest_id: PayloadId, manifest: Manifest) -> None:
    """Each block's bytes; what is held elsewhere on purpose is counted, not missed."""
    ground, began, found = hashed.ground, system_seconds(), len(hashed.bad)
    progress = hashed.output.progress(f"verifying {label}", in_bytes=True)
    total, done = sum(block.length for block in manifest.blocks.values()), 0
    held = hashed.held.get(manifest_id)
    for part, block in manifest.blocks.items():
        try:
            if held is not None and held.may_lack(part) and not ground.store.path(block.payload).exists():
                hashed.elsewhere += 1
            else:
                _hash_again(ground, block.payload, hashed.checked)
        except (IntegrityFault, NotFound) as fault:
            hashed.bad.append(_naming(fault, name, label, part))
        done += block.length
        progress(done, total)
    if len(hashed.bad) == found:
        remember_verified(ground.folder, manifest_id, began)
    else:
        forget_verified(ground.folder, manifest_id)


def _hash_again(ground: Ground, payload: PayloadId, checked: dict[PayloadId, bool]) -> None:
    """Hash a block, once however many parts name it."""
    if payload not in checked:
        checked[payload] = False
        ground.store.verify(payload)
        checked[payload] = True


def _naming(fault: Fault, model: str, label: str, part: str) -> Fault:
    return BlockCorrupt(f"{label} {part}: {fault.message}", detail={**fault.detail, "model": model, "part": part})
