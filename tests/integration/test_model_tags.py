"""Names with tags, in both dialects, by the official client of Ollama: several of one name beside each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest
from aiohttp.test_utils import TestClient

from blyan.node.data_directory import open_ground
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, serving

GREEDY = {"temperature": 0, "num_predict": 12}
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    save_random_checkpoint(tmp_path / "hf", vocab_size=260)
    save_byte_tokenizer(tmp_path / "hf")
    import_into(tmp_path / "data", tmp_path / "hf", "base")
    return tmp_path / "data"


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[TestClient]:
    async with serving(data_dir) as made:
        yield made


def official(client: TestClient) -> ollama.AsyncClient:
    return ollama.AsyncClient(host=str(client.make_url("/")))


async def names(client: TestClient) -> list[str]:
    """As the OpenAI dialect lists them; Ollama's lists say every tag."""
    listed = (await official(client).list()).models
    served = [card["id"] for card in (await (await client.get("/v1/models")).json())["data"]]
    assert [name if ":" in name else f"{name}:latest" for name in served] == [model.model for model in listed]
    return served


async def answered(client: TestClient, model: str) -> dict[str, Any]:
    body = {"model": model, "messages": HELLO, "temperature": 0, "max_tokens": 12}
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status == 200, await answer.text()
    return await answer.json()


async def test_names_with_tags_are_models_beside_each_other_in_both_dialects(
    client: TestClient, data_dir: Path
) -> None:
    """Made, copied, listed, shown, asked and deleted by tag; `latest` is what has none."""
    theirs = official(client)
    await theirs.create("brief:v1", from_="base", system="Be brief.")
    await theirs.create("brief:v2", from_="brief:v1", system="Be very brief, please.")
    await theirs.copy("brief:v1", "brief:latest")
    assert await names(client) == ["base", "brief", "brief:v1", "brief:v2"]
    assert [(await theirs.show(name)).modelinfo is not None for name in ("brief", "brief:latest", "brief:v2")]
    v2 = await (await client.post("/api/show", json={"model": "brief:v2"})).json()
    assert (v2["system"], v2["modelfile"].splitlines()[0]) == ("Be very brief, please.", "FROM brief:v2")
    lengths = {}
    for name in ("brief:v1", "brief:v2", "brief", "brief:latest"):
        said = await theirs.chat(name, messages=HELLO, options=GREEDY)
        other = await answered(client, name)
        assert other["choices"][0]["message"]["content"] == said.message.content
        async with openai.AsyncOpenAI(base_url=str(client.make_url("/v1")), api_key="none", max_retries=0) as theirs_:
            assert (await theirs_.models.retrieve(name)).id == name.removesuffix(":latest")
        lengths[name] = other["usage"]["prompt_tokens"]
    assert lengths["brief:v1"] == lengths["brief"] == lengths["brief:latest"] == lengths["brief:v2"] - 13
    assert {each.model for each in (await theirs.ps()).models} == {"brief:v1", "brief:v2", "brief:latest"}
    blocks = await client.get("/network/experts", params={"model": "brief:v1"})
    assert (blocks.status, (await blocks.json())["model"]) == (200, "brief:v1")
    await theirs.delete("brief")
    await theirs.delete("brief:v1")
    assert await names(client) == ["base", "brief:v2"]
    with pytest.raises(ollama.ResponseError, match="model 'brief:v1' not found"):
        await theirs.generate("brief:v1", "x")
    ground = open_ground(data_dir)
    assert ground.chains.state.retired.keys() == {"brief", "brief:v1"}
    ground.chains.verify()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/create", {"model": "a b", "from": "base"}),
        ("/api/create", {"model": "x", "from": "a/base"}),
        ("/api/create", {"model": "x:y:z", "from": "base"}),
        ("/api/copy", {"source": "base", "destination": "a/b"}),
        ("/api/pull", {"model": "registry.example/a/b"}),
    ],
)
async def test_a_bad_name_is_refused_before_a_stream_begins(
    client: TestClient, path: str, body: dict[str, Any]
) -> None:
    """Not as the last line of an answer that said 200."""
    refused = await client.post(path, json=body)
    assert refused.status == 400, await refused.text()
    assert "expected a name or name:tag" in (await refused.json())["error"]
