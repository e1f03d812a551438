"""`blyan chain status|verify|prove|find|export|import`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from blyan.chain.archive import export_archive
from blyan.chain.entries import chain_names
from blyan.chain.log import Log
from blyan.chain.merkle import leaf_hash
from blyan.chain.proofs import check_consistency, check_inclusion, consistency_path, inclusion_path
from blyan.cli.output import Output, byte_size, table
from blyan.cli.passphrase import passphrase_of
from blyan.node.config import read_config
from blyan.node.data_directory import open_ground
from blyan.node.indexing import Finder, Query, open_reader
from blyan.node.joining import import_chains
from blyan.node.writer import opened
from blyan.primitives.clock import system_entropy, system_seconds
from blyan.primitives.errors import InvalidInput, UsageMistake
from blyan.primitives.ids import entry_id, public_key


def add_commands(verbs: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register the group."""
    group = verbs.add_parser("chain", parents=[common, readable], help="the append-only chains of this node")
    commands = group.add_subparsers(metavar="VERB", required=True)
    status = commands.add_parser("status", parents=[common, readable], help="size and root of each chain")
    status.set_defaults(run=_status)
    verify = commands.add_parser("verify", parents=[common, readable], help="recompute roots, signatures and validity")
    verify.set_defaults(run=_verify)
    prove = commands.add_parser("prove", parents=[common, readable], help="an inclusion or consistency proof, checked")
    prove.add_argument("chain", choices=chain_names)
    prove.add_argument("index", metavar="INDEX", type=int, nargs="?", help="an entry that is in the chain")
    prove.add_argument("--from", dest="begin", type=int, metavar="M", help="the first M entries begin the first N")
    prove.add_argument("--to", dest="end", type=int, metavar="N", help="all, if unsaid")
    prove.set_defaults(run=_prove)
    found = commands.add_parser("find", parents=[common, readable], help="entries by id, model, layer, expert, author")
    found.add_argument("identity", metavar="ID", nargs="?", type=entry_id)
    found.add_argument("--chain", choices=chain_names)
    found.add_argument("--model", metavar="NAME")
    found.add_argument("--layer", type=int, metavar="N")
    found.add_argument("--expert", type=int, metavar="N")
    found.add_argument("--author", type=public_key, metavar="KEY")
    found.add_argument("--limit", type=int, default=100, metavar="N")
    found.set_defaults(run=_find)
    snapshot = commands.add_parser("snapshot", parents=[common, readable], help="store and promise the present state")
    snapshot.set_defaults(run=_snapshot)
    exported = commands.add_parser("export", parents=[common, readable], help="write the chains to one file")
    exported.add_argument("file", metavar="FILE", type=Path)
    exported.add_argument("--from-snapshot", action="store_true", help="only the state and what came after it")
    exported.set_defaults(run=_export)
    imported = commands.add_parser("import", parents=[common, readable], help="verify an archive and take it over")
    imported.add_argument("file", metavar="FILE", type=Path)
    imported.add_argument("--trust", type=public_key, metavar="KEY", help="the sequencer's key, for another network")
    imported.set_defaults(run=_import)


def _status(options: argparse.Namespace, output: Output) -> int:
    chains = open_ground(options.data_dir).chains
    values = [
        {
            "chain": name,
            "origin": chains.logs[name].origin,
            "size": chains.logs[name].checkpoint.size,
            "root": chains.logs[name].checkpoint.root.hex(),
        }
        for name in chain_names
    ]
    rows = [["CHAIN", "ENTRIES", "ROOT"], *([str(v["chain"]), str(v["size"]), str(v["root"])] for v in values)]
    joint, state = chains.joint, chains.joint.state
    value = {
        "network": chains.network,
        "sequencer": chains.state.sequencer or chains.author,
        "height": joint.height,
        "epoch": joint.epoch,
        "state": None if state is None else {"root": state.payload, "bytes": state.length, "sizes": dict(state.sizes)},
        "first": chains.first,
        "chains": values,
    }
    lines = [f"network {chains.network}, sequencer {value['sequencer']}, commit {joint.height}", table(rows)]
    if state is not None:
        lines.append(f"state {state.payload} after {sum(state.sizes.values())} entries")
    if any(chains.first.values()):
        lines.append(f"joined from a snapshot: entries are held from {chains.first}")
    output.data(value, "\n".join(lines))
    return 0


def _find(options: argparse.Namespace, output: Output) -> int:
    ground = open_ground(options.data_dir)
    index = open_reader(ground.folder)
    try:
        finder = Finder(ground.chains, index)
        query = Query(options.chain, options.model, options.layer, options.expert, options.author)
        if options.identity is not None and query != Query():
            raise UsageMistake("chain find: expected an id, or what to look for, found both")
        found = [finder.by_id(options.identity)] if options.identity is not None else finder.find(query, options.limit)
    finally:
        if index is not None:
            index.close()
    rows = [["CHAIN", "INDEX", "TYPE", "ID"], *([f.chain, str(f.position), f.entry.type, f.identity] for f in found)]
    values = [{"chain": f.chain, "index": f.position, "id": f.identity, "entry": orjson.loads(f.raw)} for f in found]
    output.data(values, table(rows))
    return 0


def _snapshot(options: argparse.Namespace, output: Output) -> int:
    config = read_config(options.data_dir)
    passphrase = passphrase_of(config)
    with opened(config, now=system_seconds, entropy=system_entropy, passphrase=passphrase) as ground:
        ground.sequencer.close()  # one thread at a time commits
        root = ground.chains.snapshot(ground.key)
    output.data(
        {"root": root.payload, "bytes": root.length, "sizes": dict(root.sizes)},
        f"state {root.payload} after {sum(root.sizes.values())} entries, {byte_size(root.length)}",
    )
    return 0


def _export(options: argparse.Namespace, output: Output) -> int:
    chains = open_ground(options.data_dir).chains
    export_archive(chains, options.file, from_snapshot=options.from_snapshot)
    size = options.file.stat().st_size
    value = {"network": chains.network, "height": chains.joint.height, "file": str(options.file), "bytes": size}
    output.data(value, f"commit {chains.joint.height} of {chains.network} in {options.file}, {byte_size(size)}")
    return 0


def _import(options: argparse.Namespace, output: Output) -> int:
    config = read_config(options.data_dir)
    report = import_chains(config, options.file, options.trust, now=system_seconds, entropy=system_entropy)
    output.data(asdict(report), f"verified and taken over: {options.file}")
    return 0


def _verify(options: argparse.Namespace, output: Output) -> int:
    reports = open_ground(options.data_dir).chains.verify()
    lines = [
        f"{report.chain}: {report.size} entries, {report.signatures} signatures and {report.tiles} tiles verified, "
        f"root {report.root}"
        for report in reports
    ]
    output.data([asdict(report) for report in reports], "\n".join(lines))
    return 0


def _prove(options: argparse.Namespace, output: Output) -> int:
    if (options.index is None) == (options.begin is None) or (options.end is not None and options.begin is None):
        raise UsageMistake("chain prove: expected an INDEX, or --from M with or without --to N")
    log = open_ground(options.data_dir).chains.logs[options.chain]
    (_prove_inclusion if options.begin is None else _prove_consistency)(log, options, output)
    return 0


def _prove_inclusion(log: Log, options: argparse.Namespace, output: Output) -> None:
    size, root = log.checkpoint.size, log.checkpoint.root
    path = inclusion_path(log.node, options.index, size)
    leaf = leaf_hash(next(iter(log.entries(options.index, options.index + 1))))
    check_inclusion(leaf, options.index, size, path, root)
    value = {
        "origin": log.origin,
        "index": options.index,
        "size": size,
        "leaf": leaf.hex(),
        "path": [beside.hex() for beside in path],
        "root": root.hex(),
    }
    lines = [f"entry {leaf.hex()} is number {options.index} of {size} in {log.origin}", *(f"  {h.hex()}" for h in path)]
    output.data(value, "\n".join([*lines, f"root {root.hex()}"]))


def _prove_consistency(log: Log, options: argparse.Namespace, output: Output) -> None:
    size = log.checkpoint.size
    begin, end = options.begin, size if options.end is None else options.end
    if not 0 < begin <= end <= size:
        raise InvalidInput(f"consistency proof: expected 1 to {size} entries, the fewer first, found {begin} and {end}")
    path = consistency_path(log.node, begin, end)
    first, second = log.edge_at(begin).root(), log.edge_at(end).root()
    check_consistency(begin, first, end, second, path)
    value = {
        "origin": log.origin,
        "from": begin,
        "to": end,
        "from_root": first.hex(),
        "to_root": second.hex(),
        "path": [beside.hex() for beside in path],
    }
    said = f"the first {begin} entries of {log.origin} are the beginning of its first {end}"
    lines = [said, f"root {first.hex()}", *(f"  {h.hex()}" for h in path), f"root {second.hex()}"]
    output.data(value, "\n".join(lines))
