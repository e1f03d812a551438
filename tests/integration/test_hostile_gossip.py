"""What members pass on of others: forged, foreign, old, of another time or in another's name."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from blyan.network.link import Link
from blyan.node.keys import node_key, read_key
from blyan.primitives import canonical
from blyan.primitives.errors import PeerFault
from blyan.primitives.keys import Key
from blyan.wire.framing import WireTensor
from blyan.wire.peer import Summary, pack_bits, parse_summary
from crooked_node import CrookedNode
from crooked_scene import Scene
from lone_expert import DOES_WITHOUT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def _no_passphrase(_path: object = None) -> bytes:
    raise AssertionError("the key is not encrypted")


@pytest.fixture
async def gossiping(scene: Scene) -> AsyncIterator[tuple[CrookedNode, Link]]:
    """A member with a link, which holds nothing by its own word."""
    async with CrookedNode(scene.folder, scene.manifest) as node:
        node.changes = {"holdings": {}}
        yield node, await node.dial(scene.url)


def text(summary: Summary) -> str:
    return summary.signed.decode()


async def known_to(scene: Scene, node: CrookedNode, link: Link) -> dict[str, Summary]:
    """What the gateway passes on to somebody who knows nothing, by key."""
    empty = WireTensor("digest", "U8", (0,), b"")
    answer = await link.request("gossip", {"summary": text(node.summary())}, (empty,), seconds=5)
    summaries = [parse_summary(said.encode()) for said, _ in answer.fields["known"]]
    return {summary.node: summary for summary in summaries}


def stranger(scene: Scene, **changes: object) -> tuple[CrookedNode, Summary]:
    """A summary of a node that has no link."""
    other = CrookedNode(scene.folder, scene.manifest)
    other.changes = {"peer_urls": ("wss://127.0.0.1:9",), **changes}
    return other, other.summary()


def forged(summary: Summary) -> str:
    """Said to be somebody's, signed by nobody."""
    said = text(summary)
    at = said.index('"sig":"') + 7
    return said[:at] + ("0" if said[at] != "0" else "1") + said[at + 1 :]


@pytest.mark.parametrize("what", ["forged", "another swarm's", "no summary", "not a pair", "an age that is none"])
async def test_summaries_that_are_not_what_they_should_be_are_not_believed(
    scene: Scene, gossiping: tuple[CrookedNode, Link], what: str
) -> None:
    """Nor passed on. The link's owner may be told; the gateway goes on."""
    node, link = gossiping
    other, good = stranger(scene, **({"swarm": "ab" * 8} if what == "another swarm's" else {}))
    known: object = {
        "forged": [[forged(good), 1]],
        "another swarm's": [[text(good), 1]],
        "no summary": [["{}", 1]],
        "not a pair": [text(good)],
        "an age that is none": [[text(good), -1]],
    }[what]
    try:
        await link.request("gossip", {"known": known}, seconds=5)
    except PeerFault:
        assert what != "another swarm's"
    assert other.key.public not in await known_to(scene, node, link)


async def test_a_clock_that_is_years_off_changes_nothing(scene: Scene, gossiping: tuple[CrookedNode, Link]) -> None:
    """`started` is compared between processes of one key alone: a node of the future is known like any other."""
    node, link = gossiping
    other = CrookedNode(scene.folder, scene.manifest)
    other.identity = replace(other.identity, started=other.identity.started + 10**9)
    other.changes = {"peer_urls": ("wss://127.0.0.1:9",), "holdings": {}}
    await link.request("gossip", {"known": [[text(other.summary()), 1]]}, seconds=5)
    assert other.key.public in await known_to(scene, node, link)


async def test_an_older_summary_does_not_replace_a_newer_one(scene: Scene, gossiping: tuple[CrookedNode, Link]) -> None:
    """By its sequence, whoever passes it on."""
    node, link = gossiping
    other, old = stranger(scene, holdings={})
    new = other.summary()
    for each in (new, old):
        await link.request("gossip", {"known": [[text(each), 0]]}, seconds=5)
    assert (await known_to(scene, node, link))[other.key.public].sequence == new.sequence


def resigned(node: CrookedNode, **changes: Any) -> str:
    """Its summary as a later version of this software might write it."""
    value = json.loads(text(node.summary())) | changes
    del value["sig"]
    return canonical.encode(value | {"sig": node.key.sign("summary", canonical.encode(value)).hex()}).decode()


async def test_what_a_later_version_says_does_no_harm(scene: Scene, gossiping: tuple[CrookedNode, Link]) -> None:
    """A form that is not known is passed over and what came beside it is taken; fields that are not known go along."""
    node, link = gossiping
    plain, more, later = (CrookedNode(scene.folder, scene.manifest) for _ in range(3))
    for each in (plain, more, later):
        each.changes = {"peer_urls": ("wss://127.0.0.1:9",), "holdings": {}}
    held = {scene.manifest: {"trunk": False, "experts": pack_bits(b""), "adapters": ""}}
    said = resigned(more, colour="blue", versions=[1, 7], roles=["expert", "librarian"], holdings=held)
    known = [[resigned(later, v=2, holdings=[]), 1], [said, 1], [text(plain.summary()), 1]]
    await link.request("gossip", {"known": known}, seconds=5)
    heard = await known_to(scene, node, link)
    assert {plain.key.public, more.key.public} <= set(heard)
    assert later.key.public not in heard
    assert heard[more.key.public].signed.decode() == said, "as it was signed, so that others can check it"
    assert heard[more.key.public].versions == (1, 7)


async def test_nobody_speaks_for_the_gateway_itself(scene: Scene, gossiping: tuple[CrookedNode, Link]) -> None:
    """A summary under its own key, even one that is well signed, is not taken from others."""
    node, link = gossiping
    key = Key.from_seed(read_key(node_key(scene.gateway.data_dir)).seed(_no_passphrase))
    assert key.public == scene.gateway.key
    double = CrookedNode(scene.folder, scene.manifest, key=key)
    double.changes = {"peer_urls": ("wss://127.0.0.1:9",)}
    await link.request("gossip", {"known": [[text(double.summary()), 0]]}, seconds=5)
    heard = await scene.ask(DOES_WITHOUT)
    assert (heard.error, heard.tokens) == (None, scene.expected[DOES_WITHOUT].tokens)
    passed_on = (await known_to(scene, node, link)).get(scene.gateway.key)
    assert passed_on is None or passed_on.boot != double.identity.boot


async def test_another_node_is_not_spoken_for_over_ones_own_link(
    scene: Scene, gossiping: tuple[CrookedNode, Link]
) -> None:
    """A link's own summary must be of the node that proved its key there."""
    node, link = gossiping
    other, said = stranger(scene)
    with pytest.raises(PeerFault):
        await link.request("gossip", {"summary": text(said)}, seconds=5)
    assert other.key.public not in await known_to(scene, node, link)
