"""Members of the swarm that answer crookedly: nothing of it is ever used, and the gateway goes on."""

from __future__ import annotations

import asyncio

import pytest

from blyan.network.link import Link
from blyan.primitives.clock import system_entropy
from blyan.primitives.keys import Key
from blyan.wire.framing import Message
from crooked_answers import NEVER_RIGHT, wrong_digest
from crooked_node import CrookedNode, honest, send_raw
from crooked_scene import CALL_SECONDS, Scene
from lone_expert import ALONE, DOES_WITHOUT, NEEDS_IT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.mark.parametrize("crook", NEVER_RIGHT)
async def test_nothing_crooked_is_used(scene: Scene, crook: str) -> None:
    """Where an honest node holds the experts too the tokens are right; else it is said that an expert is not there."""
    async with CrookedNode(scene.folder, scene.manifest, NEVER_RIGHT[crook]) as node:
        await node.dial(scene.url)
        await asyncio.sleep(0.1)
        for _ in range(4):
            heard = await scene.ask(DOES_WITHOUT)
            assert (heard.error, heard.tokens) == (None, scene.expected[DOES_WITHOUT].tokens)
            if node.asked:
                break
        refused = await scene.ask(NEEDS_IT)
        assert node.asked
        assert (refused.status, refused.tokens) == (503, [])
        assert refused.error is not None
        assert refused.error["code"] == "expert_unavailable"
        assert refused.error["message"].startswith("layer {} expert {}:".format(*ALONE))
        assert refused.seconds < CALL_SECONDS + 2


async def test_a_late_answer_is_not_taken_for_another(scene: Scene) -> None:
    """The first ten answers come after everybody has stopped waiting for them; later ones are right and serve.

    Who is late is asked less: how often, in one answer, is by lot.
    """

    async def twist(node: CrookedNode, _link: Link, _call: Message, answer: Message) -> Message:
        await asyncio.sleep(0.6 if node.asked <= 10 else 0)
        return answer

    async with CrookedNode(scene.folder, scene.manifest, twist) as node:
        await node.dial(scene.url)
        await asyncio.sleep(0.1)
        for asked in range(12):
            prompt = NEEDS_IT if asked % 2 else DOES_WITHOUT
            heard = await scene.ask(prompt)
            assert (heard.error, heard.tokens) == (None, scene.expected[prompt].tokens)
            if asked >= 2 and node.asked > 10:
                break
        assert node.asked > 10


async def test_a_flood_of_requests_holds_nobody_up(scene: Scene) -> None:
    """Twenty thousand pings, calls of nothing and gossip at once: others are answered meanwhile."""
    async with CrookedNode(scene.folder, scene.manifest) as node:
        link = await node.dial(scene.url)

        async def flood() -> None:
            for number in range(1_000_000, 1_020_000):
                kind = ("ping", "experts", "gossip", "nothing")[number % 4]
                await send_raw(link, {"kind": kind, "id": number, "known": [["x", 1]]})

        flooding = asyncio.create_task(flood())
        heard = await scene.ask(DOES_WITHOUT)
        flooding.cancel()
        assert (heard.error, heard.tokens) == (None, scene.expected[DOES_WITHOUT].tokens)
        assert heard.seconds < 10


async def test_two_processes_of_one_key_are_both_kept_apart(scene: Scene) -> None:
    """A copy of a node's key, crooked, beside the node: answers are right, whichever of them is asked."""
    key = Key.from_seed(system_entropy(32))
    async with (
        CrookedNode(scene.folder, scene.manifest, honest, key=key) as one,
        CrookedNode(scene.folder, scene.manifest, wrong_digest(), key=key) as other,
    ):
        for node in (one, other):
            await node.dial(scene.url)
        await asyncio.sleep(0.1)
        for _ in range(3):
            heard = await scene.ask(DOES_WITHOUT)
            assert (heard.error, heard.tokens) == (None, scene.expected[DOES_WITHOUT].tokens)
