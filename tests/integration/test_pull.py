"""Pulling a model: from a folder, from another node's process, and from a peer that lies."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import ollama
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from blyan.cli.main import main
from blyan.network.receiving import FetchPolicy
from blyan.node import pulling
from blyan.node.data_directory import open_ground
from blyan.primitives.errors import NotFound
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, json_of, running, serving, writing
from running_node import RunningNode

GREEDY = {"temperature": 0, "num_predict": 8}
HELLO = [{"role": "user", "content": "hello"}]
Change = Callable[[str, dict[str, str], bytes], bytes | int | None]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("directory") / "theirs"
    save_random_checkpoint(folder, vocab_size=260)
    save_byte_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[RunningNode]:
    data_dir = tmp_path_factory.mktemp("peer") / "data"
    import_into(data_dir, checkpoint, "theirs")
    with running(data_dir) as node:
        yield node


@pytest.fixture(scope="module")
def key(peer: RunningNode) -> str:
    return json_of("chain", "status", data_dir=peer.data_dir)["sequencer"]


@contextlib.asynccontextmanager
async def between(url: str, change: Change) -> AsyncIterator[str]:
    """A proxy before a peer; `change` gets path, query and body, gives another body, a status, or None for as is."""

    async def passed(request: web.Request) -> web.Response:
        span = {"Range": request.headers["Range"]} if "Range" in request.headers else {}
        async with (
            aiohttp.ClientSession() as session,
            session.get(url + request.path, params=dict(request.query), headers=span) as answer,
        ):
            body = await answer.read()
            changed = change(request.path, {**request.query, **span}, body)
            if isinstance(changed, int):
                return web.Response(status=changed, headers={"Location": url + request.path})
            return web.Response(body=body if changed is None else changed, status=answer.status)

    app = web.Application()
    app.router.add_get("/{path:.*}", passed)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


def node(data_dir: Path, **models: Any) -> contextlib.AbstractAsyncContextManager[TestClient]:
    if not data_dir.exists():
        with writing(data_dir):
            pass
    return serving(data_dir, models=models)


def official(client: TestClient) -> ollama.AsyncClient:
    return ollama.AsyncClient(host=str(client.make_url("/")))


async def names(client: TestClient) -> list[str]:
    return [str(model.model) for model in (await official(client).list()).models]


async def test_a_peers_model_is_fetched_verified_and_served(peer: RunningNode, key: str, tmp_path: Path) -> None:
    """The same answers; published here with the peer's key as its source; a second pull changes nothing."""
    async with node(tmp_path / "data", peers=[f"{peer.url}#{key}"]) as client:
        theirs = official(client)
        statuses = [each async for each in await theirs.pull("theirs", stream=True)]
        assert [statuses[0].status, *[each.status for each in statuses[-3:]]] == [
            "pulling manifest",
            "verifying sha256 digest",
            "writing manifest",
            "success",
        ]
        layers = {each.digest: each for each in statuses if each.digest}
        assert len(layers) > 20
        assert all(each.completed == each.total for each in layers.values())
        ours = await theirs.chat("theirs", messages=HELLO, options=GREEDY)
        asked = ollama.AsyncClient(host=peer.url)
        assert ours.message.content == (await asked.chat("theirs", messages=HELLO, options=GREEDY)).message.content
        shown = await (await client.post("/api/show", json={"model": "theirs"})).json()
        assert shown["model_info"]["general.source"] == f"blyan:{key} huggingface:theirs"
        assert (await theirs.pull("theirs:latest")).status == "success"
    ground = open_ground(tmp_path / "data")
    assert [version.version for version in ground.chains.state.models["theirs"]] == ["1.0.0"]
    ground.chains.verify()


async def test_a_folder_of_a_configured_directory_is_imported(checkpoint: Path, tmp_path: Path) -> None:
    """By its name, which is no path."""
    async with node(tmp_path / "data", directories=[str(tmp_path), str(checkpoint.parent)]) as client:
        theirs = official(client)
        statuses = [each async for each in await theirs.pull("theirs", stream=True)]
        assert statuses[-1].status == "success"
        assert (await theirs.chat("theirs", messages=HELLO, options=GREEDY)).eval_count == 8
        for name in ("../directory/theirs", "nobody"):
            with pytest.raises(ollama.ResponseError, match="expected") as refused:
                await theirs.pull(name)
            assert refused.value.status_code in (400, 404)


async def test_unconfigured_it_says_what_to_configure(tmp_path: Path) -> None:
    """Nothing is asked of anybody."""
    async with node(tmp_path / "data") as client:
        with pytest.raises(ollama.ResponseError, match="found none configured") as refused:
            await official(client).pull("theirs")
        assert refused.value.status_code == 404


def flipped(body: bytes, at: int = -1) -> bytes:
    changed = bytearray(body)
    changed[at] ^= 1
    return bytes(changed)


def lying_entry(path: str, query: dict[str, str], body: bytes) -> bytes | None:
    return body.replace(b'"version":"1.0.0"', b'"version":"9.0.0"') if path.endswith("/proof") else None


def of_block(path: str, body: bytes) -> bool:
    """Bytes of a payload that is larger than the manifest's smallest neighbours, and no index."""
    return path.startswith("/blobs/") and not path.endswith("/index") and len(body) > 9_000


LIES: dict[str, tuple[Change, str]] = {
    "a byte of the joint checkpoint": (lambda p, q, b: flipped(b, 40) if p == "/chain/joint" else None, "/chain/joint"),
    "a byte of a block": (lambda p, q, b: flipped(b) if of_block(p, b) else None, "wrong bytes: "),
    "a byte too few": (lambda p, q, b: b[:-1] if of_block(p, b) else None, "expected .* bytes"),
    "another entry": (lying_entry, "/chain/meta/proof"),
    "a path too short": (lambda p, q, b: b.replace(b'"path":["', b'"path":["00') if "proof" in p else None, "proof"),
    "no JSON": (lambda p, q, b: b"[" * 5000 if p.endswith("/find") else None, "expected a JSON object"),
    "too much": (lambda p, q, b: b"x" * 10_000 if p == "/chain/joint" else None, "expected at most 8192 bytes"),
    "a redirect": (lambda p, q, b: 302 if p.startswith("/blobs") else None, "expected status"),
    "a block that is not there": (lambda p, q, b: 404 if of_block(p, b) else None, "not there"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_peer_that_lies_is_named_and_nothing_is_published(
    lie: str, peer: RunningNode, key: str, tmp_path: Path
) -> None:
    """What it gave that is right is kept for an honest one."""
    change, said = LIES[lie]
    async with between(peer.url, change) as url, node(tmp_path / "data", peers=[f"{url}#{key}"]) as client:
        with pytest.raises(ollama.ResponseError, match=f"{url}.*{said}") as refused:
            await official(client).pull("theirs")
        assert refused.value.status_code == 502
        assert await names(client) == []
        found = await (await client.get("/chain/parameter/entries")).json()
        assert found["size"] == 0


async def test_another_key_is_not_believed_and_the_next_peer_is_asked(
    peer: RunningNode, key: str, tmp_path: Path
) -> None:
    """A model that a peer retired is not there."""
    other = "ab" * 32
    async with node(tmp_path / "data", peers=[f"{peer.url}#{other}"]) as client:
        with pytest.raises(ollama.ResponseError, match=f"expected it signed by {other}, found signed by {key}"):
            await official(client).pull("theirs")
        with pytest.raises(ollama.ResponseError, match="expected it signed by"):
            await official(client).pull("theirs")
    async with node(tmp_path / "data", peers=[f"{peer.url}#{other}", f"{peer.url}#{key}"]) as client:
        assert (await official(client).pull("theirs")).status == "success"
    beside = ollama.AsyncClient(host=peer.url)
    await beside.copy("theirs", "gone")
    await beside.delete("gone")
    async with node(tmp_path / "data", peers=[f"{peer.url}#{key}"]) as client:
        with pytest.raises(ollama.ResponseError, match="found it in none"):
            await official(client).pull("gone")


async def test_a_pull_that_was_left_goes_on_with_what_is_here(peer: RunningNode, key: str, tmp_path: Path) -> None:
    """Every block is asked for once, whichever try it came in."""
    asked: list[str] = []
    hold = asyncio.Event()

    def count(path: str, query: dict[str, str], body: bytes) -> bytes | int | None:
        if not path.startswith("/blobs/") or path.endswith("/index"):
            return None
        asked.append(path)
        return 503 if len(asked) > 12 and not hold.is_set() else None

    async with between(peer.url, count) as url, node(tmp_path / "data", peers=[f"{url}#{key}"]) as client:
        with pytest.raises(ollama.ResponseError, match="found status 503 in 4 attempts"):
            await official(client).pull("theirs")
        hold.set()
        came = set(asked[:12])
        asked.clear()
        assert (await official(client).pull("theirs")).status == "success"
        assert not came & set(asked)


async def test_bytes_come_from_mirrors_too(peer: RunningNode, key: str, tmp_path: Path) -> None:
    """The peer says what the model is; a copy of its blobs behind any web server has the rest."""

    def no_blobs(path: str, query: dict[str, str], body: bytes) -> bytes | int | None:
        return 404 if path.startswith("/blobs/") else None

    async with between(peer.url, no_blobs) as url:
        app = web.Application()
        app.router.add_static("/copy", peer.data_dir / "blobs")
        async with TestServer(app) as mirror:
            mirrors = [str(mirror.make_url("/copy"))]
            async with node(tmp_path / "data", peers=[f"{url}#{key}"], mirrors=mirrors) as client:
                assert (await official(client).pull("theirs")).status == "success"
                ours = await official(client).chat("theirs", messages=HELLO, options=GREEDY)
                assert ours.eval_count == 8


async def test_a_node_that_the_request_names_is_asked_instead(peer: RunningNode, key: str, tmp_path: Path) -> None:
    """And not those that are configured."""
    async with node(tmp_path / "data", peers=["http://127.0.0.1:9#" + "ab" * 32]) as client:
        body = {"model": "theirs", "from": [f"{peer.url}#{key}"], "stream": False}
        answer = await client.post("/api/pull", json=body)
        assert await answer.json() == {"status": "success"}
        answer = await client.post("/api/pull", json={**body, "from": [peer.url]})
        assert answer.status == 400
        assert "from: expected http://HOST:PORT#KEY" in await answer.text()


@pytest.mark.slow
async def test_a_node_killed_in_the_middle_of_a_pull_goes_on_after_its_next_start(
    peer: RunningNode, key: str, tmp_path: Path
) -> None:
    """Nothing half is visible, chains verify, and what came is not asked for again."""
    asked: list[str] = []
    enough = asyncio.Event()

    def count(path: str, query: dict[str, str], body: bytes) -> bytes | int | None:
        asked.append(path)
        if len(asked) > 20 and not enough.is_set():
            enough.set()
        return None

    data_dir = tmp_path / "data"
    with writing(data_dir):
        pass
    async with between(peer.url, count) as url:
        (data_dir / "node.toml").write_text(f'[models]\npeers = ["{url}#{key}"]\n')
        killed = RunningNode(data_dir)
        await asyncio.to_thread(killed.start)
        pulling = asyncio.create_task(ollama.AsyncClient(host=killed.url).pull("theirs"))
        await enough.wait()
        killed.kill()
        with contextlib.suppress(Exception):
            await pulling
        first = {path for path in asked[:-8] if not path.endswith("/index")}
        asked.clear()
        assert "theirs" not in json.dumps(await asyncio.to_thread(lambda: json_of("model", "list", data_dir=data_dir)))
        again = RunningNode(data_dir)
        await asyncio.to_thread(again.start)
        try:
            theirs = ollama.AsyncClient(host=again.url)
            assert (await theirs.pull("theirs")).status == "success"
            assert (await theirs.chat("theirs", messages=HELLO, options=GREEDY)).eval_count == 8
        finally:
            await asyncio.to_thread(again.stop)
        assert not {path for path in first if path.startswith("/blobs/")} & set(asked)
    ground = open_ground(data_dir)
    ground.chains.verify()
    assert list(ground.store.unfinished()) == []


async def test_a_pull_keeps_to_the_rate_at_which_blocks_are_fetched(
    peer: RunningNode, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of `network.fetch_rate`, asked of a running node and by the command alike."""
    rates: list[int] = []

    async def noted(*_: object, policy: FetchPolicy, **__: object) -> None:
        rates.append(policy.rate)
        raise NotFound("nothing is fetched here")

    monkeypatch.setattr(pulling, "fetch", noted)
    with writing(tmp_path / "data"):
        pass
    where = f"{peer.url}#{key}"
    async with serving(tmp_path / "data", models={"peers": [where]}, network={"fetch_rate": "3MiB"}) as client:
        with pytest.raises(ollama.ResponseError):
            await official(client).pull("theirs")
    (tmp_path / "data/node.toml").write_text('[network]\nfetch_rate = "2MiB"\n')
    said = ["--data-dir", str(tmp_path / "data"), "model", "pull", "theirs", "--from", where]
    assert await asyncio.to_thread(main, said) != 0
    assert rates == [3 * 1024**2, 2 * 1024**2]
