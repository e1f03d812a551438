"""Nodes that charge, and callers who pay, for tests over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp.test_utils import TestClient
from eth_account.signers.local import LocalAccount

from accounts import Browser, Nodes
from blyan.api.state import node_key
from blyan.chain.parameters import Price
from blyan.ledger import reading
from blyan.ledger.accounts import Account
from blyan.ledger.transfers import Leg, Post
from blyan.node.books import NodeBooks, income, operator_credit, rounding, user_account
from blyan.node.charges import Charges
from blyan.node.node import Node
from blyan.node.pricing import set_price
from wallets import new_key

# A token of the prompt is 1.5, one of the answer 2.25 smallest units, so that sums have to be rounded.
PRICE = Price("USD", 1_500_000, 2_250_000)


@dataclass
class Payer:
    """Somebody with an account and an API key of one node."""

    client: TestClient
    account: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    async def post(self, path: str, body: dict[str, Any]):
        return await self.client.post(path, json=body, headers=self.headers)

    async def get(self, path: str):
        return await self.client.get(path, headers=self.headers)

    async def has(self) -> Account:
        books = books_of(self.client)
        return await books.read(lambda session: reading.account(session, user_account(self.account)))


def node_of(client: TestClient) -> Node:
    return client.server.app[node_key]  # type: ignore[union-attr]


def books_of(client: TestClient) -> NodeBooks:
    found = node_of(client).books
    assert found is not None
    return found


def charges_of(client: TestClient) -> Charges:
    found = node_of(client).charges
    assert found is not None
    return found


async def charging(nodes: Nodes, price: Price | None = PRICE, **accounts: Any) -> TestClient:
    """A node whose model has a price."""
    client = await nodes.start(**accounts)
    if price is not None:
        await asyncio.to_thread(set_price, node_of(client).ground, "random", price)
    return client


async def payer(client: TestClient, amount: int = 100_000, wallet: LocalAccount | None = None) -> Payer:
    """Somebody who has that much."""
    wallet = wallet or new_key()
    browser = Browser(client)
    await browser.sign_in(wallet)
    made = await browser.ask("POST", "/auth/keys", {"name": "test", "scopes": ["inference", "account"]})
    assert made.status == 201, await made.text()
    if amount:
        books = books_of(client)
        name = await books.open_user(wallet.address)
        outcome = await books.submit(Post(f"credit {wallet.address}", (Leg(operator_credit, name, amount),)))
        assert outcome.taken
    return Payer(client, wallet.address.lower(), (await made.json())["key"])


async def settled(client: TestClient) -> None:
    """What goes on in the background is done."""
    await charges_of(client).drain()


async def until(what: Callable[[], bool], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.02)


async def own(client: TestClient) -> tuple[int, int]:
    """What the node's accounts of income and of rounding have."""
    found = [
        await books_of(client).read(lambda session, name=name: reading.account(session, name).balance)
        for name in (income, rounding)
    ]
    return found[0], found[1]


def events(raw: bytes) -> list[dict[str, Any]]:
    """The bodies of server-sent events, without the last word."""
    lines = raw.decode().split("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line and line != "data: [DONE]"]


def units(amount: str) -> int:
    """Smallest units of USD."""
    return round(float(amount) * 10**8)


async def sealed(buyer: Payer, identity: str) -> bytes:
    """The receipt as a file, once the books are sealed."""
    async with asyncio.timeout(20):
        while (got := await buyer.get(f"/receipts/{identity}")).status == 409:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.1)
    assert got.status == 200, await got.text()
    return await got.read()


def cost_of(prompt: int, completion: int) -> int:
    """What so many tokens cost, in smallest units."""
    return -(-(prompt * PRICE.prompt + completion * PRICE.completion) // 1_000_000)


async def kinds(buyer: Payer) -> list[str]:
    """What became of the account, the last first."""
    name = f"user:{buyer.account}"
    return [line.kind for line in await books_of(buyer.client).read(lambda session: reading.statement(session, name))]
