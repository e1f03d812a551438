"""Answers that a fault ends in their midst: what was sent is charged, and the error says it and names the receipt."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from accounts import Nodes
from blyan.api import answer, dialects, ollama
from blyan.inference.reader import Delta, TokenReport
from blyan.inference.receipt import output_bytes
from blyan.inference.receipt_check import Known, check_receipt
from blyan.inference.receipt_output import choices_of
from blyan.inference.session import Event, Failed
from blyan.ledger.sql import Outcome
from blyan.ledger.transfers import Request, Void
from blyan.node.books import NodeBooks
from blyan.primitives.errors import Unavailable
from payers import charges_of, charging, cost_of, kinds, payer, sealed, settled, until

ASKED = {"model": "random", "prompt": "abc", "max_tokens": 50, "ignore_eos": True, "stream": True}


def broken_after(*texts: str):
    """A fake of `api.chat.generation` that fails once these pieces came, a token each."""

    @asynccontextmanager
    async def generation(*_: object) -> AsyncGenerator[AsyncIterator[Event]]:
        async def events() -> AsyncIterator[Event]:
            for text in texts:
                yield Delta(text, (TokenReport(65, None, (), 0),), ())
            yield Failed(Unavailable("broken"))

        yield events()

    return generation


async def test_a_mistake_in_the_midst_of_an_answer_is_paid_as_far_as_it_was_sent(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was delivered was delivered; the stream ends with an error event that says what it cost."""
    real, count = answer._chunk, 0

    def broken(*arguments: Any) -> dict[str, Any]:
        nonlocal count
        count += 1
        if count > 5:
            raise Unavailable("broken")
        return real(*arguments)

    monkeypatch.setattr(answer, "_chunk", broken)
    client = await charging(nodes)
    buyer = await payer(client)
    raw = await (await buyer.post("/v1/completions", ASKED | {"return_token_ids": True})).read()
    bodies = [json.loads(line.removeprefix(b"data: ")) for line in raw.split(b"\n\n") if line.startswith(b"data: {")]
    assert bodies[-1]["error"]["code"] == "unavailable"
    told = sum(len(each["choices"][0]["token_ids"]) for each in bodies[:-1])
    await settled(client)
    has = await buyer.has()
    assert 0 < told < 50
    assert (has.balance, has.held_out) == (100_000 - cost_of(3, told), 0)
    usage = bodies[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, told, 3 + told)
    assert Decimal(usage["cost"]["amount"]) == Decimal(cost_of(3, told)).scaleb(-8)
    assert (await buyer.get(f"/receipts/{usage['receipt']['id']}")).status in (200, 409)  # 409 until books are sealed


async def test_choices_that_were_not_sent_cost_nothing(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole answer fails with its second choice: nothing of the first went out either."""
    real = dialects.CompletionDialect.choice

    def broken(self: Any, index: int, gathered: Any) -> dict[str, Any]:
        if index:
            raise Unavailable("broken")
        return real(self, index, gathered)

    monkeypatch.setattr(dialects.CompletionDialect, "choice", broken)
    client = await charging(nodes)
    buyer = await payer(client)
    assert (await buyer.post("/v1/completions", ASKED | {"stream": False, "max_tokens": 4, "n": 2})).status == 503
    await settled(client)
    assert ((await buyer.has()).balance, await kinds(buyer)) == (100_000, ["void", "hold", "post"])


async def test_tokens_that_no_line_has_had_yet_cost_nothing(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """As within the call of a tool, which Ollama's lines have whole: it fails in the midst, and is an ordinary 503."""
    monkeypatch.setattr(ollama, "generation", broken_after(""))
    client = await charging(nodes)
    buyer = await payer(client)
    assert (await buyer.post("/api/generate", {"model": "random", "prompt": "abc", "raw": True})).status == 503
    await settled(client)
    assert ((await buyer.has()).balance, await kinds(buyer)) == (100_000, ["void", "hold", "post"])


async def test_a_line_of_an_error_says_what_the_lines_before_cost(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the Ollama dialect; without accounts it is the error alone."""
    monkeypatch.setattr(ollama, "generation", broken_after("a", "a", "a"))
    client = await charging(nodes)
    buyer = await payer(client)
    raw = await (await buyer.post("/api/generate", {"model": "random", "prompt": "abc", "raw": True})).read()
    lines = [json.loads(line) for line in raw.splitlines()]
    assert (len(lines), lines[-1]["error"]) == (4, "broken")
    assert lines[-1]["usage"]["completion_tokens"] == 3
    await settled(client)
    assert (await buyer.has()).balance == 100_000 - cost_of(3, 3)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/completions", ASKED),
        ("/v1/chat/completions", {**ASKED, "prompt": None, "messages": [{"role": "user", "content": "abc"}]}),
    ],
)
async def test_the_receipt_of_a_part_holds_against_what_was_sent(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, path: str, asked: dict[str, Any]
) -> None:
    """Of two choices the second fails before anything of it was sent; a mistake of ours is told like a fault."""
    real = answer._chunk

    def broken(dialect: Any, index: int, event: Any) -> dict[str, Any]:
        if index == 1:
            raise RuntimeError("a mistake")
        return real(dialect, index, event)

    monkeypatch.setattr(answer, "_chunk", broken)
    client = await charging(nodes, ledger={"seal_seconds": 1})
    buyer = await payer(client)
    body = {name: value for name, value in asked.items() if value is not None} | {"n": 2, "temperature": 0}
    raw = json.dumps(body).encode()
    response = await client.post(path, data=raw, headers={**buyer.headers, "Content-Type": "application/json"})
    said = await response.read()
    last = json.loads(said.strip().rsplit(b"data: ", 1)[1])
    assert last["error"]["code"] == "internal_error"
    await settled(client)
    salt = bytes.fromhex(last["usage"]["receipt"]["salt"])
    known = Known(request=raw, output=output_bytes(choices_of(said)), salt=salt)
    assert check_receipt(await sealed(buyer, last["usage"]["receipt"]["id"]), known).failed == []


async def test_a_hold_is_released_when_the_books_answer_again(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was delivered; the books were away when the hold was to be released."""
    submit, away = NodeBooks.submit, True

    async def asked(books: NodeBooks, request: Request) -> Outcome:
        if away and isinstance(request, Void):
            raise Unavailable("away")
        return await submit(books, request)

    def broken(*_: object) -> dict[str, Any]:
        raise Unavailable("broken")

    monkeypatch.setattr(NodeBooks, "submit", asked)
    monkeypatch.setattr(dialects.CompletionDialect, "choice", broken)
    client = await charging(nodes)
    buyer = await payer(client)
    assert (await buyer.post("/v1/completions", ASKED | {"stream": False, "max_tokens": 4})).status == 503
    await settled(client)
    assert (await buyer.has()).held_out > 0
    away = False
    await until(lambda: charges_of(client).ended["voided"] == 1)
    assert ((await buyer.has()).balance, (await buyer.has()).held_out) == (100_000, 0)
