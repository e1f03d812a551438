"""Network namespaces for tests: machines of their own on wires of their own, on this kernel.

Where they are not permitted the test is skipped; with CI=true it fails.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from services import missing

BACKEND = Path(__file__).resolve().parent.parent / "backend"
_numbers = itertools.count()


def ip(*words: str, within: str = "") -> None:
    """`ip`, in a namespace; a test fails with what it says."""
    done = subprocess.run(
        ["ip", *(("-n", within) if within else ()), *words], capture_output=True, check=False, text=True, timeout=10
    )
    if done.returncode:
        pytest.fail(f"ip {' '.join(words)}: {done.stderr}")


class Wires:
    """Namespaces and what connects them; gone when the test ends."""

    def __init__(self) -> None:
        self._tag = f"bl{os.getpid():x}{next(_numbers):x}"
        self._made: list[str] = []

    def machine(self, name: str) -> str:
        """A namespace with nothing but loopback; its name in the system."""
        made = f"{self._tag}{name}"
        ip("netns", "add", made)
        self._made.append(made)
        ip("link", "set", "lo", "up", within=made)
        return made

    def wire(self, one: str, other: str, names: tuple[str, str], addresses: tuple[str, str]) -> None:
        """A cable between two machines; an address with its prefix for each end, or none."""
        ip("link", "add", names[0], "netns", one, "type", "veth", "peer", "name", names[1], "netns", other)
        for machine, name, address in zip((one, other), names, addresses, strict=True):
            if address:
                ip("addr", "add", address, "dev", name, within=machine)
            ip("link", "set", name, "up", within=machine)

    def switch(self, addresses: dict[str, str]) -> dict[str, str]:
        """Machines by name with an address each, on one switch; name → name in the system."""
        self._hub = self.machine("hub")
        ip("link", "add", "br0", "type", "bridge", "mcast_snooping", "0", within=self._hub)
        ip("link", "set", "br0", "up", within=self._hub)
        made = {name: self.machine(name) for name in addresses}
        for name, address in addresses.items():
            self.plug(made[name], name, address)
        return made

    def plug(self, machine: str, name: str, address: str, *settings: str) -> None:
        """Connect one more machine to the switch; `settings` of its interface are made before it is up.

        Of IPv6 it has what `address` says, which may be more than one or none: then it makes itself a link-local one.
        """
        ip("link", "add", "eth0", "netns", machine, "type", "veth", "peer", "name", f"port-{name}", "netns", self._hub)
        ip("link", "set", f"port-{name}", "master", "br0", "up", within=self._hub)
        if settings:
            ip("link", "set", "eth0", *settings, within=machine)
        if address:
            ip("link", "set", "eth0", "addrgenmode", "none", within=machine)
        for each in address.split():
            ip("addr", "add", each, "dev", "eth0", *(("nodad",) if ":" in each else ()), within=machine)
        ip("link", "set", "eth0", "up", within=machine)

    def close(self) -> None:
        for name in self._made:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False, timeout=10)


@contextmanager
def process(machine: str, script: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A Python script in a namespace; killed at the end. It writes lines, and reads them."""
    environment = {**os.environ, "PYTHONPATH": f"{BACKEND}:{Path(__file__).parent}", "PYTHONUNBUFFERED": "1"}
    running = subprocess.Popen(
        ["ip", "netns", "exec", machine, sys.executable, str(script), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield running
    finally:
        running.kill()
        running.wait(10)
        for pipe in (running.stdin, running.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def wires() -> Iterator[Wires]:
    """Namespaces, where they may be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        missing("a right to make network namespaces (root, and apt: iproute2)")
    made = Wires()
    tried = subprocess.run(["ip", "netns", "add", f"{made._tag}try"], capture_output=True, check=False, timeout=10)
    if tried.returncode:
        missing(f"a right to make network namespaces ({tried.stderr.decode().strip()})")
    subprocess.run(["ip", "netns", "del", f"{made._tag}try"], capture_output=True, check=False, timeout=10)
    with ExitStack() as stack:
        stack.callback(made.close)
        yield made
