"""`blyan chain status|verify`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from blyan.chain.entries import chain_names
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
