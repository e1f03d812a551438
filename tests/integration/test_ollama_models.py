"""Making, copying and removing models beside a running node, by the official client of Ollama."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ollama
import pytest
from aiohttp.test_utils import TestClient

from blyan.api.state import node_key
from blyan.node.blobs_in_use import payloads_in_use
from blyan.node.data_directory import open_ground
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, serving

GREEDY = {"temperature": 0, "num_predict": 12}
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_random_checkpoint(folder, vocab_size=260)
    save_byte_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    import_into(folder / "data", checkpoint, "base")
    return folder / "data"


@pytest.fixture
def data_dir(tmp_path: Path, prepared: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "data", copy_function=os.link)
    shutil.copy2(prepared / "keys" / "node.key", tmp_path / "key")
    (tmp_path / "key").replace(tmp_path / "data" / "keys" / "node.key")
    return tmp_path / "data"


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[TestClient]:
    async with serving(data_dir) as made:
        yield made


def official(client: TestClient) -> ollama.AsyncClient:
    return ollama.AsyncClient(host=str(client.make_url("/")))


async def names(client: TestClient) -> list[str]:
    listed = (await official(client).list()).models
    served = [card["id"] for card in (await (await client.get("/v1/models")).json())["data"]]
    assert [name if ":" in name else f"{name}:latest" for name in served] == [model.model for model in listed]
    return served


async def openai_chat(client: TestClient, model: str, **asked: Any) -> dict[str, Any]:
    body = {"model": model, "messages": HELLO, "temperature": 0, **asked}
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status == 200, await answer.text()
    return await answer.json()


def prompt_of(*messages: tuple[str, str]) -> int:
    """Tokens of a prompt by the template of the test's checkpoint: bytes, and four that are one token each."""
    return sum(2 + len(content.encode()) for _, content in messages) + 1


async def test_a_model_is_created_from_another_and_shown_as_it_was_said(client: TestClient, data_dir: Path) -> None:
    """Its blocks are the other's; show gives everything back; its Modelfile makes it again."""
    theirs = official(client)
    said: dict[str, Any] = {
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}],
        "parameters": {"temperature": 0, "stop": ["zz", "<end>"], "num_predict": 5, "seed": 7, "min_p": 0.1},
        "license": ["MIT", "Some words."],
    }
    before = sorted(path.name for path in (data_dir / "blobs").glob("??/*"))
    statuses = [each.status async for each in await theirs.create("mine", from_="base", stream=True, **said)]
    assert statuses[-1] == "success"
    assert await names(client) == ["base", "mine"]
    shown = await theirs.show("mine")
    assert shown.license == "MIT\nSome words."
    raw = await (await client.post("/api/show", json={"model": "mine"})).json()
    assert (raw["system"], raw["messages"]) == (said["system"], said["messages"])
    assert [line.split() for line in raw["parameters"].splitlines()] == [
        ["temperature", "0.0"],
        ["top_p", "1.0"],
        ["min_p", "0.1"],
        ["seed", "7"],
        ["num_predict", "5"],
        ["stop", "zz"],
        ["stop", "<end>"],
    ]
    more = {path.name for path in (data_dir / "blobs").glob("??/*")} - set(before)
    assert len(more) == 2, "a manifest and its tile index, no block"
    answer = await (await client.post("/api/create", json={"name": "again", "modelfile": raw["modelfile"]})).text()
    assert json.loads(answer.splitlines()[-1]) == {"status": "success"}
    again = await (await client.post("/api/show", json={"model": "again"})).json()
    assert {name: again[name] for name in ("system", "messages", "parameters", "license", "template")} == {
        name: raw[name] for name in ("system", "messages", "parameters", "license", "template")
    }


async def test_both_doors_honour_what_a_model_says_where_a_request_says_nothing(client: TestClient) -> None:
    """System text, messages, length, stop strings and seed; what a request says goes before."""
    theirs = official(client)
    brought = (("user", "1+1?"), ("assistant", "2"))
    await theirs.create(
        "mine",
        from_="base",
        system="Be brief.",
        messages=[{"role": role, "content": content} for role, content in brought],
        parameters={"num_predict": 5, "temperature": 0},
    )
    whole = (("system", "Be brief."), *brought, ("user", "hello"))
    one = await openai_chat(client, "mine")
    assert one["usage"] == {
        "prompt_tokens": prompt_of(*whole),
        "completion_tokens": 5,
        "total_tokens": prompt_of(*whole) + 5,
    }
    other = await theirs.chat("mine", messages=HELLO)
    assert (other.prompt_eval_count, other.eval_count) == (prompt_of(*whole), 5)
    assert other.message.content == one["choices"][0]["message"]["content"]
    assert (await theirs.generate("mine", "hello")).response == other.message.content
    said = await theirs.chat(
        "mine", messages=[{"role": "system", "content": "No."}, *HELLO], options={"num_predict": 3}
    )
    assert (said.prompt_eval_count, said.eval_count) == (prompt_of(("system", "No."), *whole[1:]), 3)
    assert (await openai_chat(client, "mine", max_tokens=3))["usage"]["completion_tokens"] == 3
    assert (await theirs.chat("mine", messages=HELLO, options={"num_predict": -1})).eval_count > 5
    text = (await openai_chat(client, "base", max_tokens=40))["choices"][0]["message"]["content"]
    stop = text[8:10]
    await theirs.create("stops", from_="base", parameters={"stop": [stop], "temperature": 1.0, "seed": 3})
    stopped = await openai_chat(client, "stops", max_tokens=40)
    assert stopped["choices"][0]["message"]["content"] == text[: text.index(stop)]
    assert stopped["choices"][0]["finish_reason"] == "stop"
    seeded = {"temperature": 1, "max_tokens": 10}
    assert (await openai_chat(client, "stops", **seeded))["choices"] == (await openai_chat(client, "stops", **seeded))[
        "choices"
    ]


async def test_a_template_is_replaced_by_a_translated_go_template_or_by_jinja(client: TestClient) -> None:
    """Show gives back what was written; the same words prompt the model with the same tokens."""
    theirs = official(client)
    go = "{{ if .System }}S:{{ .System }}\n{{ end }}U:{{ .Prompt }}\nA:{{ .Response }}\n"
    jinja = "{% for m in messages %}U:{{ m.content }}\n{% endfor %}A:"
    await theirs.create("go", from_="base", template=go)
    await theirs.create("jinja", from_="base", template=jinja)
    assert [(await theirs.show(name)).template for name in ("go", "jinja")] == [go, jinja]
    expected = await theirs.generate("base", "U:hello\nA:", raw=True, options=GREEDY)
    for name in ("go", "jinja"):
        found = await theirs.chat(name, messages=HELLO, options=GREEDY)
        assert (found.message.content, found.prompt_eval_count) == (expected.response, expected.prompt_eval_count)
    system = await theirs.chat("go", messages=[{"role": "system", "content": "x"}, *HELLO], options=GREEDY)
    assert system.prompt_eval_count == len("S:x\nU:hello\nA:")
    with pytest.raises(ollama.ResponseError, match=r"\.Tools") as refused:
        await theirs.create("tools", from_="base", template="{{ .Prompt }}{{ .Tools }}")
    assert refused.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="compiles"):
        await theirs.create("broken", from_="base", template="{% for %}")
    assert await names(client) == ["base", "go", "jinja"]


async def test_a_copy_is_the_same_model_and_a_deleted_one_is_gone_until_it_is_made_again(
    client: TestClient, data_dir: Path
) -> None:
    """At once, without a restart; blocks stay while another model needs them; the next version is above."""
    theirs = official(client)
    assert (await theirs.copy("base", "twin")).status == "success"
    assert (await theirs.chat("twin", messages=HELLO, options=GREEDY)).message.content == (
        await theirs.chat("base", messages=HELLO, options=GREEDY)
    ).message.content
    assert (await theirs.delete("base")).status == "success"
    assert await names(client) == ["twin"]
    with pytest.raises(ollama.ResponseError, match="model 'base' not found") as refused:
        await theirs.chat("base", messages=HELLO)
    assert refused.value.status_code == 404
    assert (await client.post("/v1/chat/completions", json={"model": "base", "messages": HELLO})).status == 404
    assert (await theirs.chat("twin", messages=HELLO, options=GREEDY)).eval_count == 12
    await theirs.copy("twin", "base")
    assert await names(client) == ["base", "twin"]
    versions = {
        card["id"]: card["blyan"]["version"] for card in (await (await client.get("/v1/models")).json())["data"]
    }
    assert versions == {"base": "1.1.0", "twin": "1.0.0"}
    found = await (await client.get("/chain/meta/find", params={"model": "base"})).json()
    assert [each["entry"]["type"] for each in found["entries"]] == ["model", "retirement", "model"]
    await theirs.delete("base")
    await theirs.delete("twin")
    assert await names(client) == []
    ground = open_ground(data_dir)
    assert payloads_in_use(ground) == {}
    assert ground.chains.state.retired == {"base": "1.1.0", "twin": "1.0.0"}
    ground.chains.verify()


async def test_what_is_not_there_or_not_provided_is_refused_with_its_reason(client: TestClient) -> None:
    """As the client's own errors."""
    theirs = official(client)
    for asked, status, said in (
        (theirs.create("x", from_="nobody"), 404, "model 'nobody' not found"),
        (theirs.copy("nobody", "x"), 404, "model 'nobody' not found"),
        (theirs.delete("nobody"), 404, "model 'nobody' not found"),
        (theirs.copy("base", "base"), 400, "expected another name"),
        (theirs.copy("base", "../x"), 400, "destination: expected a name"),
        (theirs.create("a b", from_="base"), 400, "model: expected a name"),
        (theirs.create("x", from_="base", adapters={"a": "sha256:" + "0" * 64}), 400, "adapters: expected none"),
        (theirs.create("x", from_="base", quantize="q8_0"), 400, "quantize: expected it with files"),
        (theirs.create("x", from_="base", parameters={"temperature": 9}), 400, "temperature: expected 0 to 2"),
        (theirs.create("x", files={"model.safetensors": "sha256:" + "0" * 64}), 404, "expected an uploaded blob"),
        (theirs.push("base"), 400, "push: expected none"),
    ):
        with pytest.raises(ollama.ResponseError, match=said) as refused:
            await asked
        assert refused.value.status_code == status
    streamed = await theirs.create("x", from_="nobody", stream=True)
    with pytest.raises(ollama.ResponseError, match="model 'nobody' not found"):
        [_ async for _ in streamed]
    assert await names(client) == ["base"]


async def test_only_loopback_names_and_no_other_site_may_change_models(data_dir: Path) -> None:
    """Also where a proxy's name is allowed to read."""
    async with serving(data_dir, http={"allowed_hosts": ["node.example"]}) as client:
        proxied = {"Host": "node.example"}
        assert (await client.get("/api/tags", headers=proxied)).status == 200
        digest = "/api/blobs/sha256:" + hashlib.sha256(b"x").hexdigest()
        for send, path, body in (
            (client.delete, "/api/delete", {"model": "base"}),
            (client.post, "/api/copy", {"source": "base", "destination": "x"}),
            (client.post, "/api/create", {"model": "x", "from": "base"}),
            (client.post, "/api/pull", {"model": "x"}),
            (client.post, digest, {}),
        ):
            denied = await send(path, json=body, headers=proxied)
            assert (denied.status, "loopback" in (await denied.json())["error"]) == (403, True)
            assert (await send(path, json=body, headers={"Origin": "https://evil.example"})).status == 403
        assert (await client.head(digest, headers=proxied)).status == 403
        assert await names(client) == ["base"]


async def test_a_checkpoint_is_uploaded_and_becomes_a_model(
    client: TestClient, checkpoint: Path, data_dir: Path
) -> None:
    """The same blocks as an import's, so nothing is stored twice; quantised where that is asked for."""
    theirs = official(client)
    files = {
        name: await theirs.create_blob(checkpoint / name)
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    }
    assert await theirs.create_blob(checkpoint / "config.json") == files["config.json"]
    assert (await client.head(f"/api/blobs/{files['config.json']}")).status == 200
    statuses = [each async for each in await theirs.create("same", files=files, system="Be brief.", stream=True)]
    assert statuses[-1].status == "success"
    converted = [each for each in statuses if each.status == "converting model"]
    assert (converted[-1].completed, converted[-1].total) == (converted[0].total, converted[0].total)
    assert (await client.head(f"/api/blobs/{files['config.json']}")).status == 404, "used up"
    placed = [await (await client.get("/network/experts", params={"model": name})).json() for name in ("base", "same")]
    ids = [[block["payload"] for block in each["blocks"]] for each in placed]
    assert ids[0] == ids[1]
    assert (await theirs.chat("same", messages=[{"role": "system", "content": ""}, *HELLO], options=GREEDY)).eval_count
    assert list((data_dir / "uploads").glob("*[!e]")) == []
    for name in files:
        await theirs.create_blob(checkpoint / name)
    await theirs.create("small", files=files, quantize="q8_0")
    details = (await theirs.show("small")).details
    assert details is not None
    assert details.quantization_level == "int8"


async def test_uploads_are_what_their_digest_says(client: TestClient, data_dir: Path) -> None:
    """Others leave nothing; GGUF is refused with its reason."""
    right = "sha256:" + hashlib.sha256(b"hello").hexdigest()
    wrong = await client.post(f"/api/blobs/{right}", data=b"Hello")
    assert (wrong.status, "computed sha256:" in (await wrong.json())["error"]) == (400, True)
    assert list((data_dir / "uploads").iterdir()) == []
    assert (await client.post("/api/blobs/sha256:../../x", data=b"")).status in (400, 404)
    assert (await client.post(f"/api/blobs/{right}", data=b"hello")).status == 201
    assert (await client.post(f"/api/blobs/{right}", data=b"hello")).status == 200
    gguf = "sha256:" + hashlib.sha256(b"GGUF....").hexdigest()
    assert (await client.post(f"/api/blobs/{gguf}", data=b"GGUF....")).status == 201
    with pytest.raises(ollama.ResponseError, match="expected safetensors, found GGUF"):
        await official(client).create("x", files={"model.safetensors": gguf})


async def test_one_change_at_a_time_and_answers_go_on(client: TestClient) -> None:
    """Whoever comes in the middle is told to come again, with a status that says so."""
    assert client.app is not None
    node = client.app[node_key]
    theirs = official(client)
    with node.changing():
        with pytest.raises(ollama.ResponseError, match="change under way") as refused:
            await theirs.copy("base", "x")
        assert refused.value.status_code == 503
        assert (await theirs.chat("base", messages=HELLO, options=GREEDY)).eval_count == 12
    asked = {"model": "base", "prompt": "x", "options": {"num_predict": 200, "seed": 1}}
    answering = asyncio.create_task(client.post("/api/generate", json=asked))
    await asyncio.sleep(0.1)
    await theirs.copy("base", "x")
    await theirs.delete("base")
    answer = await answering
    lines = [json.loads(line) for line in (await answer.text()).splitlines()]
    assert lines[-1]["done"] is True, "an answer under way keeps its model"


def test_the_synchronous_client_does_the_same(data_dir: Path) -> None:
    """Create, copy, delete and errors."""

    async def use_beside_a_node() -> None:
        async with serving(data_dir) as client:
            theirs = ollama.Client(host=str(client.make_url("/")))

            def use() -> None:
                assert theirs.create("mine", from_="base", system="x").status == "success"
                assert [each.status for each in theirs.create("mine", from_="base", stream=True)][-1] == "success"
                assert theirs.copy("mine", "other").status == "success"
                assert theirs.delete("mine").status == "success"
                with pytest.raises(ollama.ResponseError, match="not found"):
                    theirs.delete("mine")
                assert [model.model for model in theirs.list().models] == ["base:latest", "other:latest"]

            await asyncio.to_thread(use)

    asyncio.run(use_beside_a_node())


@pytest.mark.slow
async def test_a_caller_who_leaves_in_the_middle_of_a_change_leaves_lists_and_chain_agreeing(
    client: TestClient,
) -> None:
    """Whenever the caller goes, what is listed is what the chain has, and can be asked."""
    theirs = official(client)
    for number, pause in enumerate((0.0, 0.002, 0.01, 0.03)):
        name = f"victim{number}"
        copying = asyncio.create_task(theirs.copy("base", name))
        await asyncio.sleep(pause)
        copying.cancel()
        await settled(client)
        if name not in {model.model for model in (await theirs.list()).models if model.model}:
            await when_free(theirs, name)
        leaving = asyncio.create_task(theirs.delete(name))
        await asyncio.sleep(pause)
        leaving.cancel()
        await settled(client)


async def when_free(theirs: ollama.AsyncClient, name: str) -> None:
    """Copies once nobody else changes models: who left may have left before the change began."""
    for _ in range(200):
        try:
            await theirs.copy("base", name)
        except ollama.ResponseError as refused:
            if refused.status_code != 503:
                raise
            await asyncio.sleep(0.02)
        else:
            return
    raise AssertionError("expected the change to end")


async def settled(client: TestClient) -> None:
    """Waits for the end of a change; then every model of the chain is listed, in both dialects, and no other."""
    node = client.app[node_key]
    for _ in range(200):
        await asyncio.sleep(0.02)
        chain = set(node.ground.chains.state.models)
        openai = await client.get("/v1/models")
        other = await client.get("/api/tags")
        assert (openai.status, other.status) == (200, 200)
        listed = {card["id"] for card in (await openai.json())["data"]}
        tagged = {card["name"].removesuffix(":latest") for card in (await other.json())["models"]}
        if listed == tagged == chain == set(node.models):
            return
    raise AssertionError(f"expected {chain} to be listed, found {listed} and {tagged}")
