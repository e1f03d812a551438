"""Charging when things go wrong: callers leave, nodes are killed, the books go away. The books are right after it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientTimeout

from accounts import ORIGIN, SOURCES, Nodes, code_of
from blyan.api import answer, ollama, openai, sending
from blyan.ledger import reading
from blyan.ledger.postgres_store import PostgresStore
from blyan.node import charges as charges_module
from blyan.node.ledger import check_books
from blyan.node.node import Sources
from blyan.node.pricing import set_price
from blyan.payments import charges as rules
from blyan.primitives.clock import system_seconds
from blyan.primitives.errors import Unavailable
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, running, serving_with
from payers import (
    PRICE,
    books_of,
    charges_of,
    charging,
    cost_of,
    kinds,
    node_of,
    own,
    payer,
    sealed,
    settled,
    units,
    until,
)
from services import PostgresServer, missing

ASKED = {"model": "random", "prompt": "abc", "max_tokens": 50, "ignore_eos": True, "stream": True}


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Answers go out piece by piece, each seen here once it was sent."""
    sent: list[bytes] = []

    async def send(request: Any, response: Any, data: bytes) -> None:
        await sending.send_piece(request, response, data)
        await asyncio.sleep(0.02)
        sent.append(data)

    monkeypatch.setattr(answer, "send_piece", send)
    monkeypatch.setattr(ollama, "send_piece", send)
    return sent


@pytest.mark.parametrize("path", ["/v1/completions", "/api/generate"])
async def test_who_leaves_pays_for_what_was_sent_and_no_more(nodes: Nodes, slowly: list[bytes], path: str) -> None:
    """The prompt, and the tokens whose events went out; the rest is released, and there is a receipt of it."""
    client = await charging(nodes)
    buyer = await payer(client)
    body = ASKED | {"return_token_ids": True}
    if path.startswith("/api"):
        body = {"model": "random", "prompt": "abc", "raw": True, "logprobs": True, "options": {"num_predict": 50}}
    response = await client.post(path, json=body, headers=buyer.headers)
    for _ in range(3):
        await response.content.readany()
    assert (await buyer.has()).held_out == cost_of(3, 50)
    response.close()
    await until(lambda: charges_of(client).ended["settled"] == 1)
    await settled(client)
    events = [json.loads(line.removeprefix(b"data: ")) for line in b"".join(slowly).split(b"\n") if line]
    tokens = [
        each["choices"][0].get("token_ids", ()) if path.startswith("/v1") else each["logprobs"] for each in events
    ]
    told = sum(map(len, tokens))
    has = await buyer.has()
    assert 0 < told < 50
    assert (has.balance, has.held_out) == (100_000 - cost_of(3, told), 0)
    name = f"user:{buyer.account}"
    settle = (await books_of(client).read(lambda session: reading.statement(session, name)))[0]
    key = (await books_of(client).read(lambda session: reading.record(session, settle.number))).key
    receipt = json.loads(await sealed(buyer, key.removeprefix("receipt ")))["receipt"]
    assert (receipt["prompt_tokens"], receipt["completion_tokens"]) == (3, told)


async def test_who_leaves_before_anything_was_sent_pays_nothing(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole answers are sent at their end."""

    async def endless(*_: object) -> object:
        return await asyncio.Event().wait()

    monkeypatch.setattr(answer, "_all", endless)
    client = await charging(nodes)
    buyer = await payer(client)
    with pytest.raises(TimeoutError):
        await client.post(
            "/v1/completions",
            json=ASKED | {"stream": False},
            headers=buyer.headers,
            timeout=ClientTimeout(total=0.5),
        )
    await until(lambda: charges_of(client).ended["voided"] == 1)
    has = await buyer.has()
    assert (has.balance, has.held_out) == (100_000, 0)
    assert await kinds(buyer) == ["void", "hold", "post"]


async def test_what_fails_before_anything_was_sent_costs_nothing(nodes: Nodes) -> None:
    """The hold is released at once, also where a quota refuses after it."""
    client = await charging(nodes, quotas={"account_tokens": 40})
    buyer = await payer(client)
    assert (await buyer.post("/v1/embeddings", {"model": "random", "input": "a" * 40})).status == 200
    assert await code_of(await buyer.post("/v1/completions", ASKED)) == (429, "rate_limited")
    await settled(client)
    assert ((await buyer.has()).balance, (await kinds(buyer))[:3]) == (100_000 - 60, ["void", "hold", "settle"])


async def test_an_answer_that_nobody_takes_ends_before_its_hold_does(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would be free: a reader may read slowly for hours."""
    assert rules.delivery_seconds_max + 60 < rules.hold_seconds
    sent: list[bytes] = []

    async def stuck(request: Any, response: Any, data: bytes) -> None:
        if b'"error"' not in data and len(sent) == 2:
            await asyncio.Event().wait()
        await sending.send_piece(request, response, data)
        sent.append(data)

    monkeypatch.setattr(answer, "send_piece", stuck)
    monkeypatch.setattr("blyan.api.metering.delivery_seconds_max", 0.2)
    client = await charging(nodes)
    buyer = await payer(client)
    raw = await (await buyer.post("/v1/completions", ASKED)).read()
    assert b"expected the caller to take it within" in raw
    assert b'"receipt":{' in raw.rsplit(b"data: ", 1)[1]
    await settled(client)
    assert charges_of(client).ended == {"settled": 1}
    assert 100_000 - cost_of(3, 49) < (await buyer.has()).balance < 100_000 - cost_of(3, 1)


async def test_a_hold_of_a_killed_node_ends_by_itself(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had delivered is given away; the account has what it had, and nothing is settled by the next process."""
    client = await charging(nodes)
    buyer = await payer(client)

    async def killed(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(charges_module.Charges, "_settle", killed)
    monkeypatch.setattr(charges_module.Charges, "_void", killed)
    monkeypatch.setattr(charges_module, "_settle_wait_seconds", 0.1)
    assert (await buyer.post("/v1/completions", ASKED)).status == 200
    has = await buyer.has()
    assert (has.balance, has.held_out) == (100_000, cost_of(3, 50))
    for task in set(charges_of(client)._tasks):
        task.cancel()
    node = node_of(client)
    later = node.sources.now() + rules.hold_seconds + 1
    books = books_of(client)
    monkeypatch.setattr(books._books, "_now", lambda: later)
    await books.look_after()
    has = await buyer.has()
    assert (has.balance, has.held_out) == (100_000, 0)
    monkeypatch.undo()
    monkeypatch.setattr(books._books, "_now", lambda: later)
    await until(lambda: charges_of(client).ended["lost"] == 1)
    assert ((await buyer.has()).balance, charges_of(client).unsettled) == (100_000, 0)


async def test_a_settlement_that_a_killed_node_did_not_see_is_taken_up_by_the_next(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is durable before the last chunk names the receipt: the next process asks with the same key."""
    folder = tmp_path / "data"
    shutil.copytree(installed, folder)
    accounts: dict[str, object] = {"origin": ORIGIN}

    async def unseen(*_: object) -> None:  # the books have settled, and the process ends
        raise asyncio.CancelledError

    async with serving_with(SOURCES, folder, accounts=accounts) as client:
        await asyncio.to_thread(set_price, node_of(client).ground, "random", PRICE)
        buyer = await payer(client)
        with monkeypatch.context() as patched:
            patched.setattr(charges_module.Charges, "_ended", unseen)
            raw = await (await buyer.post("/v1/completions", ASKED)).read()
            assert (charges_of(client).unsettled, (await buyer.has()).balance) == (1, 100_000 - cost_of(3, 50))
            keeping = charges_of(client)
            monkeypatch.setattr(keeping, "_settle", unseen)
    said = json.loads(raw.split(b"\n\n")[-3].removeprefix(b"data: "))["blyan"]
    async with serving_with(SOURCES, folder, accounts=accounts) as client:
        await until(lambda: charges_of(client).ended["settled"] == 1)
        buyer.client = client
        receipt = json.loads(await sealed(buyer, said["receipt"]["id"]))["receipt"]
        assert int(receipt["charged"]) == units(said["cost"]["amount"]) == 100_000 - (await buyer.has()).balance
        assert sum(await own(client)) == int(receipt["charged"])
        assert (await kinds(buyer)).count("settle") == 1


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """One that a test may stop."""
    try:
        server = PostgresServer()
    except FileNotFoundError:
        missing("PostgreSQL (apt: postgresql)")
        raise
    with server:
        yield server


@pytest.mark.slow
async def test_books_that_go_away_in_the_midst_of_an_answer_settle_it_when_they_are_back(
    own_server: PostgresServer, nodes: Nodes, slowly: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer goes on and names its cost and receipt; new ones are refused with 503; then all of it is booked."""
    monkeypatch.setattr(charges_module, "_settle_wait_seconds", 1.0)
    url = own_server.new_database()
    store = PostgresStore(url)
    store.migrate(system_seconds)
    store.close()
    client = await charging(nodes, ledger={"database": url, "seal_seconds": 1})
    buyer = await payer(client)
    response = await client.post("/v1/completions", json=ASKED, headers=buyer.headers)
    first = await response.content.readany()
    await asyncio.to_thread(own_server.stop)
    raw = first + await response.content.read()
    assert raw.endswith(b"data: [DONE]\n\n")
    said = json.loads(raw.split(b"\n\n")[-3].removeprefix(b"data: "))["blyan"]
    assert units(said["cost"]["amount"]) == cost_of(3, 50)
    refused = await buyer.post("/v1/completions", ASKED)
    assert (await code_of(refused), "Retry-After" in refused.headers) == ((503, "unavailable"), True)
    assert await code_of(await buyer.get(f"/receipts/{said['receipt']['id']}")) == (409, "not_yet")
    assert charges_of(client).unsettled == 1
    await asyncio.to_thread(own_server.start)
    await until(lambda: charges_of(client).ended["settled"] == 1, 60)
    assert slowly
    await until(lambda: books_of(client).gone is None, 30)
    async with asyncio.timeout(30):  # the refused one may have got its hold when nobody waited for it any more
        while (has := await buyer.has()).held_out:  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.1)
    assert has.balance == 100_000 - cost_of(3, 50)
    receipt = json.loads(await sealed(buyer, said["receipt"]["id"]))["receipt"]
    assert int(receipt["charged"]) == cost_of(3, 50)


@pytest.mark.slow
async def test_a_node_killed_in_the_midst_of_an_answer_charges_nothing(tmp_path: Path) -> None:
    """SIGKILL. The hold stands until its time is over; the books verify, the next process takes nothing twice."""
    save_random_checkpoint(tmp_path / "hf", max_position_embeddings=65_536, vocab_size=260)
    save_byte_tokenizer(tmp_path / "hf")
    folder = tmp_path / "data"
    import_into(folder, tmp_path / "hf", "random")
    (folder / "node.toml").write_text(f'[accounts]\norigin = "{ORIGIN}"\n')
    async with serving_with(SOURCES, folder) as client:
        await asyncio.to_thread(set_price, node_of(client).ground, "random", PRICE)
        buyer = await payer(client, 10**9)
    with running(folder) as node:
        async with ClientSession() as session:
            body = ASKED | {"max_tokens": 60_000}
            async with session.post(f"{node.url}/v1/completions", json=body, headers=buyer.headers) as response:
                assert response.status == 200, await response.text()
                await response.content.readany()
                await response.content.readany()
                await asyncio.to_thread(node.kill)
        most, later = cost_of(3, 60_000), system_seconds() + rules.hold_seconds + 3_600
    async with serving_with(Sources(lambda: later, SOURCES.monotonic, SOURCES.entropy), folder) as client:
        buyer.client = client
        async with asyncio.timeout(60):
            while (has := await buyer.has()).held_out:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.1)
        assert (has.balance, has.held_out, await kinds(buyer)) == (10**9, 0, ["expire", "hold", "post"])
        assert charges_of(client).unsettled == 0
        name = f"user:{buyer.account}"
        lines = await books_of(client).read(lambda session: reading.statement(session, name))
        assert [line.entry.out_change for line in lines] == [-most, most, 0]
        chains = node_of(client).ground.chains
        assert await asyncio.to_thread(check_books, folder, chains) == []


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed"])
async def test_vectors_that_were_not_sent_cost_nothing(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """All of them are sent together, or none: the second fails, so the first was never had."""
    real, count = openai.embedding, 0

    async def broken(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count > 1:
            raise Unavailable("broken")
        return await real(*arguments)

    monkeypatch.setattr(openai, "embedding", broken)
    monkeypatch.setattr(ollama, "embedding", broken)
    client = await charging(nodes)
    buyer = await payer(client)
    assert (await buyer.post(path, {"model": "random", "input": ["abc", "def"]})).status == 503
    await settled(client)
    assert ((await buyer.has()).balance, await kinds(buyer)) == (100_000, ["void", "hold", "post"])
