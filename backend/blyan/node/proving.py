"""Whether nodes have the experts that they say they hold: each hashes its copy under a question made for it alone.

Before a copy is given up, others must have shown theirs: what is only said costs nothing to say. Who answers needs the
bytes; an answer that somebody else gave is none, for what is hashed names who asks and who answers. Not shown by it:
that two nodes of one owner have a copy each, and that who fetches the bytes for the answer keeps them (ADR 0042).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Final

from blyan.inference.expert_host import Allowance
from blyan.network.link import Link
from blyan.network.questions import Refused
from blyan.node.copies import Copies
from blyan.node.giving_up import GivingUp, Place
from blyan.node.holdings import Hosted
from blyan.primitives import limits
from blyan.primitives.clock import Entropy, Monotonic
from blyan.primitives.errors import Busy, Fault, InvalidInput, NotFound, NotHeld
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.storage.blob_store import BlobStore
from blyan.wire.framing import Message
from blyan.wire.possession import Question, answer_of, kind, nonce_bytes, parse_question, read_answer

_log = logging.getLogger(__name__)
_answer_seconds: Final = 10.0  # for one question
_seconds_max: Final = 60.0  # for all


@dataclass(frozen=True, slots=True)
class Proving:
    """Asks others. For the network's loop; `link` gives an open link to a node."""

    me: PublicKey
    copies: Copies
    link: Callable[[PublicKey], Link | None]
    entropy: Entropy

    async def proved(
        self, models: Mapping[PayloadId, Hosted], said: Mapping[Place, Collection[PublicKey]], enough: int
    ) -> set[Place]:
        """Of experts that are here and that these nodes say they hold: those that so many of them have shown.

        Nodes are asked all at once, each place of as many as it lacks; who does not answer is not asked again.
        """
        left = {place: sorted(nodes, key=lambda _: self.entropy(8)) for place, nodes in said.items()}
        shown, silent = Counter[Place](), set[PublicKey]()
        try:
            async with asyncio.timeout(_seconds_max):
                while asked := _next(left, shown, silent, enough):
                    await asyncio.gather(
                        *(self._ask(models, node, places, shown, silent) for node, places in asked.items())
                    )
        except TimeoutError:
            _log.info("of %d experts others were asked to show, not all in time", len(said))
        return {place for place in said if shown[place] >= enough}

    async def _ask(
        self,
        models: Mapping[PayloadId, Hosted],
        node: PublicKey,
        places: Sequence[Place],
        shown: Counter[Place],
        silent: set[PublicKey],
    ) -> None:
        """Count what a node shows; it is `silent` from its first question without an answer on."""
        for hosted, numbers in _questions(models, places):
            link = self.link(node)
            question = Question(hosted.manifest_id, numbers, self.entropy(nonce_bytes).hex())
            try:
                if link is None:
                    raise NotFound("expected a link to it, found none")
                answer = await link.request(kind, question.fields(), (), seconds=_answer_seconds)
                given = read_answer(question, answer)
            except Refused as reason:
                _log.info("peer %s shows no experts of %s now: %s", node[:12], question.model[:12], reason.message)
                if reason.said == Busy.code:
                    return
                continue  # of another model it may
            except Fault as reason:
                _log.info("peer %s has not shown experts that it says it holds: %s", node[:12], reason.message)
                silent.add(node)
                return
            right = await self.copies.digests(hosted, question.bound(self.me, node), given)
            alike = [number for number in given if right.get(number) == given[number]]
            if len(alike) < len(given):
                _log.warning("peer %s has other bytes of experts than it should", node[:12])
            shown.update((hosted.manifest_id, number) for number in alike)


@dataclass(slots=True, eq=False)
class Shows:
    """Answers such questions. For the network's loop; close its `copies`."""

    store: InitVar[BlobStore]
    find: Callable[[PayloadId], Hosted | None]
    giving_up: GivingUp
    monotonic: Monotonic
    copies: Copies = field(init=False)
    _allowance: Allowance = field(init=False)

    def __post_init__(self, store: BlobStore) -> None:
        self.copies = Copies(store)
        self._allowance = Allowance(limits.possession_bytes_minute, self.monotonic)

    async def answer(self, link: Link, message: Message) -> Message:
        """`NotHeld` for a model that is not offered here, `InvalidInput` for more than a question may ask, `Busy`."""
        question, asker = parse_question(message.fields), link.peer.node
        hosted = self.find(question.model)
        if hosted is None:
            raise NotHeld(f"model {question.model[:12]}: expected one that is held here, found none")
        if question.experts[-1] >= hosted.grid.count:
            raise InvalidInput(f"possession: expected experts below {hosted.grid.count}")
        here = [number for number in question.experts if number in hosted.here]
        count = sum(hosted.block(number).length for number in here)
        if count > limits.possession_bytes_max and len(here) > 1:
            raise InvalidInput(f"possession: expected experts of at most {limits.possession_bytes_max} bytes")
        if self.copies.waiting >= limits.possession_queue_max or not self._allowance.take(asker, count):
            raise Busy("possession: expected fewer questions, found as many as are answered")
        shown = [number for number in here if self.giving_up.shows((question.model, number), asker)]
        return answer_of(await self.copies.digests(hosted, question.bound(asker, self.giving_up.me), shown))


def _next(
    left: Mapping[Place, list[PublicKey]], shown: Counter[Place], silent: Collection[PublicKey], enough: int
) -> dict[PublicKey, list[Place]]:
    """Who is asked for what now, taken from those that are `left`."""
    asked: dict[PublicKey, list[Place]] = defaultdict(list)
    for place, nodes in left.items():
        lacking = enough - shown[place]
        while nodes and lacking > 0:
            node = nodes.pop()
            if node not in silent:
                asked[node].append(place)
                lacking -= 1
    return asked


def _questions(models: Mapping[PayloadId, Hosted], places: Sequence[Place]) -> Iterator[tuple[Hosted, tuple[int, ...]]]:
    """The same in as few questions as may be."""
    numbers: dict[PayloadId, list[int]] = defaultdict(list)
    for manifest_id, number in places:
        numbers[manifest_id].append(number)
    for manifest_id, wanted in numbers.items():
        hosted, batch, size = models[manifest_id], list[int](), 0
        for number in sorted(wanted):
            length = hosted.block(number).length
            if batch and (size + length > limits.possession_bytes_max or len(batch) == limits.possession_experts_max):
                yield hosted, tuple(batch)
                batch, size = [], 0
            batch.append(number)
            size += length
        yield hosted, tuple(batch)
