"""Nodes that hear of each other by a Redis they share, and by gossip from the moment that it dies."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp

from blyan.cli.node_swarm import way_of_news
from blyan.node.network_metrics import network_families
from blyan.node.swarm_secret import write_swarm
from redis_service import started_redis
from swarm_in_process import Member, serving_member, until
from swarm_nodes import SECRET


def new(folder: Path) -> Path:
    """A data directory that knows the join code and no address."""
    folder.mkdir()
    write_swarm(folder, SECRET)
    return folder


async def network(member: Member) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{member.url}/network/nodes") as response:
        return await response.json()


def counted(member: Member) -> float:
    """The gauge `blyan_redis_news_up`."""
    samples = (each for family in network_families(member.peering) for each in family.samples)
    return next(each.value for each in samples if each.name == "blyan_redis_news_up")


async def test_nodes_with_one_redis_meet_without_an_address_and_go_on_by_gossip_when_it_dies(tmp_path: Path) -> None:
    """What changes while Redis is gone is heard all the same; when Redis is back gossip is rare again."""
    redis = await asyncio.to_thread(started_redis)
    try:
        async with (
            serving_member(new(tmp_path / "one"), redis=redis.url) as (one, _),
            serving_member(new(tmp_path / "two"), redis=redis.url) as (two, _),
        ):
            await until(lambda: one.links and two.links, "links")
            assert one.peering.links.pace.rare and two.peering.links.pace.rare
            assert way_of_news(await network(one)) == "by Redis, and gossip beside it"
            assert await asyncio.to_thread(counted, one) == 1
            await asyncio.to_thread(redis.kill)
            await until(lambda: not one.peering.links.pace.rare, "full pace", 2)
            two.peering.summary.draining = True  # not told to anybody
            link = one.peering.links.link(two.peering.identity.key.public)
            assert link is not None
            await until(lambda: link.peer.draining, "news by gossip", 4)
            assert way_of_news(await network(one)).startswith("by gossip, without Redis: Redis: expected an answer")
            assert await asyncio.to_thread(counted, one) == 0
            await asyncio.to_thread(redis.start)
            await until(lambda: one.peering.links.pace.rare and two.peering.links.pace.rare, "news by Redis", 4)
            assert (await network(two))["redis"]["up"]
    finally:
        await asyncio.to_thread(redis.close)
