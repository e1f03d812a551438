"""The HTTP doors of a real node with a random model, over a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from blyan.primitives import limits
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, serving


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("http")
    save_random_checkpoint(folder / "hf", vocab_size=260)
    save_byte_tokenizer(folder / "hf")
    import_into(folder / "data", folder / "hf", "random")
    save_random_checkpoint(folder / "bare", vocab_size=260, seed=1)
    import_into(folder / "data", folder / "bare", "bare")
    return folder / "data"


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[TestClient]:
    async with serving(data_dir) as made:
        yield made


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": "random", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 12} | changes


async def events_of(response: Any) -> list[dict[str, Any]]:
    assert response.headers["Content-Type"].startswith("text/event-stream")
    lines = (await response.read()).decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


async def test_a_streamed_answer_is_the_whole_answer(client: TestClient) -> None:
    """Same seed: deltas joined equal the message, usage is equal, and the finish reason comes last."""
    asked = chat(temperature=1, seed=5, max_tokens=40)
    whole = await (await client.post("/v1/chat/completions", json=asked)).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    events = await events_of(await client.post("/v1/chat/completions", json=asked | options))
    text = "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert events[-1] == events[-1] | {"choices": [], "usage": whole["usage"]}
    assert events[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 40


async def test_seeds_reproduce_and_differ(client: TestClient) -> None:
    """One seed, one answer; another seed, another."""

    async def answer(seed: int) -> str:
        body = await (await client.post("/v1/chat/completions", json=chat(temperature=1, seed=seed))).json()
        return body["choices"][0]["message"]["content"]

    first, again, other = await answer(1), await answer(1), await answer(2)
    assert first == again != other


async def test_experts_that_worked_are_reported_on_request(client: TestClient) -> None:
    """Three experts per token and routed layer, each of which is verified then."""
    body = await (await client.post("/v1/chat/completions", json=chat(blyan={"experts": True}))).json()
    used = {(layer, expert): count for layer, expert, count in body["blyan"]["experts"]}
    positions = body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"] - 1
    assert sum(used.values()) == positions * 3 * 3  # top-3 in three routed layers; the last token is not fed back
    grid = await (await client.get("/network/experts", params={"model": "random"})).json()
    states = {(block["layer"], block["expert"]): block["state"] for block in grid["blocks"]}
    assert all(states[place] == "verified" for place in used)
    events = await events_of(
        await client.post("/v1/chat/completions", json=chat(stream=True, temperature=0, blyan={"experts": True}))
    )
    streamed = [tuple(place) for event in events if "blyan" in event for place in event["blyan"]["experts"]]
    assert sum(count for _, _, count in streamed) == positions * 9


async def test_each_block_names_the_entry_that_names_it(client: TestClient) -> None:
    """So that whoever wants its proof needs no search."""
    grid = await (await client.get("/network/experts", params={"model": "random"})).json()
    numbers = [block["entry"] for block in grid["blocks"]]
    assert max(numbers) < grid["checkpoint"]["size"]
    for block in grid["blocks"][::7]:
        proof = await (await client.get("/chain/parameter/proof", params={"index": block["entry"]})).json()
        assert proof["entry"]["payload"]["id"] == block["payload"]


async def test_without_asking_no_extension_is_sent(client: TestClient) -> None:
    """Clients of the plain dialect see the plain dialect."""
    body = await (await client.post("/v1/chat/completions", json=chat())).json()
    assert set(body) == {"id", "object", "created", "model", "choices", "usage"}


async def test_stop_strings_end_the_answer_and_are_not_sent(client: TestClient) -> None:
    """Whole and streamed alike, also where the string crosses tokens."""
    free = await (await client.post("/v1/chat/completions", json=chat(temperature=0, max_tokens=40))).json()
    text = free["choices"][0]["message"]["content"]
    word = text[5:8]
    expected = text[: text.index(word)]
    whole = await (
        await client.post("/v1/chat/completions", json=chat(temperature=0, max_tokens=40, stop=[word, "never"]))
    ).json()
    assert whole["choices"][0]["message"]["content"] == expected
    assert whole["choices"][0]["finish_reason"] == "stop"
    asked = chat(temperature=0, max_tokens=40, stop=word, stream=True)
    events = await events_of(await client.post("/v1/chat/completions", json=asked))
    assert "".join(c["delta"].get("content", "") for e in events for c in e["choices"]) == expected


async def test_completions_echo_scores_and_offsets(client: TestClient) -> None:
    """`echo` with `max_tokens` 0 scores the prompt; offsets point into the text; streaming gives the same."""
    asked = {"model": "random", "prompt": "abcé", "echo": True, "max_tokens": 3, "logprobs": 2, "temperature": 0}
    whole = (await (await client.post("/v1/completions", json=asked)).json())["choices"][0]
    found = whole["logprobs"]
    assert whole["text"].startswith("abc")
    assert found["tokens"][:5] == ["a", "b", "c", "bytes:\\xc3", "bytes:\\xa9"]
    assert found["text_offset"][:4] == [0, 1, 2, 3]
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    assert all(len(top) == 2 for top in found["top_logprobs"][1:])
    events = await events_of(await client.post("/v1/completions", json=asked | {"stream": True}))
    assert "".join(event["choices"][0]["text"] for event in events) == whole["text"]
    tokens = [
        token
        for event in events
        if event["choices"][0]["logprobs"]
        for token in event["choices"][0]["logprobs"]["tokens"]
    ]
    assert tokens == found["tokens"]


async def test_several_prompts_give_several_choices(client: TestClient) -> None:
    """In order, each as if alone."""
    asked = {"model": "random", "max_tokens": 4, "temperature": 0}
    both = await (await client.post("/v1/completions", json=asked | {"prompt": ["ab", "cd"]})).json()
    alone = await (await client.post("/v1/completions", json=asked | {"prompt": "cd"})).json()
    assert [choice["index"] for choice in both["choices"]] == [0, 1]
    assert both["choices"][1]["text"] == alone["choices"][0]["text"]


async def test_chat_logprobs_name_tokens_and_bytes(client: TestClient) -> None:
    """As many as tokens, each with its alternatives, the chosen one first when greedy."""
    asked = chat(temperature=0, logprobs=True, top_logprobs=3)
    body = await (await client.post("/v1/chat/completions", json=asked)).json()
    content = body["choices"][0]["logprobs"]["content"]
    assert len(content) == body["usage"]["completion_tokens"]
    for item in content:
        assert item["logprob"] == item["top_logprobs"][0]["logprob"]
        assert len(item["top_logprobs"]) == 3


async def test_a_later_prompt_that_does_not_fit_is_refused_before_the_first_is_computed(client: TestClient) -> None:
    """One status for all, streamed or not; never a second response inside the first."""
    for stream in (False, True):
        asked = {"model": "bare", "prompt": [[5], [6] * 20_000], "max_tokens": 2, "stream": stream}
        response = await client.post("/v1/completions", json=asked)
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "context_length_exceeded"


async def test_all_alternatives_are_reported_although_some_tokens_have_no_name(data_dir: Path, tmp_path: Path) -> None:
    """A vocabulary wider than its tokenizer: unnamed ids go by their number."""
    save_random_checkpoint(tmp_path / "wide", vocab_size=517)
    save_byte_tokenizer(tmp_path / "wide")
    import_into(tmp_path / "data", tmp_path / "wide", "wide")
    asked = {"model": "wide", "prompt": "hello", "max_tokens": 5, "logprobs": 20, "temperature": 0}
    async with serving(tmp_path / "data") as client:
        found = (await (await client.post("/v1/completions", json=asked)).json())["choices"][0]["logprobs"]
    assert [len(top) for top in found["top_logprobs"]] == [20] * 5
    for token, logprob, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
        assert top[token] == logprob == max(top.values())


async def test_values_that_are_not_finite_are_an_error_and_no_answer(tmp_path: Path) -> None:
    """A checkpoint in half precision whose activations overflow."""
    save_random_checkpoint(tmp_path / "loud", dtype="float16", scale=3e4, moe_intermediate_size=56)
    import_into(tmp_path / "data", tmp_path / "loud", "loud")
    async with serving(tmp_path / "data") as client:
        response = await client.post("/v1/completions", json={"model": "loud", "prompt": [1, 2, 3]})
        assert (response.status, (await response.json())["error"]["code"]) == (500, "not_computable")


async def test_a_long_prompt_computed_in_runs_scores_as_a_short_one(client: TestClient) -> None:
    """Streamed and whole scores of one prompt agree, and the prompt's experts are all counted."""
    prompt = [number % 250 for number in range(510)]
    asked = {
        "model": "bare",
        "prompt": prompt,
        "echo": True,
        "max_tokens": 2,
        "logprobs": 0,
        "blyan": {"experts": True},
    }
    body = await (await client.post("/v1/completions", json=asked)).json()
    assert len(body["choices"][0]["logprobs"]["tokens"]) == 512
    assert sum(count for _, _, count in body["blyan"]["experts"]) == 511 * 9


async def test_a_deeply_nested_value_is_refused_like_any_other(client: TestClient) -> None:
    """No recursion on what a caller sends."""
    raw = b'{"model": ' + b"[" * 900 + b"]" * 900 + b"}"
    headers = {"Content-Type": "application/json"}
    response = await client.post("/v1/chat/completions", data=raw, headers=headers)
    assert response.status == 400


async def test_a_model_without_tokenizer_takes_token_ids_alone(client: TestClient) -> None:
    """Text is refused with what to do instead; ids work."""
    refused = await client.post("/v1/completions", json={"model": "bare", "prompt": "text"})
    assert refused.status == 400
    assert "token ids" in (await refused.json())["error"]["hint"]
    answered = await client.post("/v1/completions", json={"model": "bare", "prompt": [1, 2], "max_tokens": 2})
    assert answered.status == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (chat(model="other"), 404, "not_found"),
        (chat(max_tokens=100_000), 400, "context_length_exceeded"),
        (chat(messages=[{"role": "user", "content": "x" * 600}], max_tokens=None), 400, "context_length_exceeded"),
        (chat(tools=[{"type": "function"}]), 400, "unsupported_parameter"),
        (chat(temperature=9), 400, "invalid_input"),
    ],
)
async def test_refusals_have_status_code_and_both_values(
    client: TestClient, body: dict[str, Any], status: int, code: str
) -> None:
    """The error object of the dialect, with our code, detail and hint; streamed requests too."""
    for stream in (False, True):
        response = await client.post("/v1/chat/completions", json=body | {"stream": stream})
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (status, code)
        assert set(error) == {"message", "type", "param", "code", "detail", "hint", "request_id"}
        assert error["request_id"] == response.headers["X-Request-Id"]
        assert "expected" in error["message"]
        assert "found" in error["message"]


async def test_token_ids_outside_the_vocabulary_are_refused(client: TestClient) -> None:
    """Before anything is computed."""
    for token in (-1, 260):
        response = await client.post("/v1/completions", json={"model": "bare", "prompt": [1, token]})
        assert response.status == 400


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b'"x"', b"\xff"])
async def test_bodies_that_are_no_json_object_are_refused(client: TestClient, raw: bytes) -> None:
    """400 with the reason."""
    headers = {"Content-Type": "application/json"}
    response = await client.post("/v1/chat/completions", data=raw, headers=headers)
    assert response.status == 400


async def test_other_content_types_are_refused(client: TestClient) -> None:
    """What a cross-site form can send is not read."""
    response = await client.post(
        "/v1/chat/completions", data=json.dumps(chat()), headers={"Content-Type": "text/plain"}
    )
    assert response.status == 400


async def test_a_body_that_is_not_what_its_headers_say_is_refused(client: TestClient) -> None:
    """No gzip behind Content-Encoding: gzip is the caller's mistake."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    response = await client.post("/v1/chat/completions", data=b"plain", headers=headers)
    assert response.status == 400


async def test_a_body_above_the_limit_is_refused(client: TestClient) -> None:
    """413, with the limit."""
    asked = chat(messages=[{"role": "user", "content": "x" * limits.request_body_bytes_max}])
    response = await client.post("/v1/chat/completions", json=asked)
    assert response.status == 413
    assert (await response.json())["error"]["code"] == "payload_too_large"


async def test_requests_for_another_host_are_denied(client: TestClient) -> None:
    """DNS rebinding: the page of another name gets nothing."""
    for path in ("/", "/v1/models", "/livez"):
        assert (await client.get(path, headers={"Host": "evil.example:8645"})).status == 403


async def test_posts_of_another_origin_are_denied(client: TestClient) -> None:
    """Same-origin pages and programs without an Origin pass."""
    evil = await client.post("/v1/chat/completions", json=chat(), headers={"Origin": "https://evil.example"})
    assert evil.status == 403
    null = await client.post("/v1/chat/completions", json=chat(), headers={"Origin": "null"})
    assert null.status == 403
    own = f"http://{client.host}:{client.port}"
    assert (await client.post("/v1/chat/completions", json=chat(), headers={"Origin": own})).status == 200


async def test_every_response_has_the_security_headers(client: TestClient) -> None:
    """Page, API, errors and streams."""
    responses = [await client.get("/"), await client.get("/v1/models"), await client.get("/nope")]
    responses.append(await client.post("/v1/chat/completions", json=chat(stream=True)))
    for response in responses:
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert responses[2].status == 404


async def test_wrong_methods_and_paths_say_so_in_json(client: TestClient) -> None:
    """405 with Allow, 404 with the path."""
    wrong = await client.get("/v1/chat/completions")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "POST")
    for path in ("/../pyproject.toml", "/..%2fpyproject.toml", "/vendor/", "/nope"):
        response = await client.get(path)
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "not_found"


async def test_models_and_health(client: TestClient) -> None:
    """The list, one of it, and the probes."""
    listed = await (await client.get("/v1/models")).json()
    assert [card["id"] for card in listed["data"]] == ["bare", "random"]
    card = await (await client.get("/v1/models/random")).json()
    assert card["blyan"]["state"] == "ready"
    assert card["blyan"]["parameters"] > card["blyan"]["active_parameters"] > 0
    assert (await client.get("/v1/models/none")).status == 404
    assert (await client.get("/livez")).status == 200
    assert (await client.get("/readyz")).status == 200
    verbose = await (await client.get("/readyz?verbose")).json()
    assert verbose == {"ready": True, "checks": {"models": "ok", "shutdown": "ok"}, "found_at_start": []}
    assert (await client.get("/readyz?exclude=nothing")).status == 400
    assert (await client.get("/network/experts")).status == 400
    assert (await client.get("/network/experts?model=none")).status == 404


async def test_a_caller_that_leaves_frees_the_compute_thread(client: TestClient) -> None:
    """A long stream is cut off; the next answer does not wait for its end."""
    asked = {"model": "bare", "prompt": [1], "max_tokens": 500, "stream": True, "temperature": 0}
    response = await client.post("/v1/completions", json=asked)
    await response.content.readany()
    response.close()
    async with asyncio.timeout(5):
        await (await client.post("/v1/completions", json=asked | {"max_tokens": 2, "stream": False})).json()


async def test_many_callers_get_each_their_own_answer(client: TestClient) -> None:
    """Twenty at once, interleaved, equal to twenty alone."""
    asked = {"model": "random", "max_tokens": 5, "temperature": 0}
    prompts = [f"prompt {number}" for number in range(20)]

    async def answer(prompt: str) -> str:
        body = await (await client.post("/v1/completions", json=asked | {"prompt": prompt})).json()
        return body["choices"][0]["text"]

    together = await asyncio.gather(*map(answer, prompts))
    assert together == [await answer(prompt) for prompt in prompts]


async def test_a_full_queue_is_429_with_retry_after(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller is told when to come again; where others fill the queue, it is the node that is full."""
    monkeypatch.setattr(limits, "generations_queued_max", 0)
    response = await client.post("/v1/chat/completions", json=chat())
    assert response.status == 429
    assert int(response.headers["Retry-After"]) > 0


async def test_a_model_without_a_template_chats_by_a_plain_one(tmp_path: Path) -> None:
    """And an answer ends where the model begins to play the other part."""
    save_random_checkpoint(tmp_path / "hf", vocab_size=260)
    save_byte_tokenizer(tmp_path / "hf", template=None)
    import_into(tmp_path / "data", tmp_path / "hf", "plain")
    async with serving(tmp_path / "data") as client:
        answer = await client.post("/v1/chat/completions", json=chat(model="plain", temperature=0))
        assert answer.status == 200
        told = await answer.json()
        prompt = "User: hello\n\nAssistant:"
        assert told["usage"]["prompt_tokens"] == len(prompt)
        same = await client.post(
            "/v1/completions", json={"model": "plain", "prompt": prompt, "max_tokens": 12, "temperature": 0}
        )
        assert (await same.json())["choices"][0]["text"] == told["choices"][0]["message"]["content"]


async def test_bodies_under_way_have_a_limit(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """All together; those of requests that have ended do not count."""
    monkeypatch.setattr(limits, "bodies_bytes_max", 3_000)
    body = {"model": "random", "prompt": [1], "max_tokens": 1}
    for count, status in ((9, 200), (9, 200), (16, 429), (9, 200)):
        response = await client.post("/v1/completions", json={**body, "stop": ["y" * 200] * count})
        assert (response.status, "Retry-After" in response.headers) == (status, status == 429)
