"""`blyan ledger show|verify|export`: the books, recomputed and as text."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from blyan.cli.account import name_in_books
from blyan.cli.output import Output, table
from blyan.ledger import audit, export, reading, seal
from blyan.node.config import read_config
from blyan.node.data_directory import open_ground
from blyan.node.ledger import AnyStore, open_store, promises
from blyan.node.schema import schema_of
from blyan.primitives.amount import asset, shown

_integrity_failure = 7  # exit code, docs/cli.md


def add_commands(verbs: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register the group."""
    group = verbs.add_parser("ledger", parents=[common, readable], help="the books: show, verify, export")
    commands = group.add_subparsers(metavar="VERB", required=True)
    looked = commands.add_parser("show", parents=[common, readable], help="the trial balance and the last seal")
    looked.add_argument("--at", metavar="SECONDS", type=int, help="as of this time, in seconds since 1970")
    looked.set_defaults(run=_show)
    verified = commands.add_parser(
        "verify", parents=[common, readable], help="recompute every balance and root, and name the bad record"
    )
    verified.set_defaults(run=_verify)
    exported = commands.add_parser("export", parents=[common], help="every record as a line of JSON, or CSV")
    exported.add_argument("--csv", action="store_true", help="one line for each change of an account")
    exported.add_argument("--account", metavar="ACCOUNT", help="only this one's changes, as CSV")
    exported.set_defaults(run=_export)
    for each in (looked, verified, exported):
        each.add_argument("--database", metavar="URL", help="books in PostgreSQL (default: where the node's are)")


def _opened(options: argparse.Namespace) -> AnyStore:
    """Those of `--database`, else of the node's configuration, else the file in its data directory."""
    database = options.database or read_config(options.data_dir).ledger.database or None
    store = open_store(options.data_dir, database)
    try:
        store.want_current()
    except BaseException:
        store.close()
        raise
    return store


def _show(options: argparse.Namespace, output: Output) -> int:
    store = _opened(options)
    try:
        with store.session() as session, session.reading():
            totals = reading.trial_balance(session, options.at)
            size, _ = reading.size_and_time(session)
            newest = seal.last_seal(session)
    finally:
        store.close()
    rows = [["ASSET", "ACCOUNTS", "HAVE", "OWE", "HELD", ""]]
    for each in totals:
        scale = asset(each.asset).scale
        amounts = [shown(value, scale) for value in (each.has, each.owes, each.held_out)]
        rows.append([each.asset, str(each.accounts), *amounts, "balanced" if each.balanced else "NOT BALANCED"])
    sealed = f"{newest.size} sealed with root {newest.root.hex()}" if newest else "none sealed yet"
    value = {
        "records": size,
        "sealed": newest.size if newest else 0,
        "root": newest.root.hex() if newest else None,
        "assets": [
            {
                "asset": each.asset,
                "accounts": each.accounts,
                "have": str(each.has),
                "owe": str(each.owes),
                "held": str(each.held_out),
                "balanced": each.balanced,
            }
            for each in totals
        ],
    }
    output.data(value, f"{table(rows)}\n{size} records, {sealed}")
    return 0 if all(each.balanced for each in totals) else _integrity_failure


def _verify(options: argparse.Namespace, output: Output) -> int:
    promised: tuple[audit.Promise, ...] = ()
    if schema_of(options.data_dir) is not None:
        promised = promises(open_ground(options.data_dir).chains)
    store = _opened(options)
    try:
        with store.session() as session:
            report = audit.verify(session, promised, output.progress("records"))
    finally:
        store.close()
    for sentence in report.faults:
        output.note(f"blyan: {sentence}")
    value = {
        "records": report.records,
        "entries": report.entries,
        "accounts": report.accounts,
        "seals": report.seals,
        "sealed": report.sealed,
        "promised": max((each.size for each in promised), default=0),
        "faults": list(report.faults),
    }
    verdict = f"{len(report.faults)} faults" if report.faults else "no faults"
    text = f"{report.records} records, {report.entries} entries, {report.accounts} accounts, {report.sealed} sealed"
    output.data(value, f"{text}: {verdict}")
    return _integrity_failure if report.faults else 0


def _export(options: argparse.Namespace, output: Output) -> int:
    store = _opened(options)
    try:
        with store.session() as session, session.reading():
            size, _ = reading.size_and_time(session)
            as_csv = options.csv or options.account is not None
            account = None if options.account is None else name_in_books(options.account)
            for line in export.csv_lines(session, account) if as_csv else export.json_lines(session):
                sys.stdout.write(line + "\n")
            output.note(f"{size} records")
    finally:
        store.close()
    return 0
