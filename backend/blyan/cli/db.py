"""`blyan db check|rebuild|backup|restore|migrate`: the files of a node."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blyan.chain.audit import restore_snapshot
from blyan.cli.output import Output, byte_size
from blyan.node.backup import back_up, restore
from blyan.node.checkup import Checkup, check_up
from blyan.node.config import read_config
from blyan.node.data_directory import open_ground
from blyan.node.indexing import rebuild
from blyan.node.keys import next_key, node_key, read_key
from blyan.node.ledger import migrate_books
from blyan.node.schema import schema_of
from blyan.node.writer import bring_to_schema, claimed, left_unclean
from blyan.primitives.clock import system_entropy, system_seconds
from blyan.primitives.errors import NotFound

_integrity_failure = 7  # exit code, docs/cli.md


def add_commands(verbs: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register the group."""
    group = verbs.add_parser(
        "db", parents=[common, readable], help="the node's files: check, rebuild, back up, restore"
    )
    commands = group.add_subparsers(metavar="VERB", required=True)
    checked = commands.add_parser("check", parents=[common, readable], help="compare everything that is kept")
    checked.add_argument("--deep", action="store_true", help="hash every blob again as well")
    checked.set_defaults(run=_check)
    rebuilt = commands.add_parser(
        "rebuild", parents=[common, readable], help="make the index, and a damaged snapshot, again"
    )
    rebuilt.set_defaults(run=_rebuild)
    backed = commands.add_parser(
        "backup", parents=[common, readable], help="copy everything, also beside a running node"
    )
    backed.add_argument(
        "folder", metavar="DIR", type=Path, help="new, or an earlier backup, which is brought up to date"
    )
    backed.add_argument("--without-keys", action="store_true", help="what is restored from it can only read")
    backed.set_defaults(run=_backup)
    restored = commands.add_parser(
        "restore", parents=[common, readable], help="make a new data directory from a backup"
    )
    restored.add_argument("folder", metavar="DIR", type=Path)
    restored.set_defaults(run=_restore)
    migrated = commands.add_parser(
        "migrate", parents=[common, readable], help="bring an older data directory up to date"
    )
    migrated.set_defaults(run=_migrate)


def _check(options: argparse.Namespace, output: Output) -> int:
    found: Checkup = check_up(
        open_ground(options.data_dir), deep=options.deep, database=read_config(options.data_dir).ledger.database
    )
    unclean = left_unclean(options.data_dir)
    notes = [*found.notes, *([unclean] if unclean is not None else [])]
    if next_key(options.data_dir).exists():
        waiting = read_key(next_key(options.data_dir)).public
        notes.append(f"a rotation to key {waiting} has not ended: the next start finishes or undoes it")
    for sentence in found.damage:
        output.note(f"blyan: {sentence}")
    for sentence in notes:
        output.note(sentence)
    value = {"damage": found.damage, "notes": notes, "blobs": found.blobs, "bytes": found.bytes}
    verdict = f"{len(found.damage)} faults" if found.damage else "no faults"
    output.data(value, f"{found.blobs} blobs, {byte_size(found.bytes)}: {verdict}")
    return _integrity_failure if found.damage else 0


def _rebuild(options: argparse.Namespace, output: Output) -> int:
    with claimed(options.data_dir):
        ground = open_ground(options.data_dir, writable=True)
        restored = ground.chains.snapshot_damage is not None
        if restored:
            restore_snapshot(ground.folder / "chain", ground.store)
        rebuild(ground.folder, ground.chains).close()
        entries = sum(log.checkpoint.size - log.first for log in ground.chains.logs.values())
    text = f"index made again: {entries} entries" + ("; the snapshot of the state too" if restored else "")
    output.data({"entries": entries, "snapshot": restored}, text)
    return 0


def _backup(options: argparse.Namespace, output: Output) -> int:
    ground = open_ground(options.data_dir)
    config, progress = read_config(options.data_dir), output.progress("blobs")
    database = config.ledger.database
    copied = back_up(ground, options.folder, keys=not options.without_keys, progress=progress, database=database)
    if config.accounts.redis_url:
        output.note("sessions in Redis are not in it: people sign in again")
    blobs = f"{copied.copied} of {copied.blobs} blobs copied"
    text = f"commit {copied.height} of {copied.network} in {options.folder}: {blobs}"
    output.data(asdict(copied), text)
    for sentence in copied.damaged:
        output.note(f"blyan: {sentence}")
    for sentence in copied.notes:
        output.note(sentence)
    if not options.without_keys and not read_key(node_key(options.folder)).encrypted:
        output.note(f"{options.folder} holds the key in plain: keep it as you keep the key")
    return _integrity_failure if copied.damaged else 0


def _restore(options: argparse.Namespace, output: Output) -> int:
    copied = restore(read_config(options.data_dir), options.folder, output.progress("blobs"))
    blobs = f"{copied.copied} of {copied.blobs} blobs, verified"
    output.data(asdict(copied), f"commit {copied.height} of {copied.network} in {options.data_dir}: {blobs}")
    for sentence in copied.damaged:
        output.note(f"blyan: {sentence}")
    for sentence in copied.notes:
        output.note(sentence)
    if not copied.may_write:
        output.note(f"{options.data_dir} only reads these chains: its key is not the sequencer's, or none was saved")
    return _integrity_failure if copied.damaged else 0


def _migrate(options: argparse.Namespace, output: Output) -> int:
    before = schema_of(options.data_dir)
    if before is None:
        raise NotFound(f"data directory {options.data_dir}: expected one to migrate, found none")
    config = read_config(options.data_dir)
    with claimed(options.data_dir) as claim:
        bring_to_schema(claim, config, system_entropy, system_seconds)
        books = migrate_books(options.data_dir, system_seconds, config.ledger.database)
        claim.settled = claim.since_ns is None
    ground = open_ground(options.data_dir)
    value = {"before": before, "schema": 1, "network": ground.chains.network, "books": list(books)}
    text = f"{options.data_dir}: schema 1" + (" already" if before == 1 else ", migrated")
    output.data(value, text + (f"; books: {', '.join(books)}" if books else ""))
    return 0
