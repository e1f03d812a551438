"""The first minutes of a user: nothing there, `blyan up`, an answer; and the same with the official client."""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from nodes import RunningNode, running
from nodes import command_apart as command


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningNode, Path]]:
    data_dir = tmp_path_factory.mktemp("first") / "not" / "yet" / "there"
    with running(data_dir, apart=True) as started:
        yield started, data_dir


@pytest.fixture
def client(node: tuple[RunningNode, Path]) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{node[0].url}/v1", api_key="none", max_retries=0)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def test_a_new_folder_becomes_a_node_with_the_built_in_model(node: tuple[RunningNode, Path]) -> None:
    """Ready, with a page, keys, blobs and chains where the documents say."""
    running_node, data_dir = node
    assert get(f"{running_node.url}/readyz") == "ok\n"
    assert "<script" in get(f"{running_node.url}/")
    (card,) = json.loads(get(f"{running_node.url}/v1/models"))["data"]
    assert (card["id"], card["blyan"]["family"], card["blyan"]["state"]) == ("blyan-genesis", "qwen3_moe", "ready")
    assert 7_000_000 < card["blyan"]["parameters"] < 9_000_000
    for name in ("LOCK", "keys/node.key", "chain/meta/checkpoint", "chain/parameter/checkpoint", "blobs"):
        assert (data_dir / name).exists()


def test_the_official_client_chats_and_streams(client: openai.OpenAI) -> None:
    """Model list, whole answer, streamed answer, usage."""
    model = client.models.list().data[0].id
    assert client.models.retrieve(model).id == model
    messages = [{"role": "user", "content": "What is 23 + 45?"}]
    whole = client.chat.completions.create(model=model, messages=messages)
    assert "68" in (whole.choices[0].message.content or "")
    assert whole.choices[0].finish_reason == "stop"
    stream = client.chat.completions.create(
        model=model,
        messages=messages,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_the_official_client_completes_with_token_ids_and_logprobs(client: openai.OpenAI) -> None:
    """`echo` with `max_tokens` 0 scores a prompt of ids."""
    scored = client.completions.create(model="blyan-genesis", prompt=[5, 6, 7], max_tokens=0, echo=True, logprobs=3)
    logprobs = scored.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    assert len(logprobs.token_logprobs) == 3
    assert logprobs.token_logprobs[0] is None


def test_the_official_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    """Status and code become the exceptions that programs catch."""
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="none", messages=[{"role": "user", "content": "x"}])
    assert missing.value.code == "not_found"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="blyan-genesis", messages=[])


def test_chat_on_the_command_line_needs_no_running_node(tmp_path: Path) -> None:
    """Data is the answer alone."""
    done = command("chat", "What is 12 + 30?", data_dir=tmp_path / "new")
    assert (done.returncode, "42" in done.stdout) == (0, True)


def test_a_second_start_takes_seconds(tmp_path: Path) -> None:
    """Well below the 15 s that are promised, on whatever runs the tests."""
    with running(tmp_path / "data", apart=True) as first:
        first.stop()
    started = time.monotonic()
    with running(tmp_path / "data", apart=True) as second:
        assert get(f"{second.url}/readyz") == "ok\n"
        assert time.monotonic() - started < 15
        second.stop()


def test_init_is_done_in_seconds_and_can_be_repeated(tmp_path: Path) -> None:
    """The built-in model is on the chain as ordinary blocks: 32 experts, 4 layers, embedding, head, tokenizer."""
    started = time.monotonic()
    assert command("init", data_dir=tmp_path).returncode == 0
    assert time.monotonic() - started < 15
    again = command("init", data_dir=tmp_path)
    assert "was there already" in again.stderr
    chains = {
        c["chain"]: c["size"]
        for c in json.loads(command("chain", "status", "--json", data_dir=tmp_path).stdout)["chains"]
    }
    assert chains == {"meta": 2, "parameter": 39, "dataset": 0}
    assert command("model", "verify", "--all", data_dir=tmp_path).returncode == 0


@pytest.mark.slow
def test_a_start_repairs_nothing_and_init_does(tmp_path: Path) -> None:
    """A flipped bit in an expert of the built-in model: `up` serves what is whole and names it, `init` mends it."""
    assert command("init", data_dir=tmp_path).returncode == 0
    with running(tmp_path, apart=True) as node:
        grid = json.loads(get(f"{node.url}/network/experts?model=blyan-genesis"))
        node.stop()
    block = next(found for found in grid["blocks"] if found["expert"] is not None)
    path = tmp_path / block["file"]
    raw = bytearray(path.read_bytes())
    raw[300_000] ^= 4
    path.write_bytes(raw)
    with running(tmp_path, apart=True) as node:
        asked = command("chat", "What is 23 + 45?", data_dir=tmp_path)
        if asked.returncode != 0:  # a question that did not need this expert is answered
            assert asked.returncode == 7
            assert block["payload"] in asked.stderr
        states = {"": "unverified"}
        while "unverified" in states.values():  # the background check names it all the same
            grid = json.loads(get(f"{node.url}/network/experts?model=blyan-genesis"))
            states = {found["part"]: found["state"] for found in grid["blocks"]}
        assert [part for part, state in states.items() if state != "verified"] == [block["part"]]
        node.stop()
    assert command("model", "verify", "--all", data_dir=tmp_path).returncode == 7
    assert command("init", data_dir=tmp_path).returncode == 0
    assert command("model", "verify", "--all", data_dir=tmp_path).returncode == 0
