"""`blyan model show`: what one model is, and where its bytes are."""

from __future__ import annotations

import argparse
import datetime as dt
from typing import Any, Final

from blyan.chain.state import ModelVersion
from blyan.cli.output import Output, byte_size, short_count, table
from blyan.model.footprint import cache_bytes, footprint_of
from blyan.model.manifest import Manifest
from blyan.model.parts import expert_part
from blyan.model.quantization import Quantization
from blyan.node import builtin
from blyan.node.catalogue import manifest_of, no_such_model
from blyan.node.data_directory import Ground, open_ground
from blyan.node.verified import last_verified
from blyan.primitives.errors import UsageMistake

_micro: Final = 1_000_000
_grid_columns: Final = 64
_rows_drawn: Final = 48  # more layers than that are drawn once for each run of equal ones
_here, _some, _none = "█", "▒", "·"


def show(options: argparse.Namespace, output: Output) -> int:
    """Run `model show [NAME]`."""
    ground = open_ground(options.data_dir)
    version, manifest = model_of(ground, options.name)
    config, bytes_of = manifest.config, footprint_of(manifest)
    missing = sorted(part for part, block in manifest.blocks.items() if not _is_here(ground, block.payload))
    verified = last_verified(ground.folder, version.manifest, manifest, ground.store)
    versions = ground.chains.state.models[version.name]
    full = cache_bytes(config, manifest.dtype, config.context_length)
    value: dict[str, Any] = {
        "name": version.name,
        "version": version.version,
        "versions": [{"version": each.version, "manifest": each.manifest, "time": each.time} for each in versions],
        "family": version.family,
        "parameters": config.parameters,
        "active_parameters": config.active_parameters,
        "layers": config.layers,
        "moe_layers": len(config.moe_layers),
        "experts": config.experts,
        "experts_per_token": config.experts_per_token,
        "hidden": config.hidden,
        "vocabulary": config.vocab_size,
        "context_length": config.context_length,
        "dtype": manifest.dtype,
        "quantization": None if manifest.quantization is None else quantization_fields(manifest.quantization),
        "license": manifest.license,
        "license_link": manifest.license_link,
        "source": manifest.source,
        "manifest": version.manifest,
        "bytes": {
            "embeddings": bytes_of.embeddings,
            "trunk": bytes_of.trunk,
            "experts": bytes_of.experts,
            "tokenizer": bytes_of.tokenizer,
            "active": bytes_of.active,
        },
        "memory": {"weights": bytes_of.weights, "cache_full_context": full},
        "blocks": len(manifest.blocks),
        "missing": missing,
        "verified": verified,
    }
    routed = f"{len(config.moe_layers)} of them with {config.experts} experts, {config.experts_per_token} a token"
    by_kind = (("embeddings", bytes_of.embeddings), ("trunk", bytes_of.trunk), ("experts", bytes_of.experts))
    parts = ", ".join(f"{kind} {byte_size(count)}" for kind, count in by_kind)
    rows = [
        ["model", f"{version.name} {version.version}" + _earlier(versions)],
        ["family", version.family],
        ["parameters", f"{short_count(config.parameters)}, {short_count(config.active_parameters)} active a token"],
        ["layers", f"{config.layers}, {routed}; hidden {config.hidden}"],
        ["context", f"{config.context_length:,} tokens, vocabulary {config.vocab_size:,}"],
        ["stored as", _stored_as(manifest)],
        *([["cost", quantization_line(manifest.quantization)]] if manifest.quantization is not None else []),
        ["bytes", f"{byte_size(bytes_of.weights)}: {parts}"],
        ["memory", f"{byte_size(bytes_of.weights + full)} with a full context, {byte_size(bytes_of.weights)} without"],
        ["licence", " ".join(filter(None, [manifest.license or "none recorded", manifest.license_link]))],
        ["source", manifest.source or "none recorded"],
        ["manifest", version.manifest],
        ["blocks", f"{len(manifest.blocks) - len(missing)} of {len(manifest.blocks)} here"],
        ["verified", _verified(verified, version.name)],
    ]
    examined = builtin.marks(manifest)
    if examined is not None:
        value["exam"] = examined
        rows.append(["exam", _exam_line(examined)])
    output.data(value, table(rows) + "\n\n" + "\n".join(_grid(ground, manifest)))
    return 0


def _exam_line(marks: dict[str, Any]) -> str:
    """What its exam gave, in one line."""
    weakest = sorted(marks["skills"], key=lambda each: each["right"] / each["asked"])[:3]
    said = ", ".join(f"{each['skill']} ({each['language']}) {each['right'] / each['asked']:.0%}" for each in weakest)
    others = "".join(f"; {name} {share:.1%}" for name, share in marks["others"].items())
    bits = ", ".join(f"{each:.2f}" for each in marks["bits"])
    return (
        f"{marks['share']:.1%} of held-out questions exact, {marks['refusals']:.1%} of what it cannot know declined, "
        f"{marks['false_refusals']:.1%} of the rest; weakest: {said}{others}; experts tell of the skill, in bits by "
        f"layer: {bits}"
    )


def quantization_fields(cost: Quantization) -> dict[str, Any]:
    """A quantization as `--json` shows it: nats a token, tokens a second."""
    return {
        "scheme": cost.scheme,
        "group": cost.group or None,
        "method": cost.method,
        "text": cost.text,
        "tokens": cost.tokens,
        "loss_before": cost.loss_before / _micro,
        "loss_after": cost.loss_after / _micro,
        "divergence": cost.divergence / _micro,
        "speed_before": cost.speed_before,
        "speed_after": cost.speed_after,
    }


def quantization_line(cost: Quantization) -> str:
    """What it is and what it cost, in one line."""
    before, after = cost.loss_before / _micro, cost.loss_after / _micro
    how = f"{cost.scheme}, groups of {cost.group}, {cost.method}" if cost.group else cost.scheme
    on = "drawn tokens (no tokenizer)" if cost.text == "random" else "tokens of text"
    return (
        f"{how}: loss {before:.4f} → {after:.4f} nat a token ({after - before:+.4f}), divergence "
        f"{cost.divergence / _micro:.4f}, {cost.speed_before} → {cost.speed_after} tokens/s at once, "
        f"on {cost.tokens} {on}"
    )


def when(seconds: int) -> str:
    """A time of the epoch for people, in UTC."""
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC).strftime("%Y-%m-%d %H:%M UTC")


def model_of(ground: Ground, name: str | None) -> tuple[ModelVersion, Manifest]:
    """A model as the chain has it now, without a name the only one. `NotFound`, `UsageMistake` name what there is."""
    models = ground.chains.state.models
    if name is None:
        if len(models) > 1:
            raise UsageMistake(f"NAME: expected one of {', '.join(sorted(models))}, found none")
        name = next(iter(models), "")
    version = ground.chains.state.current(name)
    if version is None:
        raise no_such_model(name, models)
    return version, manifest_of(ground, version)


def _is_here(ground: Ground, payload: Any) -> bool:
    return ground.store.path(payload).is_file()


def _earlier(versions: list[ModelVersion]) -> str:
    earlier = ", ".join(each.version for each in versions[:-1])
    return f" (before it {earlier})" if earlier else ""


def _stored_as(manifest: Manifest) -> str:
    if manifest.quantization is None:
        return f"{manifest.dtype}, bit for bit as imported"
    return f"{manifest.quantization.scheme}; embeddings, norms, gates and biases {manifest.dtype}"


def _verified(seconds: int | None, name: str) -> str:
    if seconds is None:
        return f"not since its files changed, or never: `blyan model verify {name}`"
    return f"every block, {when(seconds)}; their files have not changed since"


def _grid(ground: Ground, manifest: Manifest) -> list[str]:
    """Layers × experts: which blocks are here."""
    config = manifest.config
    moe_layers = frozenset(config.moe_layers)
    step = -(-config.experts // _grid_columns)
    drawn: list[tuple[int, int, str]] = []  # first and last layer of equal rows
    for layer in range(config.layers):
        row = "(dense)"
        if layer in moe_layers:
            here = [
                _is_here(ground, manifest.parts[expert_part(layer, expert)].payload) for expert in range(config.experts)
            ]
            groups = [here[at : at + step] for at in range(0, config.experts, step)]
            row = "".join(_here if all(group) else _some if any(group) else _none for group in groups)
        if drawn and drawn[-1][2] == row and config.layers > _rows_drawn:
            drawn[-1] = drawn[-1][0], layer, row
        else:
            drawn.append((layer, layer, row))
    cell = "one expert" if step == 1 else f"{step} experts"
    lines = [f"layers × experts, {cell} a cell: {_here} here  {_some} some  {_none} none"]
    width = len(f"{config.layers - 1}–{config.layers - 1}")
    for first, last, row in drawn:
        label = str(first) if first == last else f"{first}–{last}"
        lines.append(f"{label.rjust(width)}  {row}")
    return lines
