"""Real nodes for tests: in this process behind a real socket, or as a subprocess of the installed command."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

from blyan.api.app import build_app
from blyan.model.hf_import import read_checkpoint
from blyan.node import builtin
from blyan.node.config import read_config
from blyan.node.importing import import_checkpoint
from blyan.node.node import Node, Sources
from blyan.node.quantizing import QuantizationRequest
from blyan.node.writer import WritableGround, opened
from blyan.primitives.ids import PayloadId
from forked import nursery
from running_node import RunningNode

SEED = bytes(range(32))


def fixed_entropy(count: int) -> bytes:
    """The same bytes each time: a fake of `clock.system_entropy`."""
    return (SEED * (count // 32 + 1))[:count]


def fixed_seconds() -> int:
    """A clock that stands still: a fake of `clock.system_seconds`."""
    return 1_700_000_000


def import_into(data_dir: Path, folder: Path, name: str, request: QuantizationRequest | None = None):
    """Import a checkpoint as `blyan model import` does."""
    with writing(data_dir) as ground:
        return import_checkpoint(ground, read_checkpoint(folder), name, lambda _done, _total: None, request).published


def install_builtin(data_dir: Path) -> PayloadId:
    """A data directory with the built-in model, as `blyan init` makes it, without a process; its manifest's id."""
    with writing(data_dir) as ground:
        return builtin.install(ground).model.manifest


@contextlib.contextmanager
def writing(data_dir: Path, **sections: dict[str, object]) -> Iterator[WritableGround]:
    """A data directory opened to write, made if it is new."""
    config = read_config(data_dir, sections, {})
    with opened(config, now=fixed_seconds, entropy=fixed_entropy, new=True) as ground:
        yield ground


@contextlib.asynccontextmanager
async def serving(data_dir: Path, **sections: dict[str, object]) -> AsyncIterator[TestClient]:
    """A node on an existing data directory, served on a free port of this process; its clock stands still."""
    async with serving_with(Sources(fixed_seconds, lambda: 0.0, fixed_entropy), data_dir, **sections) as client:
        yield client


@contextlib.asynccontextmanager
async def serving_with(
    sources: Sources, data_dir: Path, *, port: int | None = None, **sections: dict[str, object]
) -> AsyncIterator[TestClient]:
    """The same with a clock and chance of the caller's, and on a port that it chose."""
    with writing(data_dir, **sections) as ground:
        node = Node(read_config(data_dir, sections, {}), ground, sources)
        node.start()
        try:
            async with TestClient(TestServer(build_app(node), port=port, handler_cancellation=True)) as client:
                yield client
        finally:
            node.close()


def command(*arguments: str | Path, data_dir: Path | None = None, timeout: float = 60, **environment: str):
    """Run `blyan` in a process, forked from one that has its modules; what it printed and its exit code."""
    before = ["--data-dir", str(data_dir)] if data_dir else []
    return as_text(nursery().run([*before, *map(str, arguments)], environment, timeout))


def command_apart(*arguments: str | Path, data_dir: Path | None = None, timeout: float = 60, **environment: str):
    """The same in an interpreter of its own, as a shell starts it."""
    before = ["--data-dir", str(data_dir)] if data_dir else []
    return subprocess.run(
        [sys.executable, "-m", "blyan", *before, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
        check=False,
    )


def as_text(done: subprocess.CompletedProcess[bytes]) -> subprocess.CompletedProcess[str]:
    """What it printed, decoded."""
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def json_of(*arguments: str | Path, data_dir: Path) -> Any:
    """What a command that must succeed prints with --json."""
    done = command(*arguments, "--json", data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextlib.contextmanager
def running(data_dir: Path, *, apart: bool = False, **environment: str) -> Iterator[RunningNode]:
    """`blyan up` in a process for the length of a test; `apart`: in an interpreter of its own."""
    node = RunningNode(data_dir, environment=environment, apart=apart)
    node.start()
    try:
        yield node
    finally:
        node.stop()
