"""Two nodes that share one PostgreSQL: one account of a person, whichever node is asked; and nothing that should not be
read is written down while answers are paid for."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from accounts import Nodes
from blyan.inference.receipt import output_bytes
from blyan.inference.receipt_check import Known, check_receipt
from blyan.inference.receipt_output import choices_of
from blyan.ledger.audit import verify
from blyan.ledger.postgres_store import PostgresStore
from blyan.node.ledger import promises
from blyan.primitives.clock import system_seconds
from payers import books_of, charging, node_of, own, payer, sealed, settled
from wallets import new_key

ASKED = {"model": "random", "prompt": "abc", "max_tokens": 5, "ignore_eos": True}
COST = 16  # 3 tokens of 1.5 and 5 of 2.25 smallest units, rounded up


@pytest.fixture
def shared_url(postgres_url: str) -> str:
    """A migrated database."""
    store = PostgresStore(postgres_url)
    store.migrate(system_seconds)
    store.close()
    return postgres_url


async def test_nobody_spends_twice_what_two_nodes_know_of(nodes: Nodes, shared_url: str) -> None:
    """Ten at once at each with money for six in all; the income is that of both, each proves what it was paid."""
    ledger: dict[str, object] = {"database": shared_url, "seal_seconds": 1}
    one, two = await charging(nodes, ledger=ledger), await charging(nodes, ledger=ledger)
    here, there = await payer(one, 6 * COST), await payer(two, 0)
    asked = [buyer.post("/v1/completions", ASKED) for _ in range(10) for buyer in (here, there)]
    answers = await asyncio.gather(*asked)
    bodies = [(answer, await answer.read()) for answer in answers]
    await asyncio.gather(settled(one), settled(two))
    assert {answer.status for answer, _ in bodies} == {200, 402}
    paid = sum(answer.status == 200 for answer, _ in bodies)
    for client, buyer in ((one, here), (two, there)):
        has = await buyer.has()
        assert (has.balance, has.held_out) == ((6 - paid) * COST, 0)
        assert await own(client) == (15 * paid, paid)
    assert 1 <= paid <= 6
    for number, (answer, body) in enumerate(bodies):
        if answer.status == 200:
            said = json.loads(body)["usage"]["receipt"]
            known = Known(output=output_bytes(choices_of(body)), salt=bytes.fromhex(said["salt"]))
            buyer, other = (there, here) if number % 2 else (here, there)
            assert check_receipt(await sealed(buyer, said["id"]), known).failed == []
            assert (await other.get(f"/receipts/{said['id']}")).status == 404, "the node that gave it has it"
    promised = [promises(node_of(client).ground.chains)[0] for client in (one, two)]
    for promise in promised:
        report = await books_of(one).read(lambda session, promise=promise: verify(session, (promise,)))
        assert report.faults == ()


async def test_a_newcomer_is_given_once_what_two_nodes_give(nodes: Nodes, shared_url: str) -> None:
    """However the first requests come together."""
    more = {"allowance": "0.000001", "allowance_per_day": "0.0001", "ledger": {"database": shared_url}}
    one, two = await charging(nodes, **more), await charging(nodes, **more)
    here, there = await payer(one, 0), await payer(two, 0)
    answers = await asyncio.gather(*(buyer.get("/account") for _ in range(5) for buyer in (here, there)))
    assert {(answer.status, (await answer.json())["balance"]) for answer in answers} == {(200, "0.000001")}


async def test_salts_quotes_and_keys_are_neither_logged_nor_counted(
    nodes: Nodes, shared_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At the level that says most, whatever is wrong with what was shown."""
    caplog.set_level(logging.DEBUG)
    client = await charging(nodes, ledger={"database": shared_url, "seal_seconds": 1})
    buyer = await payer(client, 1_000, new_key(5))
    quote = (await (await buyer.post("/quotes", {"model": "random", "prompt": "abc"})).json())["id"]
    said = await (await buyer.post("/v1/completions", ASKED | {"blyan": {"quote": quote}})).json()
    assert (await buyer.post("/v1/completions", ASKED | {"blyan": {"quote": quote[:-4]}})).status == 400
    assert (await buyer.post("/v1/completions", ASKED | {"max_tokens": 60_000})).status == 400
    assert (await client.get("/account", headers={"Authorization": f"Bearer {buyer.key}x"})).status == 401
    receipt = said["usage"]["receipt"]
    await sealed(buyer, receipt["id"])
    written = "".join(f"{record.getMessage()}{record.__dict__}" for record in caplog.records)
    written += node_of(client).metrics.text("text/plain")[0].decode()
    assert "/v1/completions" in written
    secrets = [receipt["salt"], quote[:60], buyer.key, buyer.key[-40:], buyer.account, shared_url]
    assert [secret for secret in secrets if secret in written] == []
