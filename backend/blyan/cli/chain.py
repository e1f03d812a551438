"""`blyan chain status|verify|prove`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from blyan.chain.entries import chain_names
from blyan.chain.merkle import leaf_hash
from blyan.chain.proofs import check_inclusion, inclusion_path
from blyan.cli.output import Output, table
from blyan.node.data_directory import open_ground


def add_commands(verbs: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register the group."""
    group = verbs.add_parser("chain", parents=[common, readable], help="the append-only chains of this node")
    commands = group.add_subparsers(metavar="VERB", required=True)
    status = commands.add_parser("status", parents=[common, readable], help="size and root of each chain")
    status.set_defaults(run=_status)
    verify = commands.add_parser("verify", parents=[common, readable], help="recompute roots, signatures and validity")
    verify.set_defaults(run=_verify)
    prove = commands.add_parser("prove", parents=[common, readable], help="an entry's inclusion proof, checked")
    prove.add_argument("chain", choices=chain_names)
    prove.add_argument("index", type=int)
    prove.set_defaults(run=_prove)


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
    output.data(
        {"network": chains.network, "sequencer": chains.author, "chains": values},
        f"network {chains.network}\n{table(rows)}",
    )
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
    log = open_ground(options.data_dir).chains.logs[options.chain]
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
    return 0
