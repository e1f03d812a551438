"""`blyan serve --join CODE` and no address: the nodes of a swarm find each other on the local network."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from namespaces import Wires

SETTINGS = {"OMP_NUM_THREADS": "1", "BLYAN_COMPUTE__THREADS": "1"}


def blyan(machine: str, folder: Path, *arguments: str) -> list[str]:
    """A command of this product on a machine of its own."""
    return ["ip", "netns", "exec", machine, sys.executable, "-m", "blyan", "--data-dir", str(folder), *arguments]


def said(machine: str, folder: Path, *arguments: str) -> str:
    """What such a command prints; nothing if it failed."""
    done = subprocess.run(
        blyan(machine, folder, *arguments), env=os.environ | SETTINGS, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


@contextlib.contextmanager
def serving(machine: str, folder: Path, *arguments: str, **settings: str) -> Iterator[None]:
    """`blyan serve` until the context ends."""
    log = (folder.parent / f"{folder.name}.log").open("wb")
    command = blyan(machine, folder, "serve", "--listen", "127.0.0.1:8645", *arguments)
    running = subprocess.Popen(command, env=os.environ | SETTINGS | settings, stdout=log, stderr=log)
    try:
        yield
    finally:
        running.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(20)
        running.kill()
        running.wait()
        log.close()


def until(machine: str, folder: Path, what: str, *arguments: str, seconds: float = 40) -> str:
    """What a command prints once it says something."""
    end = time.monotonic() + seconds
    while what not in (found := said(machine, folder, *arguments)) or not found:
        assert time.monotonic() < end, f"expected {what!r} of {arguments}, found {found!r}"
        time.sleep(0.5)
    return found


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_who_has_the_code_alone_finds_the_swarm_takes_its_model_and_answers(wires: Wires, tmp_path: Path) -> None:
    """Two machines on one switch; who has another code is there too and is linked to nobody."""
    machines = wires.switch({"a": "10.98.0.1/24", "b": "10.98.0.2/24", "c": "10.98.0.3/24"})
    a, b, c = (machines[name] for name in ("a", "b", "c"))
    seed, gate, alien = (tmp_path / name for name in ("seed", "gate", "alien"))
    with (
        serving(a, seed, "--peers", "0.0.0.0:8646", BLYAN_NETWORK__MDNS="true"),
        serving(c, alien, "--peers", "10.98.0.3:8646", BLYAN_NETWORK__MDNS="true"),
    ):
        code = until(a, seed, "#", "node", "invite").split("#")[1]
        with serving(b, gate, "--peers", "10.98.0.2:8646", "--role", "gateway", "--join", code):
            until(b, gate, "blyan-genesis 32", "node", "peers")
            asked = ("chat", "What is 12 plus 34?", "--node", "http://127.0.0.1:8645")
            assert "46" in until(b, gate, "46", *asked)
            other = until(c, alien, "#", "node", "invite").split("#")[1]
            assert other != code
            assert "10.98." not in said(c, alien, "node", "peers")
