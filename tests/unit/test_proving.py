"""A copy is given up only where others have shown theirs: who only says so, or passes the question on, counts not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias, cast

import pytest

from blob_sources import payload_of
from blyan.inference.snapshot import ExpertGrid
from blyan.model.manifest import BlockReference
from blyan.model.parts import expert_part
from blyan.network.link import Link
from blyan.network.questions import NoAnswer, Refused
from blyan.node import proving
from blyan.node.giving_up import GivingUp, Place
from blyan.node.holdings import Hosted
from blyan.node.proving import Proving, Shows
from blyan.primitives import limits
from blyan.primitives.clock import system_entropy
from blyan.primitives.errors import Busy, Fault, InvalidInput, MalformedMessage, NotHeld
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.storage.blob_reader import BlobReader
from blyan.storage.blob_store import BlobStore
from blyan.wire.framing import Message, WireTensor
from blyan.wire.possession import Question, answer_of, parse_question, read_answer
from swarm_nodes import wait_for

Answer: TypeAlias = Callable[[Link, Message], Awaitable[Message]]

MODEL = PayloadId("ab" * 32)
GRID = ExpertGrid((1, 2, 3), 4)
BYTES = [system_entropy(1_000 + number) for number in range(GRID.count)]
MANIFEST: Any = SimpleNamespace(
    parts={
        expert_part(GRID.layers[number // 4], number % 4): BlockReference(payload_of(data), len(data))
        for number, data in enumerate(BYTES)
    }
)
ME, HONEST, OTHER, SAYS, SILENT, PASSES = (PublicKey(each * 64) for each in "fabcde")
ALL = range(GRID.count)


class Holder:
    """A node that has the bytes of some experts, and says that it has some."""

    def __init__(self, folder: Path, key: PublicKey, has: Iterable[int], says: Iterable[int] = ALL) -> None:
        self.store = BlobStore(folder / key[:1], writable=True)
        for number in has:
            self.store.put([BYTES[number]])
        self.hosted = Hosted(MODEL, MANIFEST, GRID, False, set(says))
        self.giving_up = GivingUp(key)
        self.shows = Shows(self.store, {MODEL: self.hosted}.get, self.giving_up, time.monotonic)
        self.copies = self.shows.copies


class Asked:
    """A link of `asker` to a node that answers so."""

    def __init__(self, node: PublicKey, answer: Answer, asker: PublicKey = ME) -> None:
        self.peer = SimpleNamespace(node=node)
        self._answer, self._from = answer, cast(Link, SimpleNamespace(peer=SimpleNamespace(node=asker)))
        self.calls = list[Message]()

    async def request(self, _kind: str, fields: Any, tensors: Any, *, seconds: float) -> Message:
        """As `Link.request`."""
        assert seconds > 0
        message = Message(fields, tensors)
        self.calls.append(message)
        try:
            return await self._answer(self._from, message)
        except NoAnswer:
            raise
        except Fault as reason:
            raise Refused(self.peer.node, reason.code, reason.message, dict(reason.detail)) from None


async def silent(_link: Link, _message: Message) -> Message:
    raise NoAnswer("silent")


@pytest.fixture
def me(tmp_path: Path) -> Holder:
    return Holder(tmp_path, ME, ALL)


@pytest.fixture
def links(tmp_path: Path) -> dict[PublicKey, Asked]:
    has = {HONEST: ALL, OTHER: range(2), SAYS: range(0)}
    found = {key: Asked(key, Holder(tmp_path, key, each).shows.answer) for key, each in has.items()}
    return {**found, SILENT: Asked(SILENT, silent)}


def proving_of(me: Holder, links: dict[PublicKey, Asked]) -> Proving:
    return Proving(ME, me.copies, lambda node: cast(Link, links[node]), system_entropy)


def said(*nodes: PublicKey, numbers: Iterable[int] = ALL) -> dict[Place, list[PublicKey]]:
    return {(MODEL, number): list(nodes) for number in numbers}


def places(numbers: Iterable[int]) -> set[Place]:
    return {(MODEL, number) for number in numbers}


async def test_what_is_only_said_gives_nothing_up(me: Holder, links: dict[PublicKey, Asked]) -> None:
    """Two of four have the first two experts, one the others; all say that they have all."""
    found, models = proving_of(me, links), {MODEL: me.hosted}
    assert await found.proved(models, said(*links), 2) == places(range(2))
    assert await found.proved(models, said(*links), 1) == places(ALL)
    assert await found.proved(models, said(SAYS, SILENT), 1) == set()


async def test_who_passes_the_question_on_has_shown_nothing(
    me: Holder, links: dict[PublicKey, Asked], tmp_path: Path
) -> None:
    """Neither to a node that holds it nor to the one that asks, under whose name ever it asks these."""
    for holder in (me, Holder(tmp_path, HONEST, ALL)):
        for asker in (PASSES, ME):

            async def passed(_link: Link, message: Message, holder: Holder = holder, by: PublicKey = asker) -> Message:
                return await holder.shows.answer(cast(Link, SimpleNamespace(peer=SimpleNamespace(node=by))), message)

            links[PASSES] = Asked(PASSES, passed)
            assert await proving_of(me, links).proved({MODEL: me.hosted}, said(PASSES), 1) == set()
    links[PASSES] = Asked(PASSES, Holder(tmp_path, PASSES, ALL).shows.answer)
    assert await proving_of(me, links).proved({MODEL: me.hosted}, said(PASSES), 1) == places(ALL)


async def test_an_answer_to_another_question_shows_nothing(me: Holder, links: dict[PublicKey, Asked]) -> None:
    """An old one is kept and given again."""
    found = proving_of(me, links)
    assert await found.proved({MODEL: me.hosted}, said(HONEST), 1) == places(ALL)
    old = await links[HONEST].request("", links[HONEST].calls[0].fields, (), seconds=1)

    async def again(_link: Link, _message: Message) -> Message:
        return old

    links[HONEST] = Asked(HONEST, again)
    assert await found.proved({MODEL: me.hosted}, said(HONEST), 1) == set()


async def test_nobody_is_asked_for_what_enough_have_shown(me: Holder, links: dict[PublicKey, Asked]) -> None:
    found = proving_of(me, links)
    assert await found.proved({MODEL: me.hosted}, said(HONEST, OTHER, numbers=[0]), 1) == places([0])
    assert len(links[HONEST].calls) + len(links[OTHER].calls) == 1


async def test_who_is_silent_is_asked_once_and_holds_nobody_up(
    me: Holder, links: dict[PublicKey, Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight that take a question and never answer, beside one that answers, in questions of one expert each."""
    monkeypatch.setattr(limits, "possession_experts_max", 1)

    async def late(_link: Link, _message: Message) -> Message:
        await asyncio.sleep(0.3)
        raise NoAnswer("silent")

    nodes = [PublicKey(f"{at:064x}") for at in range(8)]
    links.update({node: Asked(node, late) for node in nodes})
    began = time.monotonic()
    assert await proving_of(me, links).proved({MODEL: me.hosted}, said(HONEST, *nodes), 1) == places(ALL)
    assert [len(links[node].calls) <= 1 for node in nodes] == [True] * 8
    assert time.monotonic() - began < 2
    monkeypatch.setattr(proving, "_seconds_max", 0.1)
    assert await proving_of(me, links).proved({MODEL: me.hosted}, said(*nodes), 1) == set()


async def test_a_damaged_copy_is_not_shown(me: Holder, links: dict[PublicKey, Asked], tmp_path: Path) -> None:
    """The others of the same question are."""
    path = BlobStore(tmp_path / HONEST[:1]).path(payload_of(BYTES[3]))
    path.chmod(0o600)
    path.write_bytes(bytes(len(BYTES[3])))
    found = await proving_of(me, links).proved({MODEL: me.hosted}, said(HONEST), 1)
    assert found == places(set(ALL) - {3})


async def test_what_is_hashed_for_one_node_has_limits(me: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    link = cast(Link, SimpleNamespace(peer=SimpleNamespace(node=HONEST)))
    numbers = tuple(ALL)
    message = Message(Question(MODEL, numbers, "0" * 32).fields(), ())
    monkeypatch.setattr(limits, "possession_bytes_max", 5_000)
    with pytest.raises(InvalidInput, match="at most 5000 bytes"):
        await me.shows.answer(link, message)
    monkeypatch.undo()
    monkeypatch.setattr(limits, "possession_bytes_minute", 20_000)
    shows = Shows(me.store, {MODEL: me.hosted}.get, me.giving_up, lambda: 5.0)
    assert len((await shows.answer(link, message)).fields["experts"]) == len(numbers)
    with pytest.raises(Busy):
        await shows.answer(link, message)
    monkeypatch.setattr(limits, "possession_queue_max", 0)
    with pytest.raises(Busy):
        await shows.answer(cast(Link, SimpleNamespace(peer=SimpleNamespace(node=OTHER))), message)
    with pytest.raises(NotHeld):
        await shows.answer(link, Message(Question(PayloadId("0" * 64), (1,), "0" * 32).fields(), ()))
    with pytest.raises(InvalidInput, match="below 12"):
        await shows.answer(link, Message(Question(MODEL, (12,), "0" * 32).fields(), ()))


async def test_a_refusal_of_one_model_leaves_others_to_be_shown(me: Holder, links: dict[PublicKey, Asked]) -> None:
    """A node that is busy is asked no more, one that does not offer a model is, for another."""
    other = PayloadId("cd" * 32)
    models = {other: Hosted(other, MANIFEST, GRID, False, set(ALL)), MODEL: me.hosted}
    wanted = {(other, 0): [HONEST], **said(HONEST)}
    assert await proving_of(me, links).proved(models, wanted, 1) == places(ALL)

    async def busy(_link: Link, _message: Message) -> Message:
        raise Busy("not now")

    links[HONEST] = Asked(HONEST, busy)
    assert await proving_of(me, links).proved(models, wanted, 1) == set()
    assert len(links[HONEST].calls) == 1


async def test_all_holders_that_would_give_up_at_once_leave_two(tmp_path: Path) -> None:
    """Five nodes ask the four others in the same moment, or one after the other, whoever begins."""
    keys = [PublicKey(f"{number:064x}") for number in range(1, 6)]
    for turn in range(6):
        nodes = [Holder(tmp_path / f"{turn}{key[-1]}", key, ALL) for key in keys]

        async def gives_up(one: Holder, wait: float, nodes: list[Holder] = nodes) -> None:
            me = keys[nodes.index(one)]
            others = {key: Asked(key, each.shows.answer, me) for key, each in zip(keys, nodes, strict=True)}
            await asyncio.sleep(wait)
            asks = Proving(me, one.copies, lambda node: cast(Link, others[node]), system_entropy)
            with one.giving_up.of(places([5])):
                shown = await asks.proved({MODEL: one.hosted}, said(*(set(keys) - {me}), numbers=[5]), 2)
                if any(one.giving_up.goes(place) for place in shown):
                    one.hosted.here.discard(5)

        await asyncio.gather(*(gives_up(each, 0.001 * turn * at) for at, each in enumerate(nodes)))
        left = sum(5 in each.hosted.here for each in nodes)
        assert 2 <= left < 5, "and some may go"
        for each in nodes:
            each.copies.close()


async def test_one_question_is_hashed_at_a_time_though_others_are_called_off(
    me: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is called off keeps its place until its reading has stopped, which is soon; other work has its threads."""
    hashing, most, total = set[int](), list[int](), list[int]()
    read = BlobReader.read

    def slow(self: BlobReader, into: memoryview, subtile: int) -> None:
        hashing.add(threading.get_ident())
        most.append(len(hashing))
        total.append(len(into))
        time.sleep(0.02)
        read(self, into, subtile)
        hashing.discard(threading.get_ident())

    monkeypatch.setattr(BlobReader, "read", slow)
    message = Message(Question(MODEL, tuple(ALL), "0" * 32).fields(), ())
    asking = [
        asyncio.create_task(me.shows.answer(cast(Link, SimpleNamespace(peer=SimpleNamespace(node=node))), message))
        for node in (HONEST, OTHER, SAYS) * 3
    ]
    await asyncio.sleep(0.05)
    assert me.copies.waiting == 9
    for each in asking:
        each.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    assert me.copies.waiting == 9, "they are not over yet"
    began = time.monotonic()
    await asyncio.to_thread(int)
    assert time.monotonic() - began < 0.02
    await asyncio.to_thread(wait_for, lambda: not me.copies.waiting, "the reading to stop")
    assert set(most) == {1}
    assert len(total) < len(ALL), "nobody waited for the rest of it"


async def test_what_was_shown_is_not_left_mapped(me: Holder, links: dict[PublicKey, Asked]) -> None:
    assert await proving_of(me, links).proved({MODEL: me.hosted}, said(HONEST), 1) == places(ALL)
    assert not me.store._memory._mapped


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"experts": []},
        {"experts": [2, 1]},
        {"experts": [1, 1]},
        {"experts": [-1]},
        {"experts": [True]},
        {"experts": list(range(257))},
        {"model": "x"},
        {"nonce": "00"},
        {"nonce": None},
    ],
)
def test_what_is_no_question_is_refused(fields: dict[str, object]) -> None:
    question = Question(MODEL, (0, 5), "0f" * 16)
    assert parse_question(question.fields()) == question
    with pytest.raises(MalformedMessage):
        parse_question({**question.fields(), **fields} if fields else {})


def test_what_is_no_answer_is_refused() -> None:
    question, digest = Question(MODEL, (0, 5), "0f" * 16), bytes(range(32))
    assert read_answer(question, answer_of({5: digest})) == {5: digest}
    assert read_answer(question, answer_of({})) == {}
    good = answer_of({0: digest, 5: digest})
    short = WireTensor("digests", "U8", (1, 32), digest)
    for message in (
        answer_of({4: digest}),
        Message(good.fields, ()),
        Message(good.fields, (short,)),
        Message({"experts": [5, 0]}, good.tensors),
        Message({}, good.tensors),
    ):
        with pytest.raises(MalformedMessage):
            read_answer(question, message)
