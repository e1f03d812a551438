"""`/account`: what the caller's own account has in the books of this node, and everything that happened to it.

Whose account it is says the session or the key (scope `account`); no parameter names another one.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from aiohttp import web

from blyan.api.caller import account_of, caller_key
from blyan.api.errors import json_response
from blyan.api.sending import send_piece
from blyan.api.state import node_of
from blyan.ledger import reading, statement
from blyan.ledger.accounts import Account, Terms
from blyan.ledger.store import Session
from blyan.node.books import NodeBooks, user_account
from blyan.primitives import limits
from blyan.primitives.amount import USD, shown
from blyan.primitives.errors import Denied, InvalidInput, NotFound

_lines_default: Final = 50
_columns: Final = "record,time,kind,key,note,amount,held,balance\r\n"


async def balance(request: web.Request) -> web.Response:
    """Balance, what is held of it and by which holds, and what can be spent now."""
    _want_query(request, frozenset())
    books, caller = _books(request), request[caller_key]
    name = user_account(account_of(request))
    charges = node_of(request).charges
    if charges is not None:
        await charges.welcome(account_of(request))

    def read(session: Session) -> tuple[Account, list[statement.Standing]]:
        account = _account(session, name)
        return account, statement.holds(session, account, limits.holds_shown_max)

    account, holds = await books.read(read)
    return json_response(
        {
            "account": caller.account,
            "role": caller.role,
            "asset": USD.code,
            "scale": USD.scale,
            "balance": _shown(account.balance),
            "held": _shown(account.held_out),
            "available": _shown(account.available),
            "holds": [
                {
                    "record": each.record,
                    "amount": _shown(each.amount),
                    "since": each.since,
                    "until": each.until,
                    "note": each.note,
                }
                for each in holds
            ],
        }
    )


async def entries(request: web.Request) -> web.StreamResponse:
    """One line for each record that changed the account, newest first; `format=csv`: all of them as a file."""
    _want_query(request, {"before", "limit", "format"})
    before = _number(request, "before", limits.canonical_integer_max)
    books, name = _books(request), user_account(account_of(request))
    form = request.query.get("format", "json")
    if form == "csv":
        if "limit" in request.query:
            raise InvalidInput("limit: expected none with format=csv, which has every line, found one")
        return await _csv(request, books, name, before)
    if form != "json":
        raise InvalidInput(f"format: expected json or csv, found {form[:40]!r}")
    count = _number(request, "limit", limits.statement_lines_max, least=1)
    page = await _page(books, name, before, _lines_default if count is None else count)
    return json_response({"entries": [_line(line) for line in page.lines], "next": page.following})


async def _csv(request: web.Request, books: NodeBooks, name: str, before: int | None) -> web.StreamResponse:
    """Page by page, so that a long history takes neither memory nor one long look at the books."""
    page = await _page(books, name, before, limits.statement_lines_max)
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/csv; charset=utf-8",
            "Content-Disposition": 'attachment; filename="statement.csv"',
            "Cache-Control": "no-store",
        }
    )
    await response.prepare(request)
    await send_piece(request, response, _columns.encode())
    while page.lines:
        await send_piece(request, response, "".join(map(_row, page.lines)).encode())
        if page.following is None:
            break
        page = await _page(books, name, page.following, limits.statement_lines_max)
    await response.write_eof()
    return response


async def _page(books: NodeBooks, name: str, before: int | None, count: int) -> statement.Page:
    return await books.read(lambda session: statement.page(session, _account(session, name), before, count))


def _account(session: Session, name: str) -> Account:
    """The account, or an empty one: it is opened when money first comes."""
    try:
        return reading.account(session, name)
    except NotFound:
        return Account(-1, Terms(name, USD.code))


def _line(line: statement.Line) -> dict[str, Any]:
    return {
        "record": line.record,
        "time": line.time,
        "kind": line.kind,
        "key": line.key,
        "note": line.note,
        "amount": _shown(line.amount),
        "held": _shown(line.held),
        "balance": _shown(line.balance),
    }


def _row(line: statement.Line) -> str:
    time = dt.datetime.fromtimestamp(line.time, tz=dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    amounts = ",".join(map(_shown, (line.amount, line.held, line.balance)))
    return f"{line.record},{time},{line.kind},{_field(line.key)},{_field(line.note)},{amounts}\r\n"


def _field(text: str) -> str:
    """Quoted; what a spreadsheet would take for a formula gets an apostrophe. Keys and notes hold no quotes."""
    return '"' + ("'" + text if text[:1] in tuple("=+-@") else text) + '"'


def _shown(amount: int) -> str:
    return shown(amount, USD.scale)


def _books(request: web.Request) -> NodeBooks:
    books = node_of(request).books
    if books is None:
        raise Denied(
            "account: expected a node that has accounts, found one that is free and open",
            hint="its operator would set accounts.origin",
        )
    return books


def _want_query(request: web.Request, known: frozenset[str] | set[str]) -> None:
    unknown = next((name for name in request.query if name not in known), None)
    if unknown is not None:
        expected = ", ".join(sorted(known)) or "none"
        raise InvalidInput(f"query: expected {expected}, found {unknown[:80]!r}")


def _number(request: web.Request, name: str, most: int, *, least: int = 0) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 16 or not least <= int(text) <= most:
        raise InvalidInput(f"{name}: expected an integer from {least} to {most}, found {text[:40]!r}")
    return int(text)
