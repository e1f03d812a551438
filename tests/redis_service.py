"""Redis for tests, private ones on a unix socket. Where it is not installed, as `services.missing` says."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blyan.storage.redis_link import RedisLink
from services import missing


class RedisServer:
    """One Redis of its own, without files."""

    def __init__(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise FileNotFoundError("redis-server")
        self.folder = Path(tempfile.mkdtemp(prefix="blyan-redis-"))
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/socket"

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        options = ["--port", "0", "--unixsocket", f"{self.folder}/socket", "--save", "", "--dir", str(self.folder)]
        self._process = subprocess.Popen([self._program, *options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 15
        while self.say("PING") != b"+PONG\r\n":
            assert time.monotonic() < deadline and self._process.poll() is None, "Redis answers"
            time.sleep(0.01)

    def say(self, *words: str) -> bytes:
        """The first bytes of its answer to a command; none if nobody answers."""
        try:
            with socket.socket(socket.AF_UNIX) as talk:
                talk.settimeout(5)
                talk.connect(f"{self.folder}/socket")
                talk.sendall(" ".join(words).encode() + b"\r\n")
                return talk.recv(65_536)
        except OSError:
            return b""

    def send_signal(self, number: signal.Signals) -> None:
        """To the process, such as SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL: what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def started_redis() -> RedisServer:
    """A Redis, or the test ends as it does where something is missing."""
    try:
        return RedisServer()
    except FileNotFoundError:
        missing("Redis (apt: redis-server)")
        raise


def accounts_link(url: str) -> RedisLink:
    """A connection as the accounts of a node make it."""
    return RedisLink(url, "accounts", "accounts.redis_url")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One for the tests of this process that leave it alive."""
    server = started_redis()
    yield server
    server.close()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis."""
    redis_server.say("FLUSHALL")
    return redis_server.url
