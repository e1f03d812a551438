"""Layers on other nodes: gateways that hold none of them answer through stages what one node answers alone."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from blyan.node.holdings import blocks_of_layer, ends_of
from blyan.node.swarm_state import UnderWay, swarm_state
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, serving
from swarm_in_process import Member, in_one_process, serving_member, until
from swarm_nodes import Heard, ask, everything, nothing, of_layers, part_of_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 20}
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "seed": 7, "max_tokens": 20}
PLAIN = {"expert_memory": "0B"}
LETTERS = random.Random(1)
LONG = "".join(LETTERS.choice("abcdefghij ") for _ in range(1_100))  # a token each
SPANS = (range(2), range(2, 4))


@dataclass(frozen=True)
class Scene:
    """Gateways without layers, the two stages that they ask, and one node that has everything."""

    gateways: dict[str, Member]
    stages: list[Member]
    whole: str

    async def expected(self, prompt: str, **options: object) -> Heard:
        return await ask(self.whole, prompt, model="random", ignore_eos=True, **options)

    async def found(self, gateway: str, prompt: str, **options: object) -> Heard:
        return await ask(self.gateways[gateway].url, prompt, model="random", ignore_eos=True, **options)

    def counted(self, gateway: str) -> tuple[int, int]:
        """Calls and positions that the stages computed for a gateway so far, its trials aside."""
        peers = self.gateways[gateway].peering.staging.lead.counters.peers.values()
        return sum(each.calls for each in peers), sum(each.rows for each in peers)


GATEWAYS: dict[str, dict[str, object]] = {
    "plain": {},
    "small": {"kv_memory": "1.1MiB", "step_tokens": 48, "prompt_tokens": 32},
    "guessing": {"draft_tokens": 8},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and data directories with parts of it."""
    root = tmp_path_factory.mktemp("pipeline")
    save_random_checkpoint(root / "hf", family="mixtral", vocab_size=260, scale=3.0, max_position_embeddings=2048)
    save_byte_tokenizer(root / "hf")
    import_into(root / "whole", root / "hf", "random")
    for name in (*GATEWAYS, "delegating"):
        part_of_checkpoint(root / name, root / "hf", "random", nothing, True)
    for number, span in enumerate(SPANS):
        part_of_checkpoint(root / f"stage{number}", root / "hf", "random", of_layers(span), span)
    return root


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(root: Path) -> AsyncIterator[Scene]:
    async with contextlib.AsyncExitStack() as stack:
        gateways: dict[str, Member] = {}
        for name, inference in GATEWAYS.items():
            member = serving_member(root / name, inference=inference, plan="pipeline")
            gateways[name], _ = await stack.enter_async_context(member)
        join = tuple(each.join_url for each in gateways.values())
        stages = [
            (await stack.enter_async_context(serving_member(root / f"stage{number}", join=join, roles=("stage",))))[0]
            for number in range(len(SPANS))
        ]
        keys = {stage.peering.identity.key.public for stage in stages}
        await until(lambda: all(keys <= each.links for each in gateways.values()), "gateways linked to stages")
        await until(lambda: all(keys - {each.peering.identity.key.public} <= each.links for each in stages), "stages")
        delegating = serving_member(root / "delegating", join=(gateways["plain"].join_url,), plan="static_delegate")
        gateways["delegating"], _ = await stack.enter_async_context(delegating)
        lead = gateways["plain"].peering.identity.key.public
        await until(lambda: lead in gateways["delegating"].links, "a link to the lead")
        client = await stack.enter_async_context(serving(root / "whole", inference=PLAIN))
        yield Scene(gateways, stages, str(client.make_url("/")).rstrip("/"))


@pytest.mark.parametrize("told", [True, False], ids=["drawn by the lead", "drawn by the last stage"])
async def test_two_stages_answer_token_for_token_as_one_node(scene: Scene, told: bool) -> None:
    """Who wants log-probabilities has the lead draw."""
    first, last = (stage.peering.staging.host.counters for stage in scene.stages)
    drawn = last.drawn
    for options in (GREEDY, SAMPLED):
        expected = await scene.expected("Say something", told=told, **options)
        assert len(set(expected.tokens)) >= 8, "a model that repeats itself would show little"
        found = await scene.found("plain", "Say something", told=told, **options)
        assert (found.error, expected.tokens) == (None, found.tokens)
    assert first.calls and last.calls
    assert (last.drawn - drawn >= 2 * 20) is not told
    assert not first.drawn


async def test_a_stage_that_drains_sees_the_pipelines_that_use_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between two calls of an answer; not one that only has a lease."""
    monkeypatch.setattr("blyan.node.swarm_state._used_seconds", 1.0)
    peering = scene.stages[0].peering
    calls = peering.staging.host.counters.calls

    async def left() -> UnderWay:
        state = await asyncio.wrap_future(peering.ask(lambda: swarm_state(peering, reasons=False)))
        return state.under_way

    answer = asyncio.create_task(scene.found("plain", "Say something", max_tokens=400, temperature=0.0))
    await until(lambda: peering.staging.host.counters.calls > calls + 20, "calls")
    found = await left()
    assert not answer.done()
    assert found.total >= found.pipelines >= 1  # trials of other gateways count too, for a second
    await answer
    end = asyncio.get_running_loop().time() + 15
    while (await left()).total:
        assert asyncio.get_running_loop().time() < end, "expected nothing under way within 15 s"
        await asyncio.sleep(0.1)
    assert len(peering.staging.host.leases) >= 1


async def test_a_node_that_is_asked_for_a_whole_answer_leads_its_own_pipeline(scene: Scene) -> None:
    gateway = scene.gateways["delegating"]
    asks, began = gateway.node.answering.delegating, sum(scene.counted(name)[0] for name in GATEWAYS)
    assert asks is not None
    for options in (GREEDY, SAMPLED):
        expected = await scene.expected("Say something", **options)
        assert expected.tokens == (await scene.found("delegating", "Say something", **options)).tokens
    assert (asks.counters.asked, asks.counters.own) == (2, 0)
    assert sum(scene.counted(name)[0] for name in GATEWAYS) - began >= 2 * 2 * 20
    assert gateway.peering.executor.counters.messages == 0


async def test_what_a_prompt_has_in_common_with_an_earlier_one_is_not_computed_again_by_the_stages(
    scene: Scene,
) -> None:
    """More than a thousand tokens, in pieces; then the same with another end: the stages hold the rest yet."""
    before = scene.counted("plain")[1]
    expected = await scene.expected(LONG + "?", **GREEDY)
    assert expected.tokens == (await scene.found("plain", LONG + "?", **GREEDY)).tokens
    first = scene.counted("plain")[1] - before
    assert first >= 2 * len(LONG)
    expected = await scene.expected(LONG + "!", **GREEDY)
    assert expected.tokens == (await scene.found("plain", LONG + "!", **GREEDY)).tokens
    second = scene.counted("plain")[1] - before - first
    assert second < 2 * (32 + 16 + 20), "a page, the template's end and the answer, at each of two stages"


async def test_those_who_give_their_pages_back_are_computed_again_through_the_stages(scene: Scene) -> None:
    """With pages for one and a half of two, prompts in pieces, one and the other as if each were alone."""
    prompts = [LONG[:250], LONG[300:550]]
    options = {"temperature": 0.0, "max_tokens": 110}
    expected = await asyncio.gather(*(scene.expected(prompt, **options) for prompt in prompts))
    found = await asyncio.gather(*(scene.found("small", prompt, **options) for prompt in prompts))
    assert [each.tokens for each in found] == [each.tokens for each in expected]
    assert scene.gateways["small"].node.scheduler.counters.preemptions > 0


async def test_several_at_once_are_drawn_as_if_each_were_alone(scene: Scene) -> None:
    """They come and go between the others' steps: what was foreseen for the others is used, or left."""
    asked = [
        (f"Say {number}", {"temperature": number % 3 / 2, "seed": number, "max_tokens": 12 + 9 * number})
        for number in range(6)
    ]
    expected = [await scene.expected(prompt, told=False, **options) for prompt, options in asked]
    before = scene.stages[1].peering.staging.host.counters.drawn
    found = await asyncio.gather(*(scene.found("plain", prompt, told=False, **options) for prompt, options in asked))
    assert [each.tokens for each in found] == [each.tokens for each in expected]
    assert scene.stages[1].peering.staging.host.counters.drawn - before >= sum(len(each.tokens) for each in found)


async def test_guesses_are_verified_in_one_trip(scene: Scene) -> None:
    """An answer that repeats itself: the same tokens for fewer calls of each stage."""
    options = {"temperature": 0.0, "max_tokens": 120, "logit_bias": {"97": 100}}
    before = scene.counted("plain")[0], scene.counted("guessing")[0]
    plain = await scene.found("plain", "ababab", **options)
    guessed = await scene.found("guessing", "ababab", **options)
    without, with_guesses = scene.counted("plain")[0] - before[0], scene.counted("guessing")[0] - before[1]
    kinds, seen = len(set(plain.tokens)), scene.gateways["guessing"].node.scheduler.counters
    print(f"calls for {len(plain.tokens)} tokens of {kinds} kinds: {without} without guesses, {with_guesses} with them")
    print(f"{seen.accepted} of {seen.drafted} guesses were right")
    assert guessed.tokens == plain.tokens == (await scene.expected("ababab", **options)).tokens
    assert without >= 2 * 120
    assert with_guesses < 0.3 * without


async def test_stages_take_the_layers_that_the_swarm_lacks(root: Path, tmp_path: Path) -> None:
    """Two empty nodes with room for half of the layers each, beside one that has all and is no stage."""
    part_of_checkpoint(tmp_path / "gateway", root / "hf", "random", everything, True)
    manifest = part_of_checkpoint(tmp_path / "stage0", root / "hf", "random", nothing, False)
    part_of_checkpoint(tmp_path / "stage1", root / "hf", "random", nothing, False)
    folders = [tmp_path / "stage0", tmp_path / "stage1"]
    async with in_one_process(tmp_path / "gateway", [], plan="pipeline") as (gateway, _):
        hosted = gateway.peering.holdings.find(manifest)
        assert hosted is not None
        sizes = [sum(block.length for block in blocks_of_layer(hosted.manifest, layer)) for layer in range(4)]
        ends = [sum(hosted.manifest.parts[part].length for part in ends_of(hosted.manifest, span)) for span in SPANS]
        room = f"{max(sum(sizes[:2]), sum(sizes[2:])) + max(ends)}B"
        async with contextlib.AsyncExitStack() as stack:
            known = gateway.peering.staging.roster.known
            for number, folder in enumerate(folders, 1):
                member = serving_member(folder, join=(gateway.join_url,), roles=("stage",), memory=room)
                stage, _ = await stack.enter_async_context(member)
                here = stage.peering.holdings
                await until(
                    lambda here=here: here.whole(manifest, range(2)) or here.whole(manifest, range(2, 4)), "layers"
                )
                # else the next one may not have heard of it, and takes the same
                await until(lambda number=number: len(known(hosted)) == number, "what it holds to be known")
                span = range(2) if here.whole(manifest, range(2)) else range(2, 4)
                parts = ends_of(hosted.manifest, span)
                await until(lambda here=here, parts=parts: all(here.has(manifest, part) for part in parts), "ends")
            heard = await ask(gateway.url, "Say something", model="random", ignore_eos=True, **GREEDY)
            assert (heard.error, len(heard.tokens)) == (None, 20)
            asked = {name for name, _ in gateway.peering.staging.lead.counters.peers.items()}
            assert len(asked) == 1, "the gateway computes the first half itself"
