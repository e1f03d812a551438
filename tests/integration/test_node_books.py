"""The books of a running node: opened, sealed, promised, and what happens when their database goes away."""

import asyncio
from collections.abc import Callable

from aiohttp.test_utils import TestClient

from accounts import ORIGIN, Nodes
from blyan.api.state import node_key
from blyan.ledger import reading
from blyan.ledger.transfers import Leg, Post
from blyan.node.books import NodeBooks, allowance, income, operator_credit, rounding
from wallets import new_key

USER = new_key().address
MOST = {"accounts": {"origin": ORIGIN}, "ledger": {"seal_seconds": 1}}


def books_of(client: TestClient) -> NodeBooks:
    app = client.server.app  # type: ignore[union-attr]
    found = app[node_key].books
    assert found is not None
    return found


async def until(what: Callable[[], bool], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.02)


async def credited(books: NodeBooks, amount: int = 500, key: str = "credit 1") -> str:
    name = await books.open_user(USER)
    outcome = await books.submit(Post(key, (Leg(operator_credit, name, amount),)))
    assert outcome.taken
    return name


async def test_a_node_with_accounts_opens_books_with_accounts_of_its_own(nodes: Nodes) -> None:
    client = await nodes.start()
    found = {each.terms.name: each.terms for each in await books_of(client).read(lambda s: list(reading.accounts(s)))}
    assert found.keys() == {income, rounding, allowance, operator_credit}
    assert all(terms.asset == "USD" for terms in found.values())
    assert {name for name, terms in found.items() if terms.floor < 0} == {allowance, operator_credit}
    assert (client.data_dir / "ledger.db").stat().st_mode & 0o077 == 0


async def test_an_account_is_opened_in_lower_case_and_once(nodes: Nodes) -> None:
    books = books_of(await nodes.start())
    names = await asyncio.gather(books.open_user(USER), books.open_user(USER.lower()))
    assert [f"user:{USER.lower()}"] * 2 == list(names)
    assert len(await books.read(lambda s: list(reading.accounts(s)))) == 5
