"""Layers on other nodes: a gateway that holds none of them answers through stages what one node answers alone."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blyan.node.holdings import blocks_of_layer
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from forked import Nursery
from nodes import import_into, serving
from swarm_in_process import Member, in_one_process, serving_member, until
from swarm_nodes import (
    Heard,
    Swarm,
    SwarmNode,
    ask,
    everything,
    nothing,
    of_layers,
    part_of_checkpoint,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 20}
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "seed": 7, "max_tokens": 20}
PLAIN = {"expert_memory": "0B"}


@contextlib.asynccontextmanager
async def pipeline(root: Path, *spans: range, **network: object) -> AsyncIterator[tuple[Member, list[Member]]]:
    """A gateway with what is of no layer, and stages with these layers, of the checkpoint in `root`/hf."""
    part_of_checkpoint(root / "gateway", root / "hf", "random", nothing, True)
    stages: list[Path] = []
    for number, span in enumerate(spans):
        stages.append(root / f"stage{number}")
        part_of_checkpoint(stages[-1], root / "hf", "random", of_layers(span), span)
    async with in_one_process(root / "gateway", stages, "stage", plan="pipeline", **network) as (gateway, members):
        yield gateway, members


async def test_two_stages_answer_token_for_token_as_one_node(tmp_path: Path) -> None:
    save_random_checkpoint(tmp_path / "hf", family="mixtral", vocab_size=260, scale=3.0)
    save_byte_tokenizer(tmp_path / "hf")
    import_into(tmp_path / "whole", tmp_path / "hf", "random")
    async with (
        pipeline(tmp_path, range(2), range(2, 4)) as (gateway, stages),
        serving(tmp_path / "whole", inference=PLAIN) as client,
    ):
        whole = str(client.make_url("/")).rstrip("/")
        for options in (GREEDY, SAMPLED):
            expected = await ask(whole, "Say something", model="random", ignore_eos=True, **options)
            assert len(set(expected.tokens)) >= 8, "a model that repeats itself would show little"
            found = await ask(gateway.url, "Say something", model="random", ignore_eos=True, **options)
            assert (found.error, expected.tokens) == (None, found.tokens)
        assert all(stage.peering.staging.host.counters.calls for stage in stages)


async def test_stages_take_the_layers_that_the_swarm_lacks(tmp_path: Path) -> None:
    """Two empty nodes with room for half of the layers each, beside one that has all and is no stage."""
    save_random_checkpoint(tmp_path / "hf", family="mixtral", vocab_size=260, scale=3.0)
    save_byte_tokenizer(tmp_path / "hf")
    part_of_checkpoint(tmp_path / "gateway", tmp_path / "hf", "random", everything, True)
    manifest = part_of_checkpoint(tmp_path / "stage0", tmp_path / "hf", "random", nothing, False)
    part_of_checkpoint(tmp_path / "stage1", tmp_path / "hf", "random", nothing, False)
    folders = [tmp_path / "stage0", tmp_path / "stage1"]
    async with in_one_process(tmp_path / "gateway", [], plan="pipeline") as (gateway, _):
        hosted = gateway.peering.holdings.find(manifest)
        assert hosted is not None
        sizes = [sum(block.length for block in blocks_of_layer(hosted.manifest, layer)) for layer in range(4)]
        room = f"{max(sum(sizes[:2]), sum(sizes[2:]))}B"
        async with contextlib.AsyncExitStack() as stack:
            for folder in folders:
                member = serving_member(folder, join=(gateway.join_url,), roles=("stage",), memory=room)
                stage, _ = await stack.enter_async_context(member)
                here = stage.peering.holdings
                await until(
                    lambda here=here: here.whole(manifest, range(2)) or here.whole(manifest, range(2, 4)), "layers"
                )
            heard = await ask(gateway.url, "Say something", model="random", ignore_eos=True, **GREEDY)
            assert (heard.error, len(heard.tokens)) == (None, 20)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """Processes: a gateway without layers and four stages that hold all of them, of which two are asked."""
    root = tmp_path_factory.mktemp("stages")
    save_random_checkpoint(root / "hf", family="mixtral", vocab_size=260, scale=3.0)
    save_byte_tokenizer(root / "hf")
    part_of_checkpoint(root / "gateway", root / "hf", "random", nothing, True)
    for number in range(4):
        part_of_checkpoint(root / f"stage{number}", root / "hf", "random", everything, range(4))
    with Nursery() as nursery:
        stages = [SwarmNode(root / f"stage{number}", nursery, roles="stage") for number in range(4)]
        with Swarm(SwarmNode(root / "gateway", nursery, plan="pipeline"), stages) as made:
            keys = {stage.key[:12] for stage in stages}
            wait_for(lambda: all(keys - {each.key[:12]} <= each.linked() for each in stages), "stages to be linked")
            yield made


def said(swarm: Swarm, at: dict[int, Callable[[], object]] | None = None) -> Heard:
    asked = ask(swarm.gateway.url, "Say something", at=at, model="random", ignore_eos=True, seed=3, max_tokens=60)
    return asyncio.run(asked)


@pytest.mark.long
def test_an_answer_survives_stages_that_are_stopped_killed_and_cut_off(swarm: Swarm) -> None:
    """One after the other, each time one that is asked; the benchmark holds the pause to a second."""
    said(swarm)
    calm = said(swarm)
    assert len(set(calm.tokens)) >= 8
    down: set[int] = set()
    for how in ("stopped", "killed", "cut off"):
        before = [proxy.up.passed for proxy in swarm.proxies]
        said(swarm)
        passed = [proxy.up.passed - then for proxy, then in zip(swarm.proxies, before, strict=True)]
        place = max(set(range(4)) - down, key=passed.__getitem__)
        down.add(place)
        node = swarm.experts[place]
        falls: dict[str, Callable[[], object]] = {
            "stopped": lambda node=node: node.send(signal.SIGSTOP),
            "killed": node.kill,
            "cut off": swarm.proxies[place].black_hole,
        }
        found = said(swarm, {20: falls[how]})
        assert (found.error, calm.tokens) == (None, found.tokens), how
        print(f"{how}: {found.pause:.2f} s")
        assert found.pause < 5, how
    for place in down:
        if swarm.experts[place].running:
            swarm.experts[place].send(signal.SIGCONT)
