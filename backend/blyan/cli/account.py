"""`blyan account balance|statement|credit|reverse`: one account of this node's books, or one's own on another node."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from blyan.cli import account_client
from blyan.cli.output import Output, table
from blyan.cli.wallet import add_sign_in
from blyan.ledger import reading, statement
from blyan.ledger.accounts import Account
from blyan.ledger.store import Session
from blyan.node import books
from blyan.node.config import read_config
from blyan.node.ledger import AnyStore, open_store
from blyan.primitives import limits
from blyan.primitives.amount import USD, asset, parse, shown
from blyan.primitives.clock import system_entropy, system_seconds
from blyan.primitives.errors import Denied, InvalidInput, NotFound, UsageMistake

if TYPE_CHECKING:
    from blyan.cli.sign_in import SignedIn

_signs_in: Final = re.compile(r"(eip155:[1-9][0-9]{0,15}:)?0x[0-9a-fA-F]{40}")
_lines_default: Final = 50
_balance_fields: Final = frozenset({"account", "asset", "balance", "held", "available", "holds"})
_hold_fields: Final = frozenset({"record", "amount", "until", "note"})
_line_fields: Final = frozenset({"record", "time", "kind", "key", "note", "amount", "held", "balance"})


def add_commands(verbs: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register the group."""
    group = verbs.add_parser("account", parents=[common, readable], help="an account in the books: balance, history")
    commands = group.add_subparsers(metavar="VERB", required=True)
    balance = commands.add_parser("balance", parents=[common, readable], help="what it has, and what is held of it")
    balance.set_defaults(run=_balance)
    history = commands.add_parser("statement", parents=[common, readable], help="what happened to it, newest first")
    history.add_argument("--before", metavar="RECORD", type=int, help="go on before this record")
    history.add_argument("--limit", metavar="N", type=int, default=_lines_default, help=f"default: {_lines_default}")
    history.add_argument("--csv", action="store_true", help="all of it, as CSV")
    history.set_defaults(run=_statement)
    for each in (balance, history):
        each.add_argument("account", metavar="ACCOUNT", nargs="?", help="0x…, eip155:CHAIN:0x…, or income:inference …")
        each.add_argument("--node", metavar="URL", help="your own account on this node: --wallet, --api-key-file")
        add_sign_in(each)
    credited = commands.add_parser("credit", parents=[common, readable], help="give somebody money by hand")
    credited.add_argument("account", metavar="ACCOUNT", help="0x… or eip155:CHAIN:0x…")
    credited.add_argument("amount", metavar="AMOUNT", help="in USD, such as 5 or 0.25")
    credited.add_argument("--note", metavar="TEXT", default="", help="public, as all of the books is")
    credited.add_argument("--key", metavar="KEY", help="the same key is done once (default: a new one)")
    credited.set_defaults(run=_credit)
    back = commands.add_parser("reverse", parents=[common, readable], help="move back what one record moved")
    back.add_argument("record", metavar="RECORD", type=int, help="a credit, or an answer's charge: see the statement")
    back.add_argument("--note", metavar="TEXT", default="", help="public, as all of the books is")
    back.set_defaults(run=_reverse)


def _balance(options: argparse.Namespace, output: Output) -> int:
    value: dict[str, Any]
    if options.node is not None:
        value = account_client.get(_node(options), "/account", _balance_fields, "holds", _hold_fields)
    else:
        store, name = _opened(options), name_in_books(options.account)
        try:
            with store.session() as session, session.reading():
                account = _found(session, name)
                holds = statement.holds(session, account, limits.holds_shown_max)
        finally:
            store.close()
        value = {"account": name, **statement.balance_value(account, holds)}
    has, held = f"{value['available']} {value['asset']}", value["held"]
    text = f"{has} available: balance {value['balance']}, held {held}"
    rows = [["HOLD", "AMOUNT", "UNTIL", "NOTE"]]
    rows += [
        [str(each["record"]), str(each["amount"]), _time(each["until"]), str(each["note"])] for each in value["holds"]
    ]
    output.data(value, text + (f"\n{table(rows)}" if value["holds"] else ""))
    return 0


def _statement(options: argparse.Namespace, output: Output) -> int:
    for name, least, most in (("before", 0, limits.canonical_integer_max), ("limit", 1, limits.statement_lines_max)):
        given = getattr(options, name)
        if given is not None and not least <= given <= most:
            raise UsageMistake(f"--{name}: expected {least} to {most}, found {given}")
    if options.node is not None:
        return _remote_statement(options, output)
    store, name = _opened(options), name_in_books(options.account)
    try:
        if options.csv:
            _write_csv(store, name, options.before)
            return 0
        with store.session() as session, session.reading():
            account = _found(session, name)
            page = statement.page(session, account, options.before, options.limit)
    finally:
        store.close()
    scale = asset(account.terms.asset).scale
    entries = [statement.value_of(line, scale) for line in page.lines]
    _say_entries({"account": name, "entries": entries, "next": page.following}, output)
    return 0


def _remote_statement(options: argparse.Namespace, output: Output) -> int:
    before = {} if options.before is None else {"before": str(options.before)}
    node = _node(options)
    if not options.csv:
        query = {**before, "limit": str(options.limit)}
        fields = frozenset({"entries", "next"})
        _say_entries(account_client.get(node, "/account/statement", fields, "entries", _line_fields, query), output)
        return 0
    for piece in account_client.pieces(node, "/account/statement", {**before, "format": "csv"}):
        sys.stdout.write(piece)
    return 0


def _credit(options: argparse.Namespace, output: Output) -> int:
    if not _signs_in.fullmatch(options.account):
        raise UsageMistake(f"ACCOUNT: expected 0x and 40 hex digits, found {options.account[:80]!r}")
    try:
        amount = parse(options.amount, USD.scale)
    except InvalidInput as reason:
        raise UsageMistake(reason.message.replace("amount:", "AMOUNT:", 1)) from None
    if amount <= 0:
        raise UsageMistake(f"AMOUNT: expected more than 0, found {options.amount}")
    key = options.key or system_entropy(8).hex()
    store = _opened(options)
    try:
        done = books.credit(store, options.account, amount, key=key, note=options.note, now=system_seconds)
        with store.session() as session, session.reading():
            account = reading.account(session, books.user_account(options.account))
    finally:
        store.close()
    if done.refusal is not None:
        raise Denied(f"credit: {done.refusal.message}")
    has = shown(account.balance, USD.scale)
    value = {"record": done.number, "key": key, "account": account.terms.name, "replayed": done.replayed}
    how = "was credited before, by the same key" if done.replayed else "credited"
    text = f"{shown(amount, USD.scale)} USD {how}: record {done.number}, key {key}; the balance is {has}"
    output.data({**value, "amount": shown(amount, USD.scale), "balance": has}, text)
    return 0


def _reverse(options: argparse.Namespace, output: Output) -> int:
    store = _opened(options)
    try:
        done = books.reverse(store, options.record, key=system_entropy(8).hex(), note=options.note, now=system_seconds)
        if done.refusal is not None or done.number is None:
            raise Denied(f"reverse: {done.refusal.message if done.refusal else 'not done'}")
        with store.session() as session, session.reading():
            entries = reading.record(session, done.number).entries
            touched = {each.account for each in entries}
            names = {each.number: each.terms for each in reading.accounts(session) if each.number in touched}
    finally:
        store.close()
    moved = [(names[each.account].name, shown(each.amount, asset(names[each.account].asset).scale)) for each in entries]
    value = {"record": done.number, "reversed": options.record, "moved": [list(each) for each in moved]}
    lines = [f"{options.record} reversed: record {done.number}", *(f"  {name}: {amount}" for name, amount in moved)]
    output.data(value, "\n".join(lines))
    return 0


def _opened(options: argparse.Namespace) -> AnyStore:
    store = open_store(options.data_dir, read_config(options.data_dir).ledger.database or None)
    try:
        store.want_current()
    except BaseException:
        store.close()
        raise
    return store


def name_in_books(account: str | None) -> str:
    """What the books call an account that is given as people write it: an address, or a name of the node's own."""
    if account is None:
        raise UsageMistake("ACCOUNT: expected one of this node's books, or --node URL, found neither")
    return books.user_account(account) if _signs_in.fullmatch(account) else account


def _found(session: Session, name: str) -> Account:
    try:
        return reading.account(session, name)
    except NotFound as reason:
        raise NotFound(
            reason.message,
            hint=f"accounts are opened when money first comes; the node's own names are {', '.join(books.own_names)}",
        ) from None


def _node(options: argparse.Namespace) -> account_client.Remote:
    if options.account is not None:
        raise UsageMistake("--node: expected no ACCOUNT, as it is your own, found one")
    if not (options.wallet or options.wallet_file or options.api_key_file):
        raise UsageMistake("--node: expected --wallet, or --api-key-file with a key of the scope `account`, found none")
    account_client.want_address(options.node)
    return account_client.Remote(options.node, asyncio.run(_entered(options)).headers)


async def _entered(options: argparse.Namespace) -> SignedIn:
    from aiohttp import ClientSession, DummyCookieJar  # where another node is asked

    from blyan.cli.sign_in import signed_in

    async with ClientSession(cookie_jar=DummyCookieJar()) as session:
        who = await signed_in(options, session, options.node)
        assert who is not None, "asked for"
        return who


def _write_csv(store: AnyStore, name: str, before: int | None) -> None:
    sys.stdout.write(statement.csv_header)
    while True:
        with store.session() as session, session.reading():
            account = _found(session, name)
            page = statement.page(session, account, before, limits.statement_lines_max)
        scale = asset(account.terms.asset).scale
        sys.stdout.writelines(statement.csv_line(line, scale) for line in page.lines)
        if page.following is None:
            return
        before = page.following


def _say_entries(value: dict[str, Any], output: Output) -> None:
    rows = [["RECORD", "TIME", "KIND", "AMOUNT", "HELD", "BALANCE", "NOTE"]]
    for each in value["entries"]:
        amounts = [str(each[name]) for name in ("amount", "held", "balance")]
        why = str(each["note"] or each["key"])
        rows.append([str(each["record"]), _time(each["time"]), str(each["kind"]), *amounts, why])
    more = "" if value["next"] is None else f"\nolder ones: --before {value['next']}"
    output.data(value, table(rows) + more if value["entries"] else "nothing yet")


def _time(seconds: object) -> str:
    if type(seconds) is not int or not 0 <= seconds < 1 << 37:
        return "?"  # another node's word
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
