"""The Ollama dialect of a real node: with the official client, and byte by byte where a client would hide it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest
from aiohttp.test_utils import TestClient

from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, serving

GREEDY = {"temperature": 0, "num_predict": 12}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ollama")
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


def official(client: TestClient) -> ollama.AsyncClient:
    return ollama.AsyncClient(host=str(client.make_url("/")))


async def lines_of(client: TestClient, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    response = await client.post(path, json=body)
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in (await response.text()).splitlines()]


async def test_the_official_client_lists_shows_and_chats(client: TestClient) -> None:
    """Streamed and whole answers are equal, and equal the OpenAI door's."""
    theirs = official(client)
    listed = await theirs.list()
    assert [model.model for model in listed.models] == ["bare:latest", "random:latest"]
    shown = await theirs.show("random:latest")
    assert shown.details is not None
    assert shown.details.family == "qwen3_moe"
    messages = [{"role": "user", "content": "hello"}]
    whole = await theirs.chat("random", messages=messages, options=GREEDY)
    assert whole.done_reason == "length"
    assert whole.eval_count == 12
    pieces = [
        piece.message.content or ""
        async for piece in await theirs.chat("random", messages=messages, options=GREEDY, stream=True)
    ]
    assert "".join(pieces) == whole.message.content
    asked = {"model": "random", "messages": messages, "max_tokens": 12, "temperature": 0}
    other = await (await client.post("/v1/chat/completions", json=asked)).json()
    assert other["choices"][0]["message"]["content"] == whole.message.content
    assert [model.model for model in (await theirs.ps()).models] == ["random:latest"]


async def test_generate_takes_prompts_raw_text_and_an_earlier_context(client: TestClient) -> None:
    """Through the template by default; the context goes on where the answer ended."""
    theirs = official(client)
    templated = await theirs.generate("random", "hello", options=GREEDY)
    chatted = await theirs.chat("random", messages=[{"role": "user", "content": "hello"}], options=GREEDY)
    assert templated.response == chatted.message.content
    raw = await theirs.generate("random", "hello", raw=True, options=GREEDY)
    asked = {"model": "random", "prompt": "hello", "max_tokens": 12, "temperature": 0}
    other = await (await client.post("/v1/completions", json=asked)).json()
    assert raw.response == other["choices"][0]["text"]
    assert raw.prompt_eval_count == 5
    more = await theirs.generate("random", "!", raw=True, context=list(raw.context or []), options=GREEDY)
    assert more.prompt_eval_count == 5 + 12 + 1
    system = await theirs.generate("random", "hello", system="be brief", options=GREEDY)
    assert (system.prompt_eval_count or 0) > (templated.prompt_eval_count or 0)


async def test_a_request_s_own_template_stands_in_place_of_the_model_s(client: TestClient) -> None:
    """Go's or Jinja's; what it cannot say is refused by name."""
    theirs = official(client)
    own = await theirs.generate("random", "hello", system="S", options=GREEDY)
    raw = await theirs.generate("random", "[S] hello!", raw=True, options=GREEDY)
    for template in ("[{{ .System }}] {{ .Prompt }}!", "[{{ messages[0].content }}] {{ messages[1].content }}!"):
        found = await theirs.generate("random", "hello", system="S", template=template, options=GREEDY)
        assert found.prompt_eval_count == len("[S] hello!")
        assert found.response == raw.response != own.response
    with pytest.raises(ollama.ResponseError, match="template"):
        await theirs.generate("random", "hello", template="{{ .Tools }}")


async def test_lines_are_json_each_with_a_time_and_the_last_with_durations(client: TestClient) -> None:
    """Streaming is the default; nanoseconds."""
    lines = await lines_of(client, "/api/generate", {"model": "random", "prompt": "x", "options": GREEDY})
    assert all(line["model"] == "random" and line["created_at"].endswith("Z") for line in lines)
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    last = lines[-1]
    assert last["response"] == ""
    assert last["eval_count"] == 12
    for name in ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"):
        assert isinstance(last[name], int)
    assert len(last["context"]) == last["prompt_eval_count"] + 12


async def test_embeddings_of_both_routes_and_of_the_openai_one_agree(client: TestClient) -> None:
    """Unit length; one for each text; a long text is cut, or refused where that is asked for."""
    theirs = official(client)
    found = await theirs.embed("random", ["hello", "hello!", "something else"])
    vectors = found.embeddings
    assert len(vectors) == 3
    assert all(abs(sum(x * x for x in vector) - 1) < 1e-6 for vector in vectors)
    near, far = (sum(a * b for a, b in zip(vectors[0], vectors[n], strict=True)) for n in (1, 2))
    assert near > far
    older = await theirs.embeddings("random", "hello")
    assert list(older.embedding) == pytest.approx(list(vectors[0]))
    asked = {"model": "random", "input": ["hello", "hello!"]}
    plain = await (await client.post("/v1/embeddings", json=asked)).json()
    assert plain["data"][0]["embedding"] == pytest.approx(list(vectors[0]))
    assert plain["usage"] == {"prompt_tokens": 11, "total_tokens": 11}
    async with openai.AsyncOpenAI(base_url=str(client.make_url("/v1")), api_key="none") as client_of_openai:
        packed = await client_of_openai.embeddings.create(model="random", input="hello")  # asks for base64
    assert packed.data[0].embedding == pytest.approx(list(vectors[0]), abs=1e-6)
    long = "a" * 2_000
    assert len((await theirs.embed("random", long)).embeddings) == 1
    with pytest.raises(ollama.ResponseError, match="expected at most"):
        await theirs.embed("random", long, truncate=False)


async def test_a_request_without_a_prompt_loads_and_unloads(client: TestClient) -> None:
    """As clients do to warm a model up."""
    for body, reason in (({}, "load"), ({"keep_alive": 0}, "unload")):
        for path in ("/api/generate", "/api/chat"):
            answer = await (await client.post(path, json={"model": "random"} | body)).json()
            assert (answer["done"], answer["done_reason"]) == (True, reason)


async def test_ps_names_what_was_asked_for_as_long_as_it_is_to_be_kept(client: TestClient) -> None:
    """Five minutes if nothing is said; both doors count; 0 lets go, a negative number is for ever."""
    theirs = official(client)

    async def loaded() -> dict[str, str]:
        found = await (await client.get("/api/ps")).json()
        return {model["name"]: model["expires_at"] for model in found["models"]}

    assert await loaded() == {}
    await client.post("/v1/completions", json={"model": "bare", "prompt": [1], "max_tokens": 1})
    assert await loaded() == {"bare:latest": "2023-11-14T22:18:20Z"}
    await theirs.generate("random", "x", options=GREEDY, keep_alive="1h1m")
    await theirs.generate("bare", keep_alive=0)
    assert await loaded() == {"random:latest": "2023-11-14T23:14:20Z"}
    await theirs.embed("random", "x", keep_alive=-1)
    assert await loaded() == {"random:latest": "9999-12-31T23:59:59Z"}
    await client.post("/v1/completions", json={"model": "random", "prompt": [1], "max_tokens": 1})
    assert await loaded() == {"random:latest": "9999-12-31T23:59:59Z"}, "who says nothing changes nothing"
    for wrong in ("soon", "5 m", "5mm", True, [], "1e3"):
        answer = await client.post("/api/generate", json={"model": "random", "keep_alive": wrong})
        assert (answer.status, "keep_alive" in (await answer.json())["error"]) == (400, True)


def private_bytes() -> int:
    """Memory that this process has for itself."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(size) << 10 for size in re.findall(r"Private_(?:Clean|Dirty):\s+(\d+)", rollup))


@pytest.mark.slow
async def test_a_model_that_is_let_go_gives_its_memory_back(tmp_path: Path) -> None:
    """Keys, values and tables; the next request computes what it computed before."""
    wide = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 128}
    save_random_checkpoint(tmp_path / "hf", vocab_size=260, max_position_embeddings=4096, **wide)
    import_into(tmp_path / "data", tmp_path / "hf", "wide")
    asked = {"model": "wide", "prompt": [n % 250 for n in range(600)], "max_tokens": 1, "temperature": 0}
    asked["return_token_ids"] = True
    async with serving(tmp_path / "data") as client:

        async def told() -> list[int]:
            answer = await (await client.post("/v1/completions", json=asked)).json()
            return answer["choices"][0]["token_ids"]

        async def given_back() -> tuple[int, int]:
            """What one more answer takes, and what stays of it once the model is let go."""
            before = private_bytes()
            assert await told() == first
            taken = private_bytes() - before
            await client.post("/api/generate", json={"model": "wide", "keep_alive": 0})
            assert (await (await client.get("/api/ps")).json())["models"] == []
            await asyncio.sleep(0.3)
            return taken, private_bytes() - before

        first = await told()
        await client.post("/api/generate", json={"model": "wide", "keep_alive": 0})
        await asyncio.sleep(0.3)
        # what stays of the first times is code, tables of the libraries and what other tests in this process leave
        rounds = [await given_back() for _ in range(4)]
        assert any(taken > 8 << 20 and left < taken / 4 for taken, left in rounds), rounds
        assert await told() == first
        loaded = await (await client.post("/api/generate", json={"model": "wide"})).json()
        assert loaded["done_reason"] == "load"


async def test_errors_are_text_with_a_status(client: TestClient) -> None:
    """The client raises them as its own."""
    theirs = official(client)
    with pytest.raises(ollama.ResponseError, match="model 'nobody' not found") as refused:
        await theirs.chat("nobody", messages=[])
    assert refused.value.status_code == 404
    for options, said in (
        ({"temperature": 9}, "temperature: expected 0 to 2"),
        ({"mirostat": 2}, "mirostat: expected none"),
        ({"unheard_of": 1}, "unheard_of: expected a known option"),
    ):
        with pytest.raises(ollama.ResponseError, match=said):
            await theirs.generate("random", "x", options=options)
    response = await client.post("/api/generate", json={"model": "random", "prompt": "x", "format": "yaml"})
    assert "format: expected a schema" in (await response.json())["error"]
    with pytest.raises(ollama.ResponseError, match="expected a tokenizer"):
        await theirs.generate("bare", "x")
    response = await client.post("/api/chat", data=b"{", headers={"Content-Type": "application/json"})
    assert (response.status, list(await response.json())) == (400, ["error"])


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("embeddings", {"prompt": []}),
        ("embed", {"input": "x", "bogus": 1}),
        ("generate", {"prompt": "x", "options": "abc"}),
    ],
)
async def test_fields_of_another_kind_are_refused(client: TestClient, path: str, changes: dict[str, Any]) -> None:
    """And unknown ones."""
    response = await client.post(f"/api/{path}", json={"model": "random"} | changes)
    assert (response.status, list(await response.json())) == (400, ["error"])


async def test_num_ctx_bounds_prompt_and_answer_together(client: TestClient) -> None:
    """And stop strings, seeds and penalties arrive."""
    theirs = official(client)
    short = await theirs.generate("random", "hello", raw=True, options={"temperature": 0, "num_ctx": 8})
    assert short.eval_count == 3
    varied = {"temperature": 1, "seed": 4, "num_predict": 20, "repeat_penalty": 1.5, "top_k": 50, "min_p": 0.01}
    one, two = [(await theirs.generate("random", "hello", options=varied)).response for _ in range(2)]
    assert one == two


async def test_a_plain_curl_is_answered_and_another_site_is_not(client: TestClient) -> None:
    """`curl -d` sends a form's content type; a page of another site sends its origin."""
    body = json.dumps({"model": "random", "prompt": "x", "stream": False, "options": GREEDY})
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await client.post("/api/generate", data=body, headers=form)).status == 200
    denied = await client.post("/api/generate", data=body, headers=form | {"Origin": "https://evil.example"})
    assert denied.status == 403


async def test_a_caller_that_leaves_frees_the_compute_thread(client: TestClient) -> None:
    """In the middle of a stream."""
    body = {"model": "random", "prompt": "x", "options": {"temperature": 1, "num_predict": 400}}
    response = await client.post("/api/generate", json=body)
    await response.content.readline()
    response.close()
    async with asyncio.timeout(10):
        answer = await client.post("/api/generate", json=body | {"stream": False, "options": GREEDY})
    assert answer.status == 200
