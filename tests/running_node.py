"""One `blyan up` in its own process, as a person would start it."""

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from forked import Forked, Nursery
from forked import nursery as shared
from kept_ports import kept_port

START_LIMIT_S = 90
STOP_LIMIT_S = 20


class RunningNode:
    """`blyan up` on a free port of this machine, with its own data directory."""

    def __init__(
        self,
        data_dir: Path,
        listen: str = "127.0.0.1:0",
        environment: dict[str, str] | None = None,
        nursery: Nursery | None = None,
        *,
        apart: bool = False,
    ) -> None:
        """Forked by `nursery` or that of this process; `apart`: in an interpreter of its own, as a shell starts it."""
        self.data_dir, self._nursery, self._apart = data_dir, nursery, apart
        self.url = ""
        self.listen_at, self.environment = listen, environment or {}
        self.metrics_url = ""  # where `metrics.listen` is set
        self.peer_url = ""  # where `network.listen` is set
        self._said: list[str] = []
        self._ready = threading.Event()

    def start(self) -> None:
        """Returns when the node has printed its address; fails the test, with what it said, when it does not."""
        arguments = ["--data-dir", str(self.data_dir), "up", "--listen", self.listen_at, "--no-browser"]
        self._said.clear()
        self._ready.clear()
        self.url = self.metrics_url = self.peer_url = ""
        self._process: subprocess.Popen[str] | Forked
        if not self._apart:
            self._process = (self._nursery or shared()).popen(arguments, self.environment)
        else:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "blyan", *arguments],
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                env={**os.environ, **self.environment},
            )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._ready.wait(START_LIMIT_S)
        if not self.url:
            self.stop()
            pytest.fail(f"the node ended or printed no address in {START_LIMIT_S} s; it said:\n{''.join(self._said)}")

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line)
            if metrics := re.search(r"metrics at (http://\S+)", line):
                self.metrics_url = metrics.group(1)
            if peers := re.search(r"peers reach this node at (wss://[^\s,\"]+)", line):
                self.peer_url = peers.group(1)
            address = re.search(r"chat at (http://127\.0\.0\.1:\d+)", line)
            if address and not self.url:
                self.url = address.group(1)
                self._ready.set()
        self._ready.set()  # the process ended

    @property
    def said(self) -> list[str]:
        """The lines it has written to stderr so far."""
        return list(self._said)

    @property
    def pid(self) -> int:
        """The process that serves."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def wait(self, seconds: float) -> int:
        """The exit code of a process that is about to end."""
        return self._process.wait(seconds)

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name with labels, as it is written there."""
        with urllib.request.urlopen(self.metrics_url, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def stop(self) -> int:
        """Asks the node to end, as Ctrl+C does, insists after a while, and returns the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._listener.join()
        return self._process.returncode

    def kill(self) -> None:
        """SIGKILL; returns when the process has ended, and what it said last was heard."""
        self._process.kill()
        self._process.wait()
        self._listener.join(STOP_LIMIT_S)  # one that heard the end later would take it for that of the next process

    def blob(self, payload: str) -> Path:
        """The file that holds the payload with this id."""
        return self.data_dir / "blobs" / payload[:2] / payload


def with_accounts(data_dir: Path, **settings: str) -> RunningNode:
    """A node where people sign in, at the address that it will have; `settings` as BLYAN_SECTION__KEY."""
    node = RunningNode(data_dir)
    listen = f"127.0.0.1:{kept_port(node)}"
    node.listen_at, node.environment = listen, {"BLYAN_ACCOUNTS__ORIGIN": f"http://{listen}", **settings}
    return node
