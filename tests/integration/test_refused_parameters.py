"""Which field of a request is to blame: `param` of the OpenAI dialect, the first word of Ollama's errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp.test_utils import TestClient

from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, serving

HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refused")
    save_random_checkpoint(folder / "bare", vocab_size=260)
    import_into(folder / "data", folder / "bare", "bare")
    save_random_checkpoint(folder / "random", vocab_size=260)
    save_byte_tokenizer(folder / "random")
    import_into(folder / "data", folder / "random", "random")
    return folder / "data"


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[TestClient]:
    async with serving(data_dir) as made:
        yield made


def long(count: int) -> list[Any]:
    return [{"role": "user", "content": "x" * count}]


CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("chat/completions", {"temperature": 9}, "temperature", "invalid_input"),
    ("chat/completions", {"n": 99}, "n", "invalid_input"),
    ("chat/completions", {"top_logprobs": 99}, "top_logprobs", "invalid_input"),
    ("chat/completions", {"tools": [{}]}, "tools", "unsupported_parameter"),
    ("chat/completions", {"presence_penalty": 3}, "presence_penalty", "invalid_input"),
    ("chat/completions", {"logit_bias": {"x": 1}}, "logit_bias", "invalid_input"),
    ("chat/completions", {"logit_bias": {"260": 1}}, "logit_bias", "invalid_input"),
    ("chat/completions", {"max_tokens": 100_000}, "messages", "context_length_exceeded"),
    ("chat/completions", {"messages": long(600)}, "messages", "context_length_exceeded"),
    ("chat/completions", {"messages": long(2_500_000)}, "messages", "context_length_exceeded"),
    ("chat/completions", {"model": "bare"}, "model", "invalid_input"),
    ("chat/completions", {"store": True}, "store", "unsupported_parameter"),
    ("chat/completions", {"service_tier": "priority"}, "service_tier", "unsupported_parameter"),
    ("completions", {"prompt": ""}, "prompt", "invalid_input"),
    ("completions", {"prompt": ["x", ""]}, "prompt", "invalid_input"),
    ("completions", {"prompt": [1, 260]}, "prompt", "invalid_input"),
    ("completions", {"prompt": [[1], [-1]]}, "prompt", "invalid_input"),
    ("completions", {"prompt": "x" * 600}, "prompt", "context_length_exceeded"),
    ("completions", {"prompt": "x", "max_tokens": 5_000}, "prompt", "context_length_exceeded"),
    ("completions", {"prompt": "x", "logit_bias": {"260": 1}}, "logit_bias", "invalid_input"),
    ("completions", {"prompt": "x", "model": "bare"}, "model", "invalid_input"),
    ("embeddings", {"input": ""}, "input", "invalid_input"),
    ("embeddings", {"input": ["x", ""]}, "input", "invalid_input"),
    ("embeddings", {"input": [260]}, "input", "invalid_input"),
    ("embeddings", {"input": "x" * 600}, "input", "context_length_exceeded"),
]


async def test_a_refusal_names_the_parameter(client: TestClient) -> None:
    """In the dialect's own field, also where the check needs the model; streamed requests too."""
    for path, changes, param, code in CASES:
        body = {"model": "random", **({"messages": HELLO} if path.startswith("chat") else {}), **changes}
        for stream in ({}, {"stream": True}) if path != "embeddings" else ({},):
            refused = await client.post(f"/v1/{path}", json={**body, **stream})
            error = (await refused.json())["error"]
            assert (refused.status, error["param"], error["code"]) == (400, param, code), (path, changes)


async def test_what_asks_for_nothing_is_taken(client: TestClient) -> None:
    """As clients send it that write out every default, and what only says who asks."""
    said: dict[str, Any] = {
        "store": False,
        "service_tier": "auto",
        "metadata": {"a": "b"},
        "user": "x",
        "best_of": None,
    }
    body = {"model": "random", "messages": HELLO, "max_tokens": 1, **said}
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status == 200, await answer.text()


async def test_the_official_client_sees_which_parameter_it_was(client: TestClient) -> None:
    """As a field of its exception."""
    async with openai.AsyncOpenAI(base_url=str(client.make_url("/v1")), api_key="none", max_retries=0) as theirs:
        with pytest.raises(openai.BadRequestError) as refused:
            await theirs.chat.completions.create(model="random", messages=long(600))
        assert (refused.value.param, refused.value.code) == ("messages", "context_length_exceeded")


async def test_a_bad_context_is_not_the_prompt_s_fault(client: TestClient) -> None:
    """In Ollama's words."""
    for wrong in ([260], [1, -1]):
        refused = await client.post("/api/generate", json={"model": "random", "prompt": "x", "context": wrong})
        assert (refused.status, (await refused.json())["error"].split(":")[0]) == (400, "context")


@pytest.mark.parametrize("nothing", [{}, {"input": ""}, {"input": []}, {"input": None}])
async def test_no_input_gives_no_embeddings(client: TestClient, nothing: dict[str, Any]) -> None:
    """As Ollama answers it; clients load a model so."""
    answer = await client.post("/api/embed", json={"model": "random", **nothing})
    assert (answer.status, (await answer.json())["embeddings"]) == (200, [])
    older = {"prompt": nothing["input"]} if isinstance(nothing.get("input"), str) else {}
    answer = await client.post("/api/embeddings", json={"model": "random", **older})
    assert (answer.status, (await answer.json())["embedding"]) == (200, [])


async def test_an_empty_text_among_others_is_refused(client: TestClient) -> None:
    """A vector that is left out would move the rest."""
    refused = await client.post("/api/embed", json={"model": "random", "input": ["x", ""]})
    assert (refused.status, (await refused.json())["error"][:37]) == (400, "input: expected texts that are not em")
