"""`/account`: one's own balance, holds and statement over HTTP, and nobody else's."""

import csv
import io

from aiohttp.test_utils import TestClient

from accounts import SOURCES, Browser, Nodes, code_of
from blyan.api.state import node_key
from blyan.ledger.transfers import Hold, Leg, Post
from blyan.node.books import NodeBooks, income, operator_credit
from blyan.primitives.errors import Unavailable
from nodes import serving_with
from wallets import new_key


def books_of(client: TestClient) -> NodeBooks:
    found = client.server.app[node_key].books  # type: ignore[union-attr]
    assert found is not None
    return found


async def credited(books: NodeBooks, who: str, amount: int, key: str, note: str = "") -> str:
    name = await books.open_user(who)
    assert (await books.submit(Post(key, (Leg(operator_credit, name, amount),), note))).taken
    return name


async def test_balance_and_holds_are_decimal_texts_of_ones_own_account(nodes: Nodes) -> None:
    client = await nodes.start()
    browser = Browser(client)
    signed = await browser.sign_in(new_key())
    empty = await (await browser.ask("GET", "/account")).json()
    assert (empty["balance"], empty["held"], empty["available"], empty["holds"]) == ("0", "0", "0", [])
    name = await credited(books_of(client), signed["account"], 500_012_345, "credit 1")
    held = await books_of(client).submit(Hold("hold 1", Leg(name, income, 12_345), 60, "chat"))
    found = await (await browser.ask("GET", "/account")).json()
    [hold] = found.pop("holds")
    assert found == {
        "account": new_key().address,
        "role": "user",
        "asset": "USD",
        "scale": 8,
        "balance": "5.00012345",
        "held": "0.00012345",
        "available": "5",
    }
    assert hold == {
        "record": held.number,
        "amount": "0.00012345",
        "since": held.time,
        "until": (held.time or 0) + 60,
        "note": "chat",
    }


async def test_a_statement_goes_back_page_by_page_and_whole_as_a_file(nodes: Nodes) -> None:
    client = await nodes.start()
    browser = Browser(client)
    signed = await browser.sign_in(new_key())
    for number in range(5):
        await credited(books_of(client), signed["account"], 10**8, f"credit {number}", f"=1+{number}")
    first = await (await browser.ask("GET", "/account/statement?limit=2")).json()
    assert [each["key"] for each in first["entries"]] == ["credit 4", "credit 3"]
    assert (first["entries"][0]["amount"], first["entries"][0]["balance"]) == ("1", "5")
    rest = await (await browser.ask("GET", f"/account/statement?before={first['next']}")).json()
    assert ([each["key"] for each in rest["entries"]], rest["next"]) == (["credit 2", "credit 1", "credit 0"], None)
    file = await browser.ask("GET", "/account/statement?format=csv")
    assert file.headers["Content-Disposition"].startswith("attachment")
    rows = list(csv.DictReader(io.StringIO(await file.text(), newline="")))
    assert [f"credit {number}" for number in reversed(range(5))] == [row["key"] for row in rows]
    assert rows[0]["note"] == "'=1+4"  # no formula, whoever wrote it


async def test_nobody_reads_the_account_of_another(nodes: Nodes) -> None:
    client = await nodes.start()
    one, other, program = Browser(client), Browser(client), Browser(client)
    rich = await one.sign_in(new_key(1))
    await other.sign_in(new_key(2))
    await credited(books_of(client), rich["account"], 10**8, "credit 1")
    for path in ("/account", "/account/statement", "/account/statement?format=csv"):
        more = "&" if "?" in path else "?"
        for guess in (f"account={rich['account']}", f"name=user:{rich['account'].lower()}", "user=1"):
            assert await code_of(await other.ask("GET", f"{path}{more}{guess}")) == (400, "invalid_input")
        assert "credit 1" not in await (await other.ask("GET", path)).text()
        assert await code_of(await program.ask("GET", path)) == (401, "unauthenticated")
    assert (await (await other.ask("GET", "/account")).json())["balance"] == "0"
    key = await (await other.ask("POST", "/auth/keys", {"name": "x"})).json()
    shown = {"Authorization": f"Bearer {key['key']}"}
    assert await code_of(await program.ask("GET", "/account", **shown)) == (403, "denied")
    key = await (await other.ask("POST", "/auth/keys", {"name": "books", "scopes": ["account"]})).json()
    found = await (await program.ask("GET", "/account", Authorization=f"Bearer {key['key']}")).json()
    assert (found["account"], found["balance"]) == (new_key(2).address, "0")


async def test_what_does_not_fit_is_refused(nodes: Nodes) -> None:
    browser = Browser(await nodes.start())
    await browser.sign_in(new_key())
    for query in ("limit=0", "limit=1001", "limit=x", "before=-1", "before=1e3", "format=xml", "format=csv&limit=3"):
        assert await code_of(await browser.ask("GET", f"/account/statement?{query}")) == (400, "invalid_input"), query


async def test_a_node_without_accounts_has_none_to_show(installed, tmp_path) -> None:
    async with serving_with(SOURCES, installed) as client:
        browser = Browser(client, str(client.make_url("/"))[:-1])
        assert await code_of(await browser.ask("GET", "/account")) == (403, "denied")
        assert await code_of(await browser.ask("GET", "/account/statement")) == (403, "denied")


async def test_books_that_do_not_answer_are_a_clear_error_without_details(nodes: Nodes) -> None:
    client = await nodes.start(ledger={"seal_seconds": 600})
    browser = Browser(client)
    await browser.sign_in(new_key())
    await books_of(client).look_after()  # after the first look of the node's own
    books_of(client)._gone = Unavailable("ledger /secret/place: expected the disk, found none")
    response = await browser.ask("GET", "/account")
    assert (await code_of(response), response.headers["Retry-After"]) == ((503, "unavailable"), "5")
    assert "secret" not in await response.text()
    assert (await (await browser.ask("GET", "/auth/session")).json())["signed_in"]
