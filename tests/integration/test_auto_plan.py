"""`network.plan = auto`: whichever plan is the best by what was measured answers, and always the same tokens.

A gateway that has the trunk and no experts, one that has everything, a node that leads, and two stages.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
import jsonschema
import pytest
import pytest_asyncio

from blyan.api import network_schemas
from blyan.inference.delegate_host import DelegateHost
from blyan.inference.leading import LedSteps, sent
from blyan.inference.planner import Decision
from blyan.inference.planner_error import PlannerError
from blyan.inference.prediction import plans
from blyan.inference.step_times import StepSeen, StepTimes
from blyan.model.loading import LoadedModel
from blyan.model.stepping import PlanName
from blyan.network.streams import Outlet
from blyan.node.planning import Planning
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.generation import ChunkWriter, Order
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, serving
from swarm_in_process import Member, serving_member, until
from swarm_nodes import Heard, ask, everything, nothing, of_layers, part_of_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

OPTIONS: dict[str, Any] = {"model": "random", "ignore_eos": True, "seed": 3, "temperature": 0.9, "max_tokens": 16}
PROMPT = "Say something"
PLAIN = {"expert_memory": "0B"}


@dataclass
class Scene:
    """The nodes, and what one alone answers."""

    manifest: PayloadId
    gateway: Member
    whole: Member
    lead: Member
    stages: list[Member]
    alone: Heard

    def by(self) -> tuple[int, int, int]:
        """Orders of both gateways to leads, calls at stages, messages to experts."""
        gateways = (self.gateway, self.whole)
        return (
            sum(each.node.answering.delegating.counters.asked for each in gateways),  # type: ignore[union-attr]
            sum(each.peering.staging.lead.counters.calls for each in gateways),
            sum(each.peering.executor.counters.messages for each in gateways),
        )

    async def asked(self, member: Member, **more: object) -> Heard:
        """The question, whose answer is what one node alone says."""
        heard = await ask(member.url, PROMPT, **OPTIONS, **more)  # type: ignore[arg-type]
        assert (heard.error, self.alone.tokens) == (None, heard.tokens)
        return heard


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    root = tmp_path_factory.mktemp("auto")
    save_random_checkpoint(root / "hf", family="mixtral", vocab_size=260, scale=3.0)
    save_byte_tokenizer(root / "hf")
    import_into(root / "alone", root / "hf", "random")
    for name, keep, trunk in (
        ("gateway", nothing, True),
        ("whole", everything, True),
        ("lead", everything, True),
        ("stage0", of_layers(range(3)), range(3)),
        ("stage1", everything, range(4)),
    ):
        manifest = part_of_checkpoint(root / name, root / "hf", "random", keep, trunk)
    async with serving(root / "alone", inference=PLAIN) as client:
        alone = await ask(str(client.make_url("/")).rstrip("/"), PROMPT, **OPTIONS)
    async with contextlib.AsyncExitStack() as stack:
        members: dict[str, Member] = {}
        for name, role in (("lead", "expert"), ("stage0", "stage"), ("stage1", "stage")):
            join = tuple(each.join_url for each in members.values())
            member = serving_member(root / name, join=join, roles=(role,))
            members[name], _ = await stack.enter_async_context(member)
        join = tuple(each.join_url for each in members.values())
        for name in ("gateway", "whole"):
            members[name], _ = await stack.enter_async_context(serving_member(root / name, join=join))
        others = {members[name].peering.identity.key.public for name in ("lead", "stage0", "stage1")}
        await until(lambda: all(others <= members[name].links for name in ("gateway", "whole")), "links")
        stages = [members["stage0"], members["stage1"]]
        await until(lambda: key(stages[1]) in stages[0].links, "stages linked")
        yield Scene(manifest, members["gateway"], members["whole"], members["lead"], stages, alone)


def key(member: Member) -> PublicKey:
    return member.peering.identity.key.public


@contextlib.contextmanager
def measured(patch: pytest.MonkeyPatch, scene: Scene, member: Member, tokens_s: dict[PlanName, float]) -> Any:
    """As if plans had taken so long for a token; nothing is tried meanwhile, and nothing learned."""
    planning: Planning = member.node.planning
    steps = StepTimes()
    for plan, seconds in tokens_s.items():
        leads = (key(scene.lead), key(scene.whole)) if plan == "static_delegate" else (None,)
        for node in leads:
            for positions in (8, 32, 128):
                steps.add(scene.manifest, StepSeen(plan, seconds, 0.0, 1, 1, positions), node=node)
            steps.add(scene.manifest, StepSeen(plan, 4 * seconds, 0.0, 1, 64, 0), node=node)
    with patch.context() as scoped:
        for name, value in {"steps": steps, "errors": PlannerError(), "draw": lambda: 0.99, "_seen": {}}.items():
            scoped.setattr(planning, name, value)
        yield
    planning._seen.clear()


@pytest.mark.parametrize("best", plans)
async def test_the_best_plan_answers_token_for_token_as_one_node(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, best: PlanName
) -> None:
    """Each in turn the quickest by a factor."""
    member = scene.whole if best == "local" else scene.gateway
    times: dict[PlanName, float] = {plan: 0.01 if plan == best else 1.0 for plan in plans}
    before, chosen = scene.by(), member.node.planning.chosen[best]
    with measured(monkeypatch, scene, member, times):
        await scene.asked(member)
    delegated, staged, called = (now > then for now, then in zip(scene.by(), before, strict=True))
    assert member.node.planning.chosen[best] == chosen + 1
    assert (delegated, staged, called) == tuple(best == each for each in ("static_delegate", "pipeline", "dynamic"))


async def test_all_four_plans_are_said_with_numbers_or_why_not(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """And when this node alone is faster."""
    times: dict[PlanName, float] = {"local": 0.01, "static_delegate": 0.02, "pipeline": 0.04, "dynamic": 0.08}
    said: list[dict[str, Any]] = []
    async with aiohttp.ClientSession() as session:
        for member in (scene.gateway, scene.whole):
            with measured(monkeypatch, scene, member, times):
                async with session.get(f"{member.url}/network/plan?model=random") as answer:
                    said.append(await answer.json())
    for each in said:
        jsonschema.validate(each, network_schemas.plan)
    parted, whole = ({each["plan"]: each for each in one["predictions"]} for one in said)
    assert [parted[plan]["possible"] for plan in plans] == [False, True, True, True]
    assert parted["local"]["why"].endswith(" experts are not here")
    assert said[0]["chosen"] == "static_delegate"
    rates = [parted[plan]["tokens_per_s"] for plan in plans[1:]]
    assert rates[1:] == [pytest.approx(50), pytest.approx(25)]
    assert 0 < rates[0] <= 12.6, "as much as calls wait for is not known to be faster"
    assert [whole[plan]["offered"] for plan in plans] == [True, False, True, True]
    assert (said[1]["chosen"], said[1]["said"]) == (
        "local",
        "local: 100.0 tokens/s, 2.0 times as fast as static_delegate",
    )


async def test_what_cannot_be_delegated_goes_another_way(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows a grammar, by the next best plan."""
    times: dict[PlanName, float] = {"static_delegate": 0.01, "pipeline": 0.1, "dynamic": 1.0}
    before = scene.by()
    with measured(monkeypatch, scene, scene.gateway, times):
        options = {**OPTIONS, "ignore_eos": False, "response_format": {"type": "json_object"}}
        heard = await ask(scene.gateway.url, PROMPT, **options)
    delegated, staged, called = (now > then for now, then in zip(scene.by(), before, strict=True))
    assert (heard.error, delegated, staged, called) == (None, False, True, False)


async def test_a_plan_that_turns_out_impossible_gives_way_to_the_next(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages without memory, and a lead that has none of the model any more: experts are called then."""
    for stage in scene.stages:
        monkeypatch.setattr(stage.peering.staging.host.leases, "kv_bytes", 0)
        stage.peering.staging.host.leases._held.clear()
    for session in scene.gateway.peering.staging.lead.sessions:
        await asyncio.wrap_future(scene.gateway.peering.staging.lead.close(session))
    monkeypatch.setattr(scene.gateway.peering.staging, "patience", 0.2)
    scene.gateway.node.scheduler.unload(scene.gateway.node.model("random"))
    times: dict[PlanName, float] = {"pipeline": 0.01, "static_delegate": 1.0, "dynamic": 0.1}
    before = scene.by()
    with measured(monkeypatch, scene, scene.gateway, times):
        await scene.asked(scene.gateway)
        delegated, staged, called = (now > then for now, then in zip(scene.by(), before, strict=True))
        assert (delegated, staged, called) == (False, False, True)
        said = (await scene.gateway.node.planning._gathered(scene.manifest, model_of(scene).manifest.config)).situation
        assert said.route, "other stages would be asked"
    assert scene.gateway.node.planning._turned.keys() == {(scene.manifest, "pipeline")}
    scene.gateway.node.planning._turned.clear()


def model_of(scene: Scene) -> LoadedModel:
    return scene.gateway.node.model("random")


async def slowly(
    self: DelegateHost, model: LoadedModel, order: Order, node: PublicKey, steps: LedSteps, outlet: Outlet
) -> None:
    """One step at a time, and a long while for each."""
    writer = ChunkWriter(order)
    while taken := await steps.next(1):
        await asyncio.sleep(0.12)
        await outlet.send(writer.chunk([sent(step) for step in taken]))


async def test_auto_moves_away_from_a_lead_that_became_slow(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what its steps take here: experts are called then, and the answers are the same all the time."""
    planning, delegating = scene.gateway.node.planning, scene.gateway.node.answering.delegating
    assert delegating is not None, "a node with peers"
    draws = [0.0]  # at first what was not measured is tried
    with measured(monkeypatch, scene, scene.gateway, {"dynamic": 0.06}), monkeypatch.context() as patch:
        patch.setattr("blyan.node.planning._offered", lambda *_: frozenset({"dynamic", "static_delegate"}))
        patch.setattr("blyan.node.planning._settled", 0)
        patch.setattr(planning, "draw", lambda: draws.pop() if draws else 0.99)
        patch.setattr(delegating.leads, "timed", planning.steps.add)
        patch.setattr(delegating.leads, "draw", lambda: 0.99)  # always the one that is taken for the best

        async def chosen() -> PlanName:
            planning._seen.clear()
            before = planning.chosen.copy()
            await scene.asked(scene.gateway)
            ((plan, _),) = (planning.chosen - before).items()
            return plan

        assert [await chosen() for _ in range(3)] == ["static_delegate"] * 3
        patch.setattr(DelegateHost, "_pass_on", slowly)
        slow = [await chosen()]
        while slow[-1] == "static_delegate":
            slow.append(await chosen())
        assert (slow[-1], len(slow) < 8) == ("dynamic", True), slow


def slower(compute: Any, layer_s: dict[PublicKey, float], node: PublicKey, lease: Any, call: Any, passed: Any) -> Any:
    """What a stage computes, so much later for each layer."""
    time.sleep(layer_s[node] * (call.end - call.begin))
    return compute(lease, call, passed)


async def test_a_stage_that_is_twice_as_slow_gets_fewer_layers(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """By trial calls alone, which are made again when calls take longer than they should; evenly before the first."""
    quick, slow = scene.stages
    staging, peering = scene.gateway.peering.staging, scene.gateway.peering
    config = model_of(scene).manifest.config

    async def spans() -> dict[PublicKey, int]:
        found = peering.ask(lambda: staging.roster.route(scene.manifest, config, frozenset()))
        return {hop.node: hop.end - hop.begin for hop in await asyncio.wrap_future(found) or ()}

    layer_s = {key(quick): 0.01, key(slow): 0.02}
    for member in scene.stages:
        compute = member.peering.staging.host._compute

        monkeypatch.setattr(member.peering.staging.host, "_compute", partial(slower, compute, layer_s, key(member)))
        peering.registry.measurements._peers[key(member)].layers.clear()
    staging.speeds._failed.clear()
    staging.roster._rooms.clear()  # what was refused in other tests
    assert await spans() == {key(quick): 2, key(slow): 2}
    times = peering.registry.measurements.layers
    await until(lambda: all(times(key(each), scene.manifest) for each in scene.stages), "trial calls")
    assert await spans() == {key(quick): 3, key(slow): 1}
    with measured(monkeypatch, scene, scene.gateway, {plan: 1.0 - 0.9 * (plan == "pipeline") for plan in plans}):
        await scene.asked(scene.gateway)
        layer_s[key(quick)], layer_s[key(slow)] = 0.06, 0.005  # the other way round: another route takes less now
        monkeypatch.setattr("blyan.node.stage_roster._drift_seconds", 0.0)
        await scene.asked(scene.gateway)
        recomputed = scene.gateway.node.scheduler.counters.recomputed
        await until(lambda: staging.roster.preferred.get(scene.manifest) == ((key(slow), 0, 4),), "another route")
        await scene.asked(scene.gateway)
        assert [each.hops for each in staging.lead.sessions] == [((key(slow), 0, 4),)]
        assert scene.gateway.node.scheduler.counters.recomputed <= recomputed + 1


async def test_a_lead_that_shares_takes_fewer_layers_when_its_own_take_longer(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By how long they took in answers; evenly before the first."""
    peering, config = scene.whole.peering, model_of(scene).manifest.config
    roster, lead = peering.staging.roster, key(scene.whole)
    monkeypatch.setattr(roster, "shares", True)
    roster._rooms.clear()
    times, stages = roster.own_times(scene.manifest), peering.registry.measurements.layers
    await until(lambda: all(stages(key(each), scene.manifest) for each in scene.stages), "trial calls")

    async def share() -> int:
        found = peering.ask(lambda: roster.route(scene.manifest, config, frozenset()))
        return sum(hop.end - hop.begin for hop in await asyncio.wrap_future(found) or () if hop.node == lead)

    assert (times.times(0.0), await share() in (1, 2)) == (None, True)
    with measured(monkeypatch, scene, scene.whole, {plan: 1.0 - 0.9 * (plan == "pipeline") for plan in plans}):
        await scene.asked(scene.whole)
    found = times.times(0.0)
    assert found is not None and 0 < found.layer_s < 1
    monkeypatch.setattr(times, "_layer_s", 1e-9)
    assert await share() == config.layers
    monkeypatch.setattr(times, "_layer_s", 10.0)
    assert await share() <= 1


async def said(scene: Scene) -> Decision:
    planning = scene.gateway.node.planning
    planning._seen.clear()
    return (await planning.look(scene.manifest, model_of(scene).manifest.config, planning.shape(20, 16, 0))).decision
