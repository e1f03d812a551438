"""Filling in the middle: `suffix` in both dialects, for models that have tokens or a template for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest
import tokenizers
from aiohttp.test_utils import TestClient

from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, serving

MARKS = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>"]  # 260 to 263
TEMPLATE = "{{ if .Suffix }}[P]{{ .Prompt }}[S]{{ .Suffix }}[M]{{ else }}<|user|>{{ .Prompt }}<|assistant|>{{ end }}"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("infill")
    save_random_checkpoint(folder / "hf", vocab_size=264)
    save_byte_tokenizer(folder / "hf")
    import_into(folder / "data", folder / "hf", "plain")
    made = tokenizers.Tokenizer.from_file(str(folder / "hf/tokenizer.json"))
    made.add_special_tokens(MARKS)
    made.save(str(folder / "hf/tokenizer.json"))
    import_into(folder / "data", folder / "hf", "coder")
    return folder / "data"


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[TestClient]:
    async with serving(data_dir) as made:
        yield made


async def completed(client: TestClient, **asked: Any) -> dict[str, Any]:
    body = {"model": "coder", "temperature": 0, "max_tokens": 12, **asked}
    answer = await client.post("/v1/completions", json=body)
    assert answer.status == 200, await answer.text()
    return await answer.json()


async def ids(client: TestClient, text: str) -> list[int]:
    said = await completed(client, prompt=text, echo=True, max_tokens=0, return_token_ids=True)
    return said["choices"][0]["token_ids"]


async def test_prefix_and_suffix_stand_between_the_model_s_own_marks(client: TestClient) -> None:
    """The same answer as to the same tokens written out, whole and streamed, in both dialects."""
    before, after = await ids(client, "def f("), await ids(client, "  return x")
    written = await completed(client, prompt=[260, *before, 261, *after, 262])
    filled = await completed(client, prompt="def f(", suffix="  return x")
    assert filled["choices"][0]["text"] == written["choices"][0]["text"] != ""
    assert filled["usage"] == written["usage"]
    by_ids = await completed(client, prompt=[before, before], suffix="  return x")
    assert [each["text"] for each in by_ids["choices"]] == [written["choices"][0]["text"]] * 2
    async with openai.AsyncOpenAI(base_url=str(client.make_url("/v1")), api_key="none", max_retries=0) as official:
        stream = await official.completions.create(
            model="coder", prompt="def f(", suffix="  return x", max_tokens=12, temperature=0, stream=True
        )
        assert "".join([chunk.choices[0].text async for chunk in stream]) == written["choices"][0]["text"]
    theirs = ollama.AsyncClient(host=str(client.make_url("/")))
    options = {"temperature": 0, "num_predict": 12}
    said = await theirs.generate("coder", "def f(", suffix="  return x", options=options)
    assert said.response == written["choices"][0]["text"]
    assert "insert" in ((await theirs.show("coder")).capabilities or [])


async def test_tokens_that_end_what_is_filled_in_end_the_answer(client: TestClient) -> None:
    """And are no part of it."""
    pad = {"logit_bias": {"263": 100}}
    filled = await completed(client, prompt="a", suffix="b", **pad)
    assert (filled["choices"][0]["text"], filled["choices"][0]["finish_reason"]) == ("", "stop")
    assert (await completed(client, prompt="a", **pad))["choices"][0]["finish_reason"] == "length"


async def test_a_template_with_suffix_fills_in_too(client: TestClient) -> None:
    """In place of the tokens; without a suffix it is the chat's."""
    theirs = ollama.AsyncClient(host=str(client.make_url("/")))
    options = {"temperature": 0, "num_predict": 3}
    with pytest.raises(ollama.ResponseError, match="suffix: expected a model that fills in the middle, found plain"):
        await theirs.generate("plain", "a", suffix="b", options=options)
    assert "insert" not in ((await theirs.show("plain")).capabilities or [])
    await theirs.create("filler", from_="plain", template=TEMPLATE)
    assert "insert" in ((await theirs.show("filler")).capabilities or [])
    assert (await theirs.generate("filler", "ab", suffix="cde", options=options)).prompt_eval_count == 14
    assert (await theirs.generate("filler", "ab", options=options)).prompt_eval_count == 4
    assert (
        await theirs.generate("plain", "ab", suffix="c", template=TEMPLATE, options=options)
    ).prompt_eval_count == 12
    assert (await completed(client, model="filler", prompt="ab", suffix="cde"))["usage"]["prompt_tokens"] == 14
    await theirs.delete("filler")


@pytest.mark.parametrize(
    ("path", "changes", "said"),
    [
        ("v1/completions", {"model": "plain"}, "suffix"),
        ("v1/completions", {"echo": True}, "suffix"),
        ("v1/completions", {"suffix": 3}, "suffix"),
        ("v1/completions", {"suffix": "x" * 600}, "prompt"),
        ("api/generate", {"raw": True}, "raw"),
        ("api/generate", {"system": "x"}, "system"),
        ("api/generate", {"context": [1]}, "context"),
    ],
)
async def test_what_has_no_place_beside_a_suffix_is_refused_by_its_name(
    client: TestClient, path: str, changes: dict[str, Any], said: str
) -> None:
    """Nothing is left out in silence."""
    refused = await client.post(f"/{path}", json={"model": "coder", "prompt": "a", "suffix": "b", **changes})
    error = (await refused.json())["error"]
    assert (refused.status, error["param"] if isinstance(error, dict) else error.split(":")[0]) == (400, said)
