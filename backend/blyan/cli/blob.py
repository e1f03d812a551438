"""`blyan blob list|verify|pin|unpin|sweep|usage`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from blyan.cli.output import Output, byte_size, table
from blyan.node.blobs_in_use import payloads_in_use
from blyan.node.data_directory import open_ground
from blyan.node.writer import claimed
from blyan.primitives.errors import Fault, IntegrityFault, UsageMistake
from blyan.primitives.ids import payload_id
from blyan.storage.blob_store import BlobStore

_integrity_failure = 7  # exit code, docs/cli.md


def add_commands(verbs: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register the group."""
    group = verbs.add_parser("blob", parents=[common, readable], help="the blobs of this node and their space")
    commands = group.add_subparsers(metavar="VERB", required=True)
    listed = commands.add_parser("list", parents=[common, readable], help="every stored payload")
    listed.set_defaults(run=_list)
    verified = commands.add_parser("verify", parents=[common, readable], help="hash stored payloads again")
    verified.add_argument("payload", metavar="ID", nargs="*", type=payload_id)
    verified.add_argument("--all", action="store_true", help="every payload, unfinished ones too")
    verified.set_defaults(run=_verify)
    pinned = commands.add_parser("pin", parents=[common, readable], help="keep a payload whatever is swept")
    pinned.add_argument("payload", metavar="ID", type=payload_id)
    pinned.add_argument("--why", default="pinned by hand", help="up to 200 characters")
    pinned.set_defaults(run=_pin)
    unpinned = commands.add_parser("unpin", parents=[common, readable], help="let a pinned payload go")
    unpinned.add_argument("payload", metavar="ID", type=payload_id)
    unpinned.set_defaults(run=_unpin)
    swept = commands.add_parser("sweep", parents=[common, readable], help="remove payloads that nothing needs")
    swept.add_argument("--dry-run", action="store_true", help="only say which")
    swept.add_argument("--yes", action="store_true", help="do it")
    swept.set_defaults(run=_sweep)
    used = commands.add_parser("usage", parents=[common, readable], help="what the blob store takes of the disk")
    used.set_defaults(run=_usage)


def _list(options: argparse.Namespace, output: Output) -> int:
    ground = open_ground(options.data_dir)
    used, pinned = payloads_in_use(ground), ground.store.pins()
    rows = [["PAYLOAD", "BYTES", "NEEDED BY"]]
    values: list[dict[str, Any]] = []
    for payload in ground.store.payloads():
        why = pinned.get(payload) or used.get(payload)
        values.append({"payload": payload, "bytes": ground.store.size(payload), "needed_by": why})
        rows.append([payload, byte_size(ground.store.size(payload)), why or "-"])
    output.data(values, table(rows))
    return 0


def _verify(options: argparse.Namespace, output: Output) -> int:
    if bool(options.payload) == bool(options.all):
        raise UsageMistake(
            "blob verify: expected payload ids or --all, found " + ("both" if options.all else "neither")
        )
    store = BlobStore(open_ground(options.data_dir).store.folder)
    chosen = list(store.payloads()) if options.all else list(options.payload)
    bad: list[Fault] = []
    progress = output.progress("blobs")
    for done, payload in enumerate(chosen):
        try:
            store.verify(payload)
        except IntegrityFault as fault:
            bad.append(fault)
        progress(done + 1, len(chosen))
    for payload in store.unfinished() if options.all else ():
        try:
            store.verify_unfinished(payload)
        except IntegrityFault as fault:
            bad.append(fault)
    if options.all:
        store.pins()
    for fault in bad:
        output.note(f"blyan: {fault.message}")
    failures = [{"code": fault.code, "message": fault.message, **fault.detail} for fault in bad]
    text = f"{len(chosen) - len(bad)} of {len(chosen)} payloads match their ids"
    output.data({"blobs": len(chosen), "corrupt": failures}, text)
    return _integrity_failure if bad else 0


def _pin(options: argparse.Namespace, output: Output) -> int:
    with claimed(options.data_dir):
        ground = open_ground(options.data_dir)
        ground.store.size(options.payload)  # one that is not here cannot be kept
        ground.store.pin(options.payload, options.why)
    output.data({"payload": options.payload, "why": options.why}, f"pinned {options.payload}: {options.why}")
    return 0


def _unpin(options: argparse.Namespace, output: Output) -> int:
    with claimed(options.data_dir):
        changed = open_ground(options.data_dir).store.unpin(options.payload)
    output.data({"payload": options.payload, "changed": changed}, "unpinned" if changed else "was not pinned")
    return 0


def _sweep(options: argparse.Namespace, output: Output) -> int:
    if not options.dry_run and not options.yes:
        raise UsageMistake("blob sweep: expected --dry-run or --yes, because it deletes, found neither")
    with claimed(options.data_dir):
        ground = open_ground(options.data_dir)
        swept = ground.store.sweep(list(payloads_in_use(ground)), dry_run=options.dry_run)
    total = sum(blob.length for blob in swept)
    verb = "would remove" if options.dry_run else "removed"
    lines = [*(f"{verb} {blob.payload} ({byte_size(blob.length)})" for blob in swept)]
    lines.append(f"{verb} {len(swept)} payloads, {byte_size(total)}")
    output.data(
        {"dry_run": options.dry_run, "bytes": total, "removed": [asdict(blob) for blob in swept]}, "\n".join(lines)
    )
    return 0


def _usage(options: argparse.Namespace, output: Output) -> int:
    found = open_ground(options.data_dir).store.usage()
    rows = [
        ["blobs", str(found.blobs), byte_size(found.blob_bytes)],
        ["tile indexes", "", byte_size(found.index_bytes)],
        ["unfinished", str(found.partials), byte_size(found.partial_bytes)],
        ["left by crashes", "", byte_size(found.leftover_bytes)],
        ["together", "", byte_size(found.bytes)],
        ["free on the disk", "", byte_size(found.free_bytes)],
    ]
    output.data({**asdict(found), "bytes": found.bytes}, table(rows))
    return 0
