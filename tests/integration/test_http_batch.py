"""Many generations of a real node at once: bounded memory, guesses ahead, and who counts as one client."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from blyan.api.state import node_key
from blyan.inference.batching import Batching
from blyan.node.config import read_config
from blyan.node.node import Node, Sources
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import command, fixed_entropy, fixed_seconds, import_into, serving, writing


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


def node_of_app(client: TestClient) -> Node:
    app: Any = client.server
    return app.app[node_key]


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": "random", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 12} | changes


async def test_a_prompt_that_memory_cannot_hold_is_refused_and_an_answer_is_cut_to_it(data_dir: Path) -> None:
    """Keys and values have a bound: both numbers are said, and the setting that moves it."""
    async with serving(data_dir, inference={"kv_memory": "1.2MiB"}) as client:
        asked = {"model": "bare", "prompt": [1] * 10, "max_tokens": 480, "temperature": 0, "ignore_eos": True}
        body = await (await client.post("/v1/completions", json=asked)).json()
        most = body["usage"]["total_tokens"]
        assert most < 490
        assert body["choices"][0]["finish_reason"] == "length"
        refused = await client.post("/v1/completions", json=asked | {"prompt": [1] * (most + 1), "max_tokens": 1})
        error = (await refused.json())["error"]
        assert (refused.status, error["code"]) == (400, "context_length_exceeded")
        assert f"at most {most} tokens" in error["message"]
        assert "inference.kv_memory" in error["hint"]
        refused = await client.post("/v1/embeddings", json={"model": "bare", "input": [1] * (most + 1)})
        assert (refused.status, (await refused.json())["error"]["code"]) == (400, "context_length_exceeded")


def test_a_memory_that_holds_no_short_answer_is_refused_before_the_start(data_dir: Path, tmp_path: Path) -> None:
    """By `config check` where no model could do with it, by `up` where those that are here cannot."""
    with pytest.raises(InvalidInput, match=r"kv_memory: expected at least 1048576 bytes, found 0"):
        read_config(data_dir, {"inference": {"kv_memory": "0"}}, {})
    (tmp_path / "node.toml").write_text('[inference]\nkv_memory = "20KiB"\n')
    assert "expected at least 1048576 bytes, found 20480" in command("config", "check", data_dir=tmp_path).stderr
    save_random_checkpoint(tmp_path / "hf", vocab_size=260, num_hidden_layers=8)
    import_into(tmp_path / "data", tmp_path / "hf", "deep")
    (tmp_path / "data/node.toml").write_text('[inference]\nkv_memory = "1MiB"\n')
    done = command("up", "--no-browser", "--listen", "127.0.0.1:0", data_dir=tmp_path / "data")
    least = re.search(r"inference.kv_memory: expected at least (\d+) bytes, found 1048576", done.stderr)
    assert least is not None, done.stderr
    assert done.returncode == 1
    with writing(tmp_path / "data") as ground:
        for kv_bytes, starts in ((int(least[1]) - 1, False), (int(least[1]), True)):
            config = read_config(tmp_path / "data", {"inference": {"kv_memory": str(kv_bytes)}}, {})
            node = Node(config, ground, Sources(fixed_seconds, lambda: 0.0, fixed_entropy))
            try:
                with contextlib.nullcontext() if starts else pytest.raises(InvalidInput):
                    node.start()
            finally:
                node.close()


async def test_answers_are_the_same_when_tokens_are_guessed_ahead(data_dir: Path) -> None:
    """Greedy, seeded, with a grammar, with a stop string."""
    asked = [
        chat(temperature=0, max_tokens=60),
        chat(temperature=1, seed=3, max_tokens=60, frequency_penalty=0.5),
        chat(temperature=0, max_tokens=60, stop=["e"]),
        chat(temperature=0, max_tokens=60, response_format={"type": "json_object"}, n=2),
    ]
    found: list[Any] = []
    for drafts in (0, 4):
        async with serving(data_dir, inference={"draft_tokens": drafts}) as client:
            bodies = await asyncio.gather(*(client.post("/v1/chat/completions", json=each) for each in asked))
            found.append([(await body.json())["choices"] for body in bodies])
    assert found[0] == found[1]


async def test_callers_are_told_apart_by_key_and_user(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """One fills its share of the queue and is refused; another key, or another user of the same key, is not."""
    seen: list[str] = []
    submit = node_of_app(client).scheduler.submit

    def noting(*arguments: Any, client: str, **named: Any) -> Any:
        seen.append(client)
        return submit(*arguments, client=client, **named)

    monkeypatch.setattr(node_of_app(client).scheduler, "submit", noting)
    for key, user in (("a", None), ("b", None), ("a", "x"), ("a", "y"), ("a", None)):
        body = chat(max_tokens=1) | ({"user": user} if user else {})
        headers = {"Authorization": f"Bearer {key}"}
        assert (await client.post("/v1/chat/completions", json=body, headers=headers)).status == 200
    assert len(set(seen)) == 4
    assert seen[0] == seen[4]
    assert not any("Bearer" in each for each in seen)


async def test_streamed_choices_are_computed_together_and_come_interleaved(client: TestClient) -> None:
    """Each with its number, in its own order; the same texts as alone, and usage that counts the prompt once."""
    asked = chat(n=4, seed=3, temperature=1, max_tokens=24, ignore_eos=True)
    whole = await (await client.post("/v1/chat/completions", json=asked)).json()
    response = await client.post(
        "/v1/chat/completions", json=asked | {"stream": True, "stream_options": {"include_usage": True}}
    )
    lines = [line[6:] for line in (await response.text()).split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    *chunks, last = map(json.loads, lines)
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    ends = [number for number, choice in enumerate(choices) if choice["finish_reason"]]
    order = [choice["index"] for choice in choices]
    assert set(order[: ends[0]]) == {0, 1, 2, 3}, "all have begun before the first has ended"
    for index in range(4):
        mine = [choice for choice in choices if choice["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert [choice["finish_reason"] for choice in mine[1:]] == [None] * (len(mine) - 2) + ["length"]
        text = "".join(choice["delta"].get("content", "") for choice in mine)
        assert text == whole["choices"][index]["message"]["content"]


async def test_who_leaves_a_stream_of_several_choices_frees_all_of_them(client: TestClient) -> None:
    """Pages too."""
    node = node_of_app(client)
    asked = chat(n=8, temperature=1, max_tokens=400, ignore_eos=True, stream=True)
    response = await client.post("/v1/chat/completions", json=asked)
    await response.content.readany()
    assert sum(node.scheduler.depth()) > 1
    response.close()
    for _ in range(100):
        if node.scheduler.depth() == (0, 0):
            break
        await asyncio.sleep(0.02)
    assert node.scheduler.depth() == (0, 0)
    assert node.scheduler.engines.usage().used == 0


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
async def test_an_answer_past_its_deadline_ends_and_frees_what_it_held(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, dialect: str
) -> None:
    """With the tokens that came in time; whole answers are refused with 503, and the next request is served."""
    node = node_of_app(client)
    step = Batching.step
    monkeypatch.setattr(Batching, "step", lambda batching: (time.sleep(0.02), step(batching))[1])
    with monkeypatch.context() as hurried:
        hurried.setattr(limits, "request_seconds_max", 0.6)
        if dialect == "openai":
            asked = chat(max_tokens=400, ignore_eos=True, stream=True)
            body = await (await client.post("/v1/chat/completions", json=asked)).text()
            assert body.count('"content"') >= 2  # the role, and a piece at least
            assert json.loads(body.strip().rsplit("data: ", 1)[1])["error"]["code"] == "unavailable"
            refused = await client.post("/v1/chat/completions", json=asked | {"stream": False})
        else:
            options = {"num_predict": 400, "temperature": 0}
            asked = {"model": "random", "prompt": "hello", "raw": True, "options": options}
            lines = (await (await client.post("/api/generate", json=asked)).text()).splitlines()
            assert "expected an end within 0.6 s" in json.loads(lines[-1])["error"]
            refused = await client.post("/api/generate", json=asked | {"stream": False})
        assert (refused.status, "expected an end within 0.6 s" in await refused.text()) == (503, True)
    async with asyncio.timeout(10):
        while node.scheduler.depth() != (0, 0):  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.02)
    assert node.scheduler.engines.usage().used == 0
    assert (await client.post("/v1/chat/completions", json=chat(max_tokens=2))).status == 200


async def test_a_body_that_does_not_unpack_is_answered_and_fills_no_log(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Whose fault it is, one line says; the next request on a new connection is served."""
    packed = {"Content-Encoding": "gzip", "Content-Type": "application/json", "Connection": "close"}
    response = await client.post("/v1/completions", data=b"no gzip", headers=packed)
    assert (response.status, "as its headers say" in await response.text()) == (400, True)
    assert (await client.get("/livez")).status == 200
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
