"""What a node did while it gave blocks counts wherever else it might be asked."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from blyan.inference.registry import Registry
from blyan.network.gossip import SummaryTable
from blyan.network.receiving import SourceReport
from blyan.node import swarm_blobs
from blyan.node.swarm_blobs import SwarmBlobs
from blyan.primitives import limits
from blyan.primitives.ids import PayloadId, PublicKey
from swarms import node

PAYLOAD = PayloadId("ab" * 32)


def noted(fetch_bytes: int, *reports: SourceReport) -> Registry:
    registry = Registry(SummaryTable())
    peering: Any = SimpleNamespace(
        registry=registry,
        monotonic=lambda: 5.0,
        draw=lambda: 0.5,
        config=SimpleNamespace(network=SimpleNamespace(fetch_bytes=fetch_bytes)),
    )
    nothing: Any = None
    SwarmBlobs(peering, nothing).note([node(number) for number, _ in enumerate(reports)], reports)
    return registry


def test_the_speed_of_blocks_is_measured_of_who_gave_them() -> None:
    """Not where a rate of ours held them up; bytes over the time in which any connection was busy."""
    report = SourceReport("https://there", bytes=8_000_000)
    for moment in (1.0, 2.0):
        report.left(moment)
    for moment in (4.0, 5.0):
        report.came(moment, 3.0)
    assert (report.busy_seconds, report.seconds) == (4.0, 6.0)
    assert noted(0, report).measurements.of(node(0)).bytes_per_s == 2_000_000
    assert noted(1_000, report).measurements.of(node(0)).bytes_per_s is None


def test_wrong_bytes_of_a_block_count_against_the_node_that_gave_them() -> None:
    good, bad = SourceReport("https://good", bytes=5), SourceReport("https://bad", bad=[PAYLOAD, PAYLOAD])
    registry = noted(0, good, bad)
    assert registry.measurements.of(node(0)).failures == ()
    assert registry.measurements.of(node(1)).failures == (("corrupt", 1),)


class Swarm:
    """Linked nodes that came by themselves, at these addresses; which tunnels were opened to them."""

    def __init__(self, count: int, *urls: str) -> None:
        summaries = [
            SimpleNamespace(
                node=node(at), certificate="c", peer_urls=urls, holdings={PAYLOAD: SimpleNamespace(trunk=True)}
            )
            for at in range(count)
        ]
        links: Any = {each.node: SimpleNamespace(url="", peer=each, request=self.request) for each in summaries}
        links[node(1000)] = SimpleNamespace(url="")
        self.tunnels = list[PublicKey]()
        self.peering: Any = SimpleNamespace(
            links=SimpleNamespace(link=links.get, table=SimpleNamespace(live=lambda _now: summaries)),
            monotonic=time.monotonic,
            config=SimpleNamespace(models=SimpleNamespace(mirrors=())),
            reach=SimpleNamespace(tunnels=SimpleNamespace(to=self.to)),
        )

    async def request(self, *_about: object, **_how: object) -> Any:
        return SimpleNamespace(fields={"token": "a"})

    @asynccontextmanager
    async def to(self, _relay: PublicKey, to: PublicKey) -> AsyncGenerator[str]:
        self.tunnels.append(to)
        yield "https://127.0.0.1:1"

    async def sources(self) -> int:
        nothing: Any = None
        hosted: Any = SimpleNamespace(manifest_id=PAYLOAD)
        async with AsyncExitStack() as ways:
            return len(await SwarmBlobs(self.peering, nothing)._sources(hosted, ways, trunk=True))


async def test_few_nodes_are_asked_through_relays_whatever_other_addresses_they_say() -> None:
    """One that nobody answers at is none."""
    swarm = Swarm(12, "wss://127.0.0.1:1", "relay:" + node(1000))
    assert await swarm.sources() == len(swarm.tunnels) == limits.relayed_sources_max


async def test_nodes_that_answer_nowhere_hold_a_fetch_up_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one after the other, nor each of their addresses."""
    monkeypatch.setattr(swarm_blobs, "_connect_seconds", 0.1)
    tries = list[object]()

    async def silent(*where: object) -> None:
        tries.append(where)
        await asyncio.sleep(60)

    monkeypatch.setattr(asyncio, "open_connection", silent)
    began = time.monotonic()
    assert await Swarm(40, *(f"wss://192.0.2.{at}:9" for at in range(4))).sources() == 0
    assert (len(tries), time.monotonic() - began < 1) == (160, True)
