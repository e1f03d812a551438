"""Models of a swarm that are taken away, and newer versions that come: who goes on offering what, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from blyan.model.manifest import BlockReference, read_manifest
from blyan.network.dialling import blobs_url
from blyan.network.identity import client_context
from blyan.network.questions import Refused
from blyan.node.catalogue import manifest_of
from blyan.node.holdings import read_held
from blyan.node.publish import publish
from blyan.primitives import limits
from blyan.primitives.ids import PayloadId
from blyan.wire.expert_call import ExpertBatch, kind, packed
from swarm_in_process import Member, answer, experts_of, joined, serving_member, until
from swarm_nodes import ask, everything, nothing, part_of_builtin

NAME: Final = "blyan-genesis"
TOKENS_UNDER_WAY: Final = 900  # of an answer that lasts longer than a switch


async def newer_version(seed: Member) -> PayloadId:
    """The seed publishes its model once more with other experts, and answers with that."""
    with seed.node.changing() as ground:
        version = ground.chains.state.current(NAME)
        assert version is not None
        manifest = manifest_of(ground, version)
        parts = dict(manifest.parts)
        for part in [each for each in parts if each.endswith(".expert.0")]:
            raw = bytearray(ground.store.read(parts[part].payload, bytes_max=limits.GIB))
            raw[len(raw) // 2] ^= 1
            stored = ground.store.put([bytes(raw)])
            parts[part] = BlockReference(stored.payload, stored.length)
        made = publish(ground, replace(manifest, parts=parts)).model
    seed.node.adopt(NAME, await asyncio.to_thread(seed.node.loaded, NAME))
    return made.manifest


def model_of(member: Member) -> PayloadId | None:
    model = member.node.models.get(NAME)
    return getattr(model, "manifest_id", None)


def files_of(member: Member, manifest: PayloadId) -> set[PayloadId]:
    """The blocks of a model that have their file here."""
    store = member.node.ground.store
    wanted = {block.payload for block in read_manifest(store, manifest).blocks.values()}
    return wanted & set(store.payloads())


def no_more_than(member: Member, old: PayloadId, new: PayloadId) -> bool:
    """Whether nothing is here of an old model but what a new one has too."""
    return files_of(member, old) <= files_of(member, new)


async def call(member: Member, asked: Member, manifest: PayloadId) -> Any:
    """One expert call over the link of a member."""
    config = read_manifest(member.node.ground.store, manifest).config
    batch = ExpertBatch(manifest, config.moe_layers[0], (0,), (1,), config.hidden, "F32", "exact", 5_000, "00" * 12)
    node = asked.peering.identity.key.public
    work = member.peering.links.link(node).request(
        kind, batch.fields(), (packed(batch, bytes(4 * config.hidden)),), seconds=5
    )
    return await asyncio.wrap_future(member.peering._thread.run(work))


async def blob_status(member: Member, asked: Member, payload: PayloadId) -> int:
    """What another's peer port answers to whoever has a link and asks for a blob."""
    node = asked.peering.identity.key.public

    async def token() -> str:
        said = await member.peering.links.link(node).request("token", {}, seconds=5)
        return str(said.fields["token"])

    shown = await asyncio.wrap_future(member.peering._thread.run(token()))
    url = blobs_url(f"wss://127.0.0.1:{asked.peering.port}")
    connector = aiohttp.TCPConnector(ssl=client_context())
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"{url}/{payload}", headers={"Authorization": f"Bearer {shown}"}) as response,
    ):
        await response.read()
        return response.status


def said_to_hold(member: Member, asked: Member) -> set[PayloadId]:
    """What a member has heard that another holds."""
    link = member.peering.links.link(asked.peering.identity.key.public)
    return set() if link is None else set(link.peer.holdings)


async def test_a_model_that_was_removed_is_offered_no_more(tmp_path: Path) -> None:
    """Peers hear of it, their calls are answered that it is not held, its blobs are not given, and it stays away."""
    part_of_builtin(tmp_path / "gate", nothing, trunk=True)
    manifest = part_of_builtin(tmp_path / "seed", everything, trunk=True)
    async with (
        serving_member(tmp_path / "seed", roles=("gateway", "expert")) as (seed, url),
        serving_member(tmp_path / "gate", join=(seed.join_url,)) as (gate, _),
    ):
        await until(lambda: said_to_hold(gate, seed) == {manifest}, "a link")
        payload = min(files_of(seed, manifest))
        assert (await call(gate, seed, manifest)).tensors
        assert await blob_status(gate, seed, payload) == 200
        async with (
            aiohttp.ClientSession() as session,
            session.delete(f"{url}/api/delete", json={"model": NAME}) as done,
        ):
            assert done.status == 200
        await until(lambda: not said_to_hold(gate, seed), "peers told", 5)
        with pytest.raises(Refused) as refused:
            await call(gate, seed, manifest)
        assert refused.value.said == "not_held"
        assert await blob_status(gate, seed, payload) == 404
        assert manifest not in read_held(tmp_path / "seed")
        await asyncio.sleep(2)  # the gateway still tells of it: it is not taken again
        assert not seed.peering.holdings.models()
    async with serving_member(tmp_path / "seed", roles=("gateway", "expert")) as (seed, _):
        assert not seed.peering.holdings.models()


async def test_an_answer_that_is_under_way_ends_though_its_model_was_removed(tmp_path: Path) -> None:
    """With what is here and what others have."""
    part_of_builtin(tmp_path / "gate", lambda _, expert: expert < 4, trunk=True)
    part_of_builtin(tmp_path / "held", lambda _, expert: expert >= 4, trunk=False)
    async with (
        serving_member(tmp_path / "gate") as (gate, url),
        serving_member(tmp_path / "held", join=(gate.join_url,), roles=("expert",)),
    ):
        await until(lambda: len(gate.links) == 1, "a link")
        asked = asyncio.create_task(answer(gate))
        await until(lambda: gate.peering.executor.counters.messages > 8, "it began")
        async with (
            aiohttp.ClientSession() as session,
            session.delete(f"{url}/api/delete", json={"model": NAME}) as done,
        ):
            assert done.status == 200
        assert not asked.done()
        assert await asked == "12 + 30 = 42"


async def test_a_newer_version_takes_the_place_of_an_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway goes on with it; the old one's own blocks go from where they had come, and its maker keeps its."""
    monkeypatch.setattr(limits, "old_version_seconds", 1.0)
    old = part_of_builtin(tmp_path / "seed", everything, trunk=True)
    (tmp_path / "seed" / "held.json").unlink()  # it is its own
    async with contextlib.AsyncExitStack() as stack:
        seed, _ = await stack.enter_async_context(serving_member(tmp_path / "seed", roles=("gateway", "expert")))
        settings: dict[str, Any] = {"join": (seed.join_url,), "memory": ""}
        expert, _ = await stack.enter_async_context(
            serving_member(joined(tmp_path / "held"), roles=("expert",), **settings)
        )
        gate, _ = await stack.enter_async_context(
            serving_member(joined(tmp_path / "gate"), roles=("gateway",), **settings)
        )
        await until(lambda: len(experts_of(expert)) == 32 and model_of(gate) == old, "the old one taken", 30)
        new = await newer_version(seed)
        await until(lambda: model_of(gate) == new, "the gateway to answer with the new one", 30)
        await until(
            lambda: all(
                [hosted.manifest_id for hosted in each.peering.holdings.models()] == [new]
                for each in (seed, expert, gate)
            ),
            "the old one given up",
            30,
        )
        await until(lambda: len(experts_of(expert)) == 32, "the new one's experts taken", 30)
        assert await answer(gate) == await answer(seed)
        for folder in (expert, gate):
            await until(partial(no_more_than, folder, old, new), "what was the old one's alone gone", 5)
        assert len(files_of(seed, old)) == len(read_manifest(seed.node.ground.store, old).blocks)


@pytest.mark.long
async def test_a_gateway_switches_to_a_newer_version_within_half_a_minute_and_no_request_fails(tmp_path: Path) -> None:
    """Requests come all the while; an answer that is under way ends with the version that it began with."""
    old = part_of_builtin(tmp_path / "seed", everything, trunk=True)
    (tmp_path / "seed" / "held.json").unlink()  # it is its own
    async with contextlib.AsyncExitStack() as stack:
        seed, _ = await stack.enter_async_context(serving_member(tmp_path / "seed", roles=("gateway", "expert")))
        settings: dict[str, Any] = {"join": (seed.join_url,), "memory": ""}
        expert, _ = await stack.enter_async_context(
            serving_member(joined(tmp_path / "held"), roles=("expert",), **settings)
        )
        gate, _ = await stack.enter_async_context(
            serving_member(joined(tmp_path / "gate"), roles=("gateway",), plan="dynamic", **settings)
        )
        await until(lambda: len(experts_of(expert)) == 32 and model_of(gate) == old, "the old one taken", 30)
        expected = await ask(seed.url, "Tell me of yourself", ignore_eos=True, max_tokens=TOKENS_UNDER_WAY)
        requests = [asyncio.create_task(_one_after_the_other(gate)) for _ in range(2)]
        stream = ask(gate.url, "Tell me of yourself", ignore_eos=True, max_tokens=TOKENS_UNDER_WAY)
        under_way = asyncio.create_task(stream)
        await until(lambda: gate.peering.executor.counters.messages > 100, "answers under way")
        began = time.monotonic()
        new = await newer_version(seed)
        await until(lambda: model_of(gate) == new, "the gateway to answer with the new one", 30)
        switched = time.monotonic() - began
        was_under_way = not under_way.done()
        heard = await under_way
        for each in requests:
            each.cancel()
        answers = [found for each in requests for found in await each]
        print(f"switched after {switched:.1f} s, {len(answers)} answers meanwhile")
        assert was_under_way
        assert (heard.error, heard.tokens) == (None, expected.tokens)
        assert answers
        assert not [found for found in answers if not isinstance(found, str)]


async def _one_after_the_other(member: Member) -> list[Any]:
    """What it answers, until this is cancelled."""
    found: list[Any] = []
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            found.append(await answer(member))
    return found
