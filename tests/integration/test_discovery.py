"""Nodes find each other on a network with multicast: processes in namespaces on one switch, some of them hostile."""

from __future__ import annotations

import contextlib
import os
import queue
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blyan.network.discovery import _pause_seconds
from blyan.primitives import limits
from namespaces import Wires, ip, process

WORKER = Path(__file__).resolve().parent.parent / "discovery_worker.py"
pytestmark = pytest.mark.timeout(60)


class Heard:
    """A node's process, and the lines that it writes."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self.running = running
        self.lines: list[str] = []
        self._queue: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.key, self.tag = self.until("key").split()[1:]

    def _read(self) -> None:
        with contextlib.suppress(ValueError):
            for line in self.running.stdout:
                self._queue.put(line.strip())

    def until(self, beginning: str, seconds: float = 20.0) -> str:
        """The first line that begins so, of those that were not looked at."""
        end = time.monotonic() + seconds
        while True:
            try:
                line = self._queue.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"expected {beginning!r}, found {self.lines[-20:]}") from None
            self.lines.append(line)
            if line.startswith(beginning):
                return line

    def rest(self, seconds: float) -> list[str]:
        """All that is written within some seconds."""
        time.sleep(seconds)
        found = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        self.lines.extend(found)
        return found

    def end(self) -> None:
        self.running.stdin.write("\n")
        self.running.stdin.flush()
        self.running.wait(15)


@contextlib.contextmanager
def node(machine: str, address: str, swarm: str = "one", seconds: int = 60) -> Iterator[Heard]:
    with process(machine, WORKER, "node", address, swarm, str(seconds)) as running:
        yield Heard(running)


def send(machine: str, address: str, target: Heard, *what: str) -> None:
    with process(machine, WORKER, "hostile", address, target.key, target.tag, *what) as running:
        assert running.stdout.readline().startswith("sent")


def test_nodes_of_one_swarm_find_each_other_and_no_others(wires: Wires) -> None:
    """And what is found is who it said it is; who says good-bye is gone at once."""
    machines = wires.switch({"a": "10.9.0.1/24", "b": "10.9.0.2/24", "c": "10.9.0.3/24"})
    with (
        node(machines["a"], "10.9.0.1") as a,
        node(machines["b"], "10.9.0.2") as b,
        node(machines["c"], "10.9.0.3", "two") as c,
    ):
        assert f"found {b.key} wss://10.9.0.2:9650" == a.until("found")
        assert f"found {a.key} wss://10.9.0.1:9650" == b.until("found")
        a.until(f"linked {b.key}")
        b.until(f"linked {a.key}")
        b.end()
        assert f"gone {b.key}" == a.until("gone", 5)
        assert c.rest(2) == []
        assert not [line for line in a.lines if c.key in line]


def test_nodes_find_each_other_by_ipv6_alone(wires: Wires) -> None:
    """Also at link-local addresses, where there are no others."""
    machines = wires.switch({"a": "", "b": ""})
    with node(machines["a"], "::") as a, node(machines["b"], "::") as b:
        for one, other in ((a, b), (b, a)):
            assert f"found {other.key} wss://[fe80::" in one.until("found")
            one.until(f"linked {other.key}")
        b.end()
        assert f"gone {b.key}" == a.until("gone", 5)


def test_who_has_both_versions_finds_who_has_one(wires: Wires) -> None:
    """And is found by who has the one at which it listens; addresses that this machine has not are left out."""
    machines = wires.switch({"a": "10.9.0.1/24 fd00:9::1/64", "b": "fd00:9::2/64", "c": "10.9.0.3/24"})
    with node(machines["a"], "10.9.0.1") as a, node(machines["b"], "::") as b:
        assert f"found {b.key} wss://[fd00:9::2]:9650" == a.until("found")
        a.until(f"linked {b.key}")
        with node(machines["c"], "0.0.0.0") as c:
            assert f"found {a.key} wss://10.9.0.1:9650" == c.until("found")
            assert f"found {c.key} wss://10.9.0.3:9650" == a.until("found")
        assert b.rest(0) == []


def test_on_a_network_without_a_way_out_a_node_is_reached_at_its_address_there(wires: Wires) -> None:
    machines = wires.switch({"a": "10.9.0.1/24"})
    ip("addr", "add", "fd00:9::1/64", "dev", "eth0", "nodad", within=machines["a"])
    with process(machines["a"], WORKER, "announced") as running:
        assert running.stdout.readline().split() == [
            "wss://10.9.0.1:9650",
            "wss://[fd00:9::1]:9650",
            "wss://10.9.0.7:9650",
        ]


def test_a_node_that_dies_without_a_word_is_gone_after_its_time(wires: Wires) -> None:
    """And found again when it is back."""
    machines = wires.switch({"a": "10.9.0.1/24", "b": "10.9.0.2/24"})
    with node(machines["a"], "10.9.0.1", seconds=3) as a:
        with node(machines["b"], "10.9.0.2", seconds=3) as b:
            a.until(f"found {b.key}")
            assert not [line for line in a.rest(5) if line.startswith("gone")]  # it lives longer than it is believed
            os.kill(b.running.pid, signal.SIGKILL)
            assert f"gone {b.key}" == a.until("gone", 15)
        with node(machines["b"], "10.9.0.2", seconds=3) as again:
            a.until(f"linked {again.key}")


def test_nonsense_is_not_believed(wires: Wires) -> None:
    """Oversized, of another swarm, our own key from elsewhere, addresses far away or of loopback, malformed records."""
    machines = wires.switch({"a": "10.9.0.1/24", "b": "10.9.0.2/24", "h": "10.9.0.66/24"})
    with node(machines["a"], "10.9.0.1") as a:
        send(machines["h"], "10.9.0.66", a, "oversized", "tag", "ours", "elsewhere", "malformed")
        with node(machines["b"], "10.9.0.2") as b:
            a.until(f"linked {b.key}")
            assert [f"found {b.key} wss://10.9.0.2:9650", f"linked {b.key}"] == a.lines[1:] + a.rest(1)


def test_a_thousand_names_cost_little_and_hide_nobody(wires: Wires) -> None:
    """They are tried one by one, few are known at a time, and who comes after them is found as soon as ever."""
    machines = wires.switch({"a": "10.9.0.1/24", "b": "10.9.0.2/24", "h": "10.9.0.66/24"})
    with node(machines["a"], "10.9.0.1") as a:
        began = time.monotonic()
        send(machines["h"], "10.9.0.66", a, "thousand")
        a.until("found")
        with node(machines["b"], "10.9.0.2") as b:
            a.until(f"linked {b.key}", 10)
        a.rest(3)
        found = [line for line in a.lines if line.startswith("found")]
        gone = [line for line in a.lines if line.startswith("gone")]
        assert 3 < len(found) <= 2 + (time.monotonic() - began) / _pause_seconds
        assert len(found) - len(gone) <= limits.candidates_max
        assert all(line.split()[1] != b.key for line in a.lines if line.startswith("missed"))
        assert _memory_bytes(a) < 200 << 20


def test_a_machine_without_multicast_says_so_once_and_goes_on(wires: Wires, capfd: pytest.CaptureFixture[str]) -> None:
    """First it has no network at all, then one without multicast, then one that has it, then none again."""
    machines = wires.switch({"b": "10.9.0.2/24"})
    lonely = wires.machine("lone")
    with node(machines["b"], "10.9.0.2") as b:
        ip("addr", "add", "10.9.0.1/32", "dev", "lo", within=lonely)
        with node(lonely, "10.9.0.1") as a:
            assert a.rest(3) == []
            ip("addr", "del", "10.9.0.1/32", "dev", "lo", within=lonely)
            wires.plug(lonely, "late", "10.9.0.1/24", "multicast", "off")
            assert a.rest(3) == []
            said = capfd.readouterr().err
            assert said.count("expected an interface with multicast, found none") == 1
            assert said.count("interface eth0 has no multicast") == 1
            ip("link", "set", "eth0", "multicast", "on", within=lonely)
            a.until(f"linked {b.key}")
            b.until(f"linked {a.key}")
            ip("link", "set", "eth0", "multicast", "off", within=lonely)
            assert f"gone {b.key}" == a.until("gone", 10)


def _memory_bytes(heard: Heard) -> int:
    """Resident, of a node's process."""
    pages = int(Path(f"/proc/{heard.running.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
