"""How a node stops: everybody who waits is told, and whoever asks twice does not wait."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from checkpoints import save_random_checkpoint
from nodes import import_into, running

STREAMS = 8  # of which four run and four wait


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shutdown")
    save_random_checkpoint(folder / "hf", max_position_embeddings=8192)
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


async def test_answers_under_way_and_waiting_end_with_the_reason(data_dir: Path) -> None:
    """SIGTERM: every stream says `unavailable`, as its last event or as its status, and the node ends with 0."""
    asked = {"model": "talkative", "prompt": [1], "max_tokens": 8000, "stream": True, "temperature": 0}
    with running(data_dir) as node:
        begun = asyncio.Event()

        async def last_words(session: aiohttp.ClientSession) -> dict[str, object]:
            async with session.post(f"{node.url}/v1/completions", json=asked) as response:
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


def test_the_second_signal_ends_it_at_once() -> None:
    """While a stop takes long, for whatever reason."""
    script = (
        "import asyncio, contextlib, types\n"
        "from blyan.api import serve\n"
        "from blyan.cli.main import main\n"
        "@contextlib.asynccontextmanager\n"
        "async def served(config, passphrase):\n"
        "    yield types.SimpleNamespace(refused=dict), 'http://here'\n"
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
