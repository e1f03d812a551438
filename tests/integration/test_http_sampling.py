"""How answers are chosen, asked for over HTTP: several of them, biases, penalties."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, serving


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sampling")
    save_random_checkpoint(folder / "hf", vocab_size=260)
    save_byte_tokenizer(folder / "hf")
    import_into(folder / "data", folder / "hf", "random")
    return folder / "data"


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[TestClient]:
    async with serving(data_dir) as made:
        yield made


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": "random", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 12} | changes


async def events_of(response: Any) -> list[dict[str, Any]]:
    lines = (await response.read()).decode().split("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


async def test_several_answers_to_one_prompt(client: TestClient) -> None:
    """The first is the one that a single request of the same seed gets; the prompt counts once."""
    asked = chat(temperature=1, seed=11)
    one = await (await client.post("/v1/chat/completions", json=asked)).json()
    three = await (await client.post("/v1/chat/completions", json=asked | {"n": 3})).json()
    texts = [choice["message"]["content"] for choice in three["choices"]]
    assert [choice["index"] for choice in three["choices"]] == [0, 1, 2]
    assert texts[0] == one["choices"][0]["message"]["content"]
    assert len(set(texts)) == 3
    assert three["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert three["usage"]["completion_tokens"] == 36
    events = await events_of(await client.post("/v1/chat/completions", json=asked | {"n": 3, "stream": True}))
    streamed = ["", "", ""]
    for event in events:
        for choice in event["choices"]:
            streamed[choice["index"]] += choice["delta"].get("content", "")
    assert streamed == texts
    asked = {"model": "random", "prompt": ["a", "b"], "n": 2, "max_tokens": 3, "seed": 1, "temperature": 1}
    body = await (await client.post("/v1/completions", json=asked)).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"] == {"prompt_tokens": 2, "completion_tokens": 12, "total_tokens": 14}


async def test_biases_and_penalties_change_what_is_said(client: TestClient) -> None:
    """A token at +100 is all that comes; with a penalty for each time it does not stay."""
    asked = {"model": "random", "prompt": "a", "max_tokens": 8, "temperature": 0, "logit_bias": {"65": 100}}
    asked |= {"return_token_ids": True, "ignore_eos": True}
    biased = (await (await client.post("/v1/completions", json=asked)).json())["choices"][0]
    assert biased["token_ids"] == [65] * 8
    plain = {"model": "random", "prompt": "a", "max_tokens": 40, "temperature": 0, "return_token_ids": True}
    one = (await (await client.post("/v1/completions", json=plain)).json())["choices"][0]["token_ids"]
    varied = plain | {"frequency_penalty": 2, "presence_penalty": 2}
    two = (await (await client.post("/v1/completions", json=varied)).json())["choices"][0]["token_ids"]
    assert one != two
    refused = await client.post("/v1/completions", json=plain | {"logit_bias": {"9999999": 1}})
    assert refused.status == 400
