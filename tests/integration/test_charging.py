"""Answers that are paid for: hold, answer, settle, what it cost, and a receipt that checks."""

import asyncio
import json
from typing import Any

import pytest

from accounts import ORIGIN, SOURCES, Nodes, code_of
from blyan.inference.receipt import output_bytes
from blyan.inference.receipt_check import Known, check_receipt
from blyan.inference.receipt_output import choices_of
from blyan.ledger import reading
from blyan.node.pricing import set_price
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, serving, serving_with
from payers import PRICE, books_of, charges_of, charging, cost_of, node_of, own, payer, sealed, settled, units
from wallets import new_key

ASKED = {"model": "random", "prompt": "abc", "max_tokens": 5, "ignore_eos": True, "temperature": 0}
CHAT = {"model": "random", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
OPENAI = CHAT | {"max_tokens": 6, "ignore_eos": True}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
OLLAMA = {"model": "random", "options": {"num_predict": 6, "temperature": 1.5, "seed": 5}}


def last_word(raw: bytes) -> dict[str, Any]:
    """What the last chunk says of cost and receipt, wherever the dialect has it; it stands nowhere before."""
    lines = [line.removeprefix(b"data: ") for line in raw.splitlines() if line and line != b"data: [DONE]"]
    bodies = [json.loads(line) for line in lines]
    found = [each for body in bodies for each in (body.get("usage"), body.get("blyan")) if each and "cost" in each]
    assert len(found) == 1
    assert found[0] in (bodies[-1].get("usage"), bodies[-1].get("blyan"))
    return found[0]


@pytest.mark.parametrize(
    ("path", "body", "completion"),
    [
        ("/v1/completions", ASKED, 5),
        ("/v1/completions", ASKED | {"stream": True}, 5),
        ("/v1/completions", ASKED | USAGE, 5),
        ("/v1/completions", ASKED | {"echo": True, "stream": True}, 5),
        ("/v1/completions", ASKED | {"prompt": ["abc", "de"], "n": 2}, 20),
        ("/v1/completions", ASKED | {"prompt": ["abc", "de"], "n": 2, "stream": True}, 20),
        ("/v1/chat/completions", OPENAI, 6),
        ("/v1/chat/completions", OPENAI | {"stream": True, "blyan": {"experts": True}}, 6),
        ("/v1/chat/completions", OPENAI | USAGE | {"n": 3}, 18),
        ("/v1/embeddings", {"model": "random", "input": ["abc", "defg"]}, 0),
        ("/v1/embeddings", {"model": "random", "input": "abc", "encoding_format": "base64"}, 0),
        ("/api/generate", OLLAMA | {"prompt": "hi"}, None),
        ("/api/generate", OLLAMA | {"prompt": "hi", "stream": False}, None),
        ("/api/chat", OLLAMA | {"messages": CHAT["messages"]}, None),
        ("/api/chat", OLLAMA | {"messages": CHAT["messages"], "stream": False}, None),
        ("/api/embed", {"model": "random", "input": ["abc", "defg"]}, 0),
        ("/api/embeddings", {"model": "random", "prompt": "abc"}, 0),
    ],
)
async def test_every_door_charges_once_for_what_it_delivers(
    nodes: Nodes, path: str, body: dict[str, Any], completion: int | None
) -> None:
    """The last chunk says what it cost, the books moved that, and the receipt holds against request and answer."""
    client = await charging(nodes, ledger={"seal_seconds": 1})
    buyer = await payer(client)
    raw = json.dumps(body).encode()
    response = await client.post(path, data=raw, headers={**buyer.headers, "Content-Type": "application/json"})
    answer = await response.read()
    assert response.status == 200, answer
    said = last_word(answer)
    await settled(client)
    has = await buyer.has()
    assert (has.balance, has.held_out, has.held_in) == (100_000 - units(said["cost"]["amount"]), 0, 0)
    assert sum(await own(client)) == units(said["cost"]["amount"])
    known = Known(request=raw, output=output_bytes(choices_of(answer)), salt=bytes.fromhex(said["receipt"]["salt"]))
    file = await sealed(buyer, said["receipt"]["id"])
    report = check_receipt(file, known)
    assert report.failed == []
    assert {check.name for check in report.not_made} == {"origin", "known"}
    receipt = json.loads(file)["receipt"]
    tokens = receipt["prompt_tokens"], receipt["completion_tokens"]
    assert units(said["cost"]["amount"]) == cost_of(*tokens) > 0
    assert receipt["account"] == f"user:{buyer.account}"
    if completion is None:
        done = json.loads(answer.splitlines()[-1])
        assert tokens == (done["prompt_eval_count"], done["eval_count"])
    else:
        assert tokens[1] == completion
    if "prompt" in body and path.startswith("/v1"):
        assert tokens[0] == sum(map(len, body["prompt"])), "a prompt counts once, however many answers it has"


async def test_income_is_rounded_down_and_the_rest_is_booked_to_an_account_of_its_own(nodes: Nodes) -> None:
    """3 tokens of 1.5 and 5 of 2.25 units are 15.75: 16 paid, 15 of it income, one unit of rounding."""
    client = await charging(nodes)
    buyer = await payer(client)
    assert (await buyer.post("/v1/completions", ASKED)).status == 200
    await settled(client)
    assert (await own(client), (await buyer.has()).balance) == ((15, 1), 100_000 - 16)


@pytest.mark.parametrize("path", ["/v1/completions", "/api/generate"])
async def test_who_has_too_little_is_told_what_is_missing_and_nothing_is_computed(nodes: Nodes, path: str) -> None:
    """402 in both dialects; the most that the answer can cost counts, to the smallest unit."""
    client = await charging(nodes)
    buyer = await payer(client, 15)
    body = ASKED if path.startswith("/v1") else OLLAMA | {"prompt": "abc", "raw": True, "options": {"num_predict": 5}}
    before = node_of(client).metrics.generations
    response = await buyer.post(path, body)
    error = (await response.json())["error"]
    text = error if isinstance(error, str) else error["message"]
    assert response.status == 402
    assert "0.00000016 USD" in text
    assert "0.00000001 USD are missing" in text
    if isinstance(error, dict):
        assert (error["code"], error["type"]) == ("insufficient_funds", "insufficient_funds")
        assert error["detail"] == {
            "asset": "USD", "required": "0.00000016", "available": "0.00000015", "missing": "0.00000001"
        }  # fmt: skip
    assert (await buyer.has()).balance == 15
    assert node_of(client).metrics.generations is before
    books = books_of(client)
    name = f"user:{buyer.account}"
    assert [line.kind for line in await books.read(lambda session: reading.statement(session, name))] == ["post"]
    await payer(client, 1, new_key(2))
    assert (await buyer.post(path, body)).status == 402


async def test_what_is_held_counts_as_spent_by_requests_beside_it(nodes: Nodes) -> None:
    """Fifty at once with money for ten: ten are answered, forty are refused, nobody goes below nothing."""
    client = await charging(nodes)
    buyer = await payer(client, 160)
    asked = [buyer.post("/v1/completions", ASKED | {"seed": number}) for number in range(50)]
    statuses = [response.status for response in await asyncio.gather(*asked)]
    await settled(client)
    has = await buyer.has()
    assert set(statuses) == {200, 402}
    assert statuses.count(200) >= 10
    assert has.balance == 160 - 16 * statuses.count(200) >= 0
    assert has.held_out == 0


async def test_a_model_without_a_price_is_free_and_says_so(nodes: Nodes) -> None:
    """Also for who has nothing; no record is written, no receipt is made."""
    client = await charging(nodes, None)
    buyer = await payer(client, 0)
    usage = (await (await buyer.post("/v1/completions", ASKED)).json())["usage"]
    assert (usage["cost"], "receipt" in usage) == ({"amount": "0", "asset": "USD"}, False)
    quoted = await (await buyer.post("/quotes", {"model": "random", "prompt_tokens": 3})).json()
    assert (quoted["free"], quoted["why"]) == (True, "model random has no price here")


async def test_a_node_without_accounts_charges_nobody_and_says_so(installed, tmp_path) -> None:
    """Whatever the meta chain says of prices: there is nobody to charge."""
    import shutil

    shutil.copytree(installed, tmp_path / "data")
    async with serving(tmp_path / "data") as client:
        await asyncio.to_thread(set_price, node_of(client).ground, "random", PRICE)
        answer = await (await client.post("/v1/completions", json=ASKED)).json()
        assert set(answer["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}
        quoted = await (await client.post("/quotes", json={"model": "random", "prompt": "abc"})).json()
        assert (quoted["free"], "no accounts" in quoted["why"]) == (True, True)
        assert (await client.get("/receipts/" + "0" * 32)).status == 401
        assert not (tmp_path / "data/ledger.db").exists()


async def test_a_quote_holds_its_price_for_its_account_and_its_time(nodes: Nodes) -> None:
    """The price rises; who has a quote pays what it says, everybody else and for everything else the new one."""
    client = await charging(nodes)
    buyer, other = await payer(client), await payer(client, wallet=new_key(2))
    quoted = await (await buyer.post("/quotes", {"model": "random", "prompt": "abc", "max_tokens": 5})).json()
    assert (quoted["prompt_tokens"], quoted["max_tokens"], quoted["amount_max"]) == (3, 5, "0.00000016")
    assert quoted["price"] == {"prompt_per_million": "0.015", "completion_per_million": "0.0225"}
    node = node_of(client)
    dearer = type(PRICE)("USD", PRICE.prompt * 10, PRICE.completion * 10)
    await asyncio.to_thread(set_price, node.ground, "random", dearer)
    with_quote = ASKED | {"blyan": {"quote": quoted["id"]}}

    async def cost(who, body) -> str:
        return (await (await who.post("/v1/completions", body)).json())["usage"]["cost"]["amount"]

    assert await cost(buyer, ASKED) == "0.00000158"
    assert await cost(buyer, with_quote) == "0.00000016"
    line = await (
        await buyer.post("/api/generate", OLLAMA | {"prompt": "x", "stream": False, "blyan": {"quote": quoted["id"]}})
    ).json()
    assert units(line["usage"]["cost"]["amount"]) == cost_of(line["prompt_eval_count"], line["eval_count"])
    vector = await buyer.post("/v1/embeddings", {"model": "random", "input": "abc", "blyan": {"quote": quoted["id"]}})
    assert (await vector.json())["usage"]["cost"]["amount"] == "0.00000005"
    assert await code_of(await other.post("/v1/completions", with_quote)) == (400, "invalid_input")
    changed = quoted["id"][:-6] + ("AAAAAA" if quoted["id"][-6:] != "AAAAAA" else "BBBBBB")
    for wrong in (changed, "", "x" * 500, "é"):
        assert await code_of(await buyer.post("/v1/completions", ASKED | {"blyan": {"quote": wrong}})) == (
            400, "invalid_input"
        )  # fmt: skip
    later = node.sources.now() + 16 * 60
    object.__setattr__(node.sources, "now", lambda: later)
    assert await code_of(await buyer.post("/v1/completions", with_quote)) == (409, "quote_expired")


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"prompt": ""}, "invalid_input"),
        ({"prompt": "a" * 65}, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "a" * 65}]}, "context_length_exceeded"),
    ],
)
async def test_what_is_never_answered_has_no_quote(nodes: Nodes, asked: dict[str, Any], code: str) -> None:
    """Refused as the answer would be, by the same field; a prompt that fills the context can be embedded."""
    client = await charging(nodes)
    buyer = await payer(client, 0)
    response = await buyer.post("/quotes", {"model": "random"} | asked)
    error = (await response.json())["error"]
    assert (response.status, error.get("code"), error.get("param")) == (400, code, next(iter(asked)))
    assert (await buyer.post("/quotes", {"model": "random", "prompt": "a" * 64})).status == 200


async def test_newcomers_are_given_something_once_and_no_more_in_a_day_than_was_set(nodes: Nodes) -> None:
    """At their first request; the books remember who had it, also after a restart, and how much the day had."""
    client = await charging(nodes, allowance="0.0000002", allowance_per_day="0.0000004")
    first, second, third = [await payer(client, 0, new_key(number)) for number in (1, 2, 3)]
    for _ in range(2):
        await asyncio.gather(first.post("/v1/completions", ASKED), second.post("/v1/completions", ASKED))
    await settled(client)
    assert [(await each.has()).balance for each in (first, second)] == [4, 4]
    assert (await third.post("/v1/completions", ASKED)).status == 402
    again = await nodes.start(folder=client.data_dir, allowance="0.0000002", allowance_per_day="0.1") if False else None
    assert again is None


async def test_a_newcomer_can_spend_at_once(nodes: Nodes) -> None:
    """What newcomers get is there when they have signed in, while the day has any."""
    client = await charging(nodes, allowance="0.0000002", allowance_per_day="0.0000003")
    for number, balance in ((1, "0.0000002"), (2, "0")):
        newcomer = await payer(client, 0, new_key(number))
        assert (await (await newcomer.get("/account")).json())["available"] == balance


async def test_only_who_paid_gets_the_receipt(nodes: Nodes) -> None:
    """404 for everybody else and for what never was, 409 with a hint until the books are sealed."""
    client = await charging(nodes, ledger={"seal_seconds": 600})
    buyer, other = await payer(client), await payer(client, wallet=new_key(2))
    usage = (await (await buyer.post("/v1/completions", ASKED)).json())["usage"]
    path = f"/receipts/{usage['receipt']['id']}"
    await settled(client)
    assert await code_of(await other.get(path)) == (404, "not_found")
    assert await code_of(await buyer.get("/receipts/" + "0" * 32)) == (404, "not_found")
    assert await code_of(await buyer.get("/receipts/..%2f")) == (400, "invalid_input")
    assert await code_of(await buyer.get(path)) == (409, "not_yet")
    await books_of(client).look_after()
    assert (await buyer.get(path)).status == 200
    assert charges_of(client).ended == {"settled": 1}


TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Seoul", "Paris"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TOOLS = (
    '{% if tools %}{{ tools | length }}<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>{% endif %}{{ messages[0].content }}{% for call in messages[0].tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n'
    "</tool_call>{% endfor %}"
)


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/chat/completions", {"tool_choice": "required", "parallel_tool_calls": False}),
        ("/v1/chat/completions", {"tool_choice": "required", "parallel_tool_calls": False, "stream": True, "n": 2}),
    ],
)
async def test_calls_of_tools_are_paid_for_and_stand_in_the_receipt(tmp_path, path: str, more: dict[str, Any]) -> None:
    """With their ids, names and arguments, as they were delivered."""
    save_random_checkpoint(tmp_path / "hf", vocab_size=260, max_position_embeddings=4096)
    save_byte_tokenizer(tmp_path / "hf", template=TOOLS)
    import_into(tmp_path / "data", tmp_path / "hf", "random")
    async with serving_with(SOURCES, tmp_path / "data", accounts={"origin": ORIGIN}) as client:
        await asyncio.to_thread(set_price, node_of(client).ground, "random", PRICE)
        buyer = await payer(client)
        raw = json.dumps(CHAT | {"tools": [TOOL], "seed": 3, **more}).encode()
        response = await client.post(path, data=raw, headers={**buyer.headers, "Content-Type": "application/json"})
        answer = await response.read()
        assert response.status == 200, answer
        said = last_word(answer)
        choices = choices_of(answer)
        assert [call.name for choice in choices for call in choice.tool_calls] == ["weather"] * len(choices)
        known = Known(request=raw, output=output_bytes(choices), salt=bytes.fromhex(said["receipt"]["salt"]))
        assert check_receipt(await sealed(buyer, said["receipt"]["id"]), known).failed == []
