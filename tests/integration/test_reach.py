"""Nodes with links, gossip and relays wired as a node wires them: who is behind a relay is reached by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from blyan.inference.registry import Registry
from blyan.network.dialling import Dialler, relayed_url
from blyan.network.door import PeerDoor
from blyan.network.gossip import SummaryTable
from blyan.network.identity import make_identity
from blyan.network.link import Handler
from blyan.network.links import Links
from blyan.network.reach import Reach, ReachOptions
from blyan.primitives.clock import system_entropy, system_monotonic, system_seconds
from blyan.primitives.keys import Key
from blyan.storage.blob_store import BlobStore
from blyan.wire.peer import Summary
from relays import SWARM, echo, tensor, until


class Member:
    """A node's network without its models."""

    def __init__(self, folder: Path, options: ReachOptions, announced: str | None = None) -> None:
        self.identity = make_identity(Key.from_seed(system_entropy(32)), system_seconds, system_entropy)
        self.key = self.identity.key.public
        self.announced, self._sequence = announced, 0
        handlers: dict[str, Handler] = {"echo": echo}
        dialler = Dialler(self.identity, SWARM, handlers, system_monotonic, system_entropy)
        table = SummaryTable()
        watcher = Registry(table, self.key)
        self.links = Links(dialler, table, self.summary, watcher, system_monotonic, lambda: 0.5)
        handlers.update(self.links.handlers)
        self.reach = Reach(options, self.links, system_monotonic, system_entropy)
        self.door = PeerDoor(
            self.identity,
            SWARM,
            self.summary,
            handlers,
            self.links.joined,
            store=BlobStore(folder),
            monotonic=system_monotonic,
            entropy=system_entropy,
            routes=self.reach.routes,
        )

    def summary(self) -> Summary:
        self._sequence += 1
        ours, urls = self.identity, (*((self.announced,) if self.announced else ()), *self.reach.urls)
        said = Summary(
            self.key, ours.boot, ours.started, self._sequence, ours.certificate_hash, SWARM.tag, peer_urls=urls
        )
        return said.sign(ours.key)


@contextlib.asynccontextmanager
async def member(
    folder: Path, options: ReachOptions, join: str | None = None, *, reachable: bool = True
) -> AsyncIterator[Member]:
    made = Member(folder, options)
    port = await made.door.listen("127.0.0.1", 0)
    made.announced = f"wss://127.0.0.1:{port}" if reachable else None
    async with made.reach.opened("127.0.0.1", port):
        made.links.seek([(join, None)] if join else [])
        tasks = [asyncio.create_task(made.links.run()), asyncio.create_task(made.reach.run())]
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    await made.door.close()


async def test_who_is_behind_a_relay_is_reached_by_members_that_only_know_the_relay(tmp_path: Path) -> None:
    """Two of them, by gossip alone; tunnels that end are made again, and everything ends without a rest."""
    before = asyncio.all_tasks()
    async with member(tmp_path / "r", ReachOptions(relay=True)) as relay:
        behind = ReachOptions(relays=(relay.announced,))
        async with (
            member(tmp_path / "a", behind, reachable=False) as a,
            member(tmp_path / "b", behind, reachable=False) as b,
            member(tmp_path / "c", ReachOptions(), relay.announced, reachable=False) as caller,
        ):
            await until(lambda: {a.key, b.key} <= set(caller.links.open), 15)
            for node in (a, b):
                assert (relayed_url(relay.key),) == node.reach.urls
                link = caller.links.link(node.key)
                answer = await link.request("echo", {"say": node.key}, (tensor(10_000),), seconds=5)
                assert node.key == answer.fields["said"] == link.peer.node
            through = [caller.links.link(a.key), caller.links.link(b.key)]
            assert [relayed_url(relay.key)] * 2 == [link.url for link in through]
            await relay.reach.host.close()
            await until(lambda: not any(link.open for link in through))
            await until(lambda: {a.key, b.key} <= set(caller.links.open), 15)
    await until(lambda: asyncio.all_tasks() == before)
