"""How a node stops: everybody who waits is told, and whoever asks twice does not wait."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, running
from running_node import RunningNode

STREAMS = 8  # of which four run and four wait


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shutdown")
    save_random_checkpoint(folder / "hf", max_position_embeddings=8192, vocab_size=260)
    save_byte_tokenizer(folder / "hf")
    import_into(folder / "data", folder / "hf", "talkative")
    return folder / "data"


def start(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})


def read_until(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if word in line:
            return
    pytest.fail(f"expected {word!r}, found {said}")


@contextlib.contextmanager
def stopping_within(data_dir: Path, monkeypatch: pytest.MonkeyPatch, seconds: int) -> Iterator[RunningNode]:
    """A node that gives requests so long when it is asked to stop."""
    monkeypatch.setenv("BLYAN_HTTP__SHUTDOWN_SECONDS", str(seconds))
    with running(data_dir) as node:
        yield node


def lasting(tokens: int, **more: object) -> dict[str, object]:
    return {"model": "talkative", "prompt": [1], "max_tokens": tokens, "stream": True, "ignore_eos": True} | more


@contextlib.asynccontextmanager
async def streaming(
    node: RunningNode, path: str, body: dict[str, object]
) -> AsyncIterator[tuple[aiohttp.ClientSession, aiohttp.ClientResponse]]:
    """A stream whose first line has come, and the session to ask more with."""
    async with asyncio.timeout(18), aiohttp.ClientSession(node.url) as session, session.post(path, json=body) as begun:
        await begun.content.readline()
        yield session, begun


async def lines_of(response: aiohttp.ClientResponse) -> list[bytes]:
    return [line.removeprefix(b"data: ") async for line in response.content if line.strip()]


async def test_answers_under_way_and_waiting_end_with_the_reason(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM, and the limit passes: every stream says `unavailable`, as its last event or as its status."""
    with stopping_within(data_dir, monkeypatch, 1) as node:
        begun = asyncio.Event()

        async def last_words(session: aiohttp.ClientSession) -> dict[str, object]:
            async with session.post(f"{node.url}/v1/completions", json=lasting(8000)) as response:
                received = b""
                async for line in response.content:
                    begun.set()
                    received = line if line.strip() else received
            return json.loads(received.removeprefix(b"data: ")) | {"status": response.status}

        connector = aiohttp.TCPConnector(limit=STREAMS)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.timeout(15):
            streams = [asyncio.create_task(last_words(session)) for _ in range(STREAMS)]
            await begun.wait()
            await asyncio.sleep(0.2)
            os.kill(node.pid, signal.SIGTERM)
            words = await asyncio.gather(*streams)
        assert [word["error"]["code"] for word in words] == ["unavailable"] * STREAMS
        assert {word["status"] for word in words} <= {200, 503}
        assert await asyncio.to_thread(node._process.wait, 10) == 0


@pytest.mark.slow
async def test_a_stream_that_ends_within_the_limit_is_whole(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile new requests are refused, probes are answered with the reason, and the node ends as soon as it may."""
    with stopping_within(data_dir, monkeypatch, 60) as node:
        async with streaming(node, "/v1/completions", lasting(250)) as (session, response):
            os.kill(node.pid, signal.SIGTERM)
            async with session.get("/readyz") as ready:
                assert (ready.status, "draining" in await ready.text()) == (503, True)
            async with session.post("/v1/completions", json=lasting(1)) as refused:
                assert (refused.status, "Retry-After" in refused.headers) == (503, True)
            async with session.get("/livez") as alive:
                assert alive.status == 200
            lines = await lines_of(response)
        assert lines[-1] == b"[DONE]\n"
        assert json.loads(lines[-2])["choices"][0]["finish_reason"] == "length"
        assert await asyncio.to_thread(node._process.wait, 5) == 0


async def test_a_stream_of_the_ollama_dialect_ends_with_its_own_error_line(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit of nothing at once."""
    asked = {"model": "talkative", "prompt": "a", "raw": True, "options": {"num_predict": 8000, "temperature": 0}}
    with stopping_within(data_dir, monkeypatch, 0) as node:
        async with streaming(node, "/api/generate", asked) as (_, response):
            os.kill(node.pid, signal.SIGTERM)
            lines = await lines_of(response)
        assert "shutting down" in json.loads(lines[-1])["error"]


async def test_a_second_signal_ends_streams_at_once(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the first would have let them go on."""
    with stopping_within(data_dir, monkeypatch, 300) as node:
        async with streaming(node, "/v1/completions", lasting(8000)) as (session, _):
            os.kill(node.pid, signal.SIGTERM)
            async with session.get("/readyz") as ready:
                assert ready.status == 503
            os.kill(node.pid, signal.SIGTERM)
            assert await asyncio.to_thread(node._process.wait, 5) == -signal.SIGTERM


def test_the_second_signal_ends_it_at_once() -> None:
    """While a stop takes long, for whatever reason."""
    script = (
        "import asyncio, contextlib, types\n"
        "from blyan.api import serve\n"
        "from blyan.cli.main import main\n"
        "@contextlib.asynccontextmanager\n"
        "async def served(config, passphrase):\n"
        "    yield types.SimpleNamespace(refused=dict, peering=None), 'http://here'\n"
        "    await asyncio.to_thread(__import__('time').sleep, 30)\n"
        "serve.served = served\n"
        "main(['up', '--no-browser'])\n"
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start("-c", script)
        read_until(process, "chat at")
        process.send_signal(number)
        read_until(process, "stopping")
        process.send_signal(number)
        assert process.wait(5) == -number
        process.communicate()


def test_a_browser_that_stays_in_the_foreground_delays_nothing(data_dir: Path, tmp_path: Path) -> None:
    """`BROWSER` may name a program that runs as long as its window."""
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\necho $$ $1 > {tmp_path}/opened\nexec sleep 15\n")
    browser.chmod(0o755)
    arguments = ["-m", "blyan", "--data-dir", str(data_dir), "up", "--listen", "127.0.0.1:0"]
    process = start(*arguments, BROWSER=str(browser))
    read_until(process, "chat at")
    opened = tmp_path / "opened"
    while not opened.exists() or not opened.read_text().endswith("\n"):
        time.sleep(0.05)
    pid, url = opened.read_text().split()
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(12) == 0
        assert time.monotonic() - started < 5
        assert url.startswith("http://127.0.0.1:")
    finally:
        os.kill(int(pid), signal.SIGKILL)
        process.communicate()
