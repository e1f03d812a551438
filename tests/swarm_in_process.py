"""Swarms of real nodes in the process of a test, where many are needed: real sockets, one network thread each."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import TestClient, TestServer

from blyan.api.app import build_app
from blyan.node.config import read_config
from blyan.node.node import Node, Sources
from blyan.node.peering import Peering
from blyan.node.swarm_secret import write_swarm
from blyan.node.writer import opened
from blyan.primitives.clock import system_entropy, system_monotonic, system_seconds
from swarm_nodes import CODE, SECRET, room

SOURCES = Sources(system_seconds, system_monotonic, system_entropy)


@dataclass(frozen=True)
class Member:
    """One node, and where it answers people."""

    node: Node
    url: str

    @property
    def peering(self) -> Peering:
        """Its network."""
        assert self.node.peering is not None, "a node with a peer port"
        return self.node.peering

    @property
    def join_url(self) -> str:
        """What others set as `network.join`."""
        return f"wss://127.0.0.1:{self.peering.port}#{CODE}"

    @property
    def links(self) -> set[str]:
        """The keys of those it has a link to."""
        return set(self.peering.links.open)


@contextlib.asynccontextmanager
async def serving_member(
    data_dir: Path, inference: Mapping[str, object] | None = None, mirrors: Sequence[str] = (), **network: object
) -> AsyncIterator[tuple[Member, str]]:
    """A node with a peer port, and its URL. `network` and `inference` are sections of its configuration."""
    sections: dict[str, dict[str, object]] = {
        "network": {"listen": "127.0.0.1:0", "memory": room(data_dir), **network},
        "compute": {"threads": 1},
        "inference": dict(inference or {}),
        "models": {"mirrors": list(mirrors)},
    }
    config = read_config(data_dir, sections, {})
    with opened(config, now=system_seconds, entropy=system_entropy, new=True) as ground:
        node = Node(config, ground, SOURCES)
        await asyncio.to_thread(node.start)
        try:
            async with TestClient(TestServer(build_app(node), handler_cancellation=True)) as client:
                url = str(client.make_url("/")).rstrip("/")
                yield Member(node, url), url
        finally:
            await asyncio.to_thread(node.close)


@contextlib.asynccontextmanager
async def in_one_process(
    gateway_dir: Path, expert_dirs: Sequence[Path], role: str = "expert", **network: object
) -> AsyncIterator[tuple[Member, list[Member]]]:
    """A gateway to which these expert nodes (or stages) are linked; `network` is of the gateway's configuration."""
    async with contextlib.AsyncExitStack() as stack:
        gateway, _ = await stack.enter_async_context(serving_member(gateway_dir, **network))
        experts = [
            (await stack.enter_async_context(serving_member(each, join=(gateway.join_url,), roles=(role,))))[0]
            for each in expert_dirs
        ]
        keys = {expert.peering.identity.key.public for expert in experts}
        await until(lambda: keys <= gateway.links, f"{len(keys)} links")
        yield gateway, experts


def joined(folder: Path) -> Path:
    """A new data directory that knows the join code and nothing else."""
    folder.mkdir()
    write_swarm(folder, SECRET)
    return folder


async def answer(member: Member) -> Any:
    """What the built-in model says to one question, or the error."""
    body = {"model": "blyan-genesis", "messages": [{"role": "user", "content": "What is 12 plus 30?"}], "seed": 1}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{member.url}/v1/chat/completions", json={**body, "max_tokens": 24}) as response,
    ):
        said = await response.json()
        return said["choices"][0]["message"]["content"] if response.status == 200 else said


def experts_of(member: Member) -> set[int]:
    """The numbers of the routed experts that it holds, of all models together."""
    return {number for hosted in member.peering.holdings.models() for number in hosted.here}


async def until(what: Callable[[], object], said: str, seconds: float = 15) -> None:
    """Until something holds; `AssertionError` says what did not."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"expected {said} within {seconds:g} s"
        await asyncio.sleep(0.02)
