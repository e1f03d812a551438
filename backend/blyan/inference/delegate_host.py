"""Answers peers' orders of whole generations: this node leads, its stepper calls experts that are elsewhere.

Every node that holds a model's trunk may be asked. Quotas are per peer; who reads no steps, or leaves, ends what was
computed for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from blyan.inference.leading import Lead, LedSteps, sent
from blyan.model.choosing import Step
from blyan.model.loading import LoadedModel
from blyan.network.link import Link
from blyan.network.streams import Outlet
from blyan.primitives import limits
from blyan.primitives.errors import Busy, Fault, NotHeld
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.framing import Message
from blyan.wire.generation import ChunkWriter, Order, parse_order


@dataclass(slots=True)
class LedCounters:
    """What was led for peers since the start."""

    answered: int = 0
    left: int = 0  # the asker went, or its time was over
    refused: int = 0
    failed: int = 0
    tokens: int = 0


class Wanted(Protocol):
    """Who sees to it that what such generations use comes here (`node/wishing`)."""

    @property
    def counts(self) -> bool:
        """Whether it is to be told what is used."""
        ...

    def expected(self, model: PayloadId, experts: bytes) -> None:
        """These, a bitmap, will be used, whoever asks thinks."""
        ...

    def used(self, model: PayloadId, experts: Iterable[tuple[int, int, int]]) -> None:
        """Layer, expert, positions: what was used."""
        ...


class DelegateHost:
    """`give` is the handler of `generate`. For the network's loop."""

    def __init__(
        self,
        lead: Lead,
        find: Callable[[PayloadId], LoadedModel | None],
        allow: Callable[[PublicKey, int], bool],
        wanted: Wanted,
    ) -> None:
        """`allow`: whether a node may have so many rows computed."""
        self._lead, self._find, self._allow, self._wanted = lead, find, allow, wanted
        self._of: Counter[PublicKey] = Counter()  # under way, by node
        self.counters = LedCounters()

    @property
    def under_way(self) -> int:
        """Generations that are led for peers now."""
        return self._of.total()

    async def give(self, link: Link, message: Message, outlet: Outlet) -> Message:
        """Lead one generation. `NotHeld`, `Busy`, or what is wrong with the order or the computing."""
        order, node = parse_order(message), link.peer.node
        model = self._find(order.model)
        if model is None:
            self.counters.refused += 1
            raise NotHeld(f"model {order.model[:12]}: expected its trunk here, found none")
        self._want_room(node, self._rows(model, len(order.prompt) + len(order.chosen)))
        if order.expected:
            self._wanted.expected(order.model, order.expected)
        told = replace(order, routed=order.routed or self._wanted.counts)
        self._of[node] += 1
        ended = False
        try:
            async with (
                asyncio.timeout(order.milliseconds / 1000),
                self._lead.steps(model, told, f"peer {node}") as steps,
            ):
                await self._pass_on(model, order, node, steps, outlet)
            ended = True
            self.counters.answered += 1
        except TimeoutError:
            raise Busy("generation: expected to end in its time, found it over") from None
        except Fault:
            ended = True
            self.counters.failed += 1
            raise
        finally:
            self.counters.left += not ended
            self._of[node] -= 1
            if not self._of[node]:
                del self._of[node]
        return Message({}, ())

    async def _pass_on(
        self, model: LoadedModel, order: Order, node: PublicKey, steps: LedSteps, outlet: Outlet
    ) -> None:
        writer, before = ChunkWriter(order), self._lead.computing(model)
        while taken := await steps.next(limits.generation_chunk_steps_max):
            if not self._allow(node, self._rows(model, len(taken))):
                raise Busy("generation: expected fewer rows a minute of one node, found more")
            self.counters.tokens += len(taken)
            self._wanted.used(order.model, (each for step in taken for each in step.experts))
            now = self._lead.computing(model)
            jitted = before.jitted and now.jitted  # all of them, and not only the last
            waited_us = int(max(0.0, now.waited_s - before.waited_s) * 1e6)  # less: other code began from 0
            before = now
            for piece in _pieces(taken):
                await outlet.send(writer.chunk([sent(step) for step in piece], jitted=jitted, waited_us=waited_us))
                waited_us = 0

    def _want_room(self, node: PublicKey, rows: int) -> None:
        total, theirs = self.under_way, self._of[node]
        if total >= limits.generations_led_max or theirs >= limits.generations_led_peer_max:
            self.counters.refused += 1
            raise Busy(
                f"generations: expected fewer than {limits.generations_led_max} led for others, and than "
                f"{limits.generations_led_peer_max} for one node, found {total} and {theirs}"
            )
        if not self._allow(node, rows):
            self.counters.refused += 1
            raise Busy("generation: expected fewer rows a minute of one node, found more")

    def _rows(self, model: LoadedModel, positions: int) -> int:
        """Rows of experts that so many positions take."""
        config = model.manifest.config
        return positions * len(config.moe_layers) * config.experts_per_token


def _pieces(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps in as many chunks as their experts take: almost always one."""
    pieces: list[list[Step]] = [[]]
    used = 0
    for step in steps:
        used += len(step.experts)
        if used > limits.generation_chunk_experts_max and pieces[-1]:
            pieces.append([])
            used = len(step.experts)
        pieces[-1].append(step)
    return pieces
