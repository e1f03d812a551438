"""One session of a pipeline: its stages, what is waited for, how long calls take, and its leases.

For the network's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blyan.model.config import ModelConfig
from blyan.network.link import Link
from blyan.network.questions import LinkLost, NoAnswer, Refused
from blyan.primitives.errors import MalformedMessage
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.framing import Message
from blyan.wire.stage_call import Hop, StageCall, StageOpen, close_kind, open_kind, read_end

_pong_seconds: Final = 0.25  # that a stage which is alive needs at most for saying so
_pong_factor: Final = 4.0  # or so many times its round trip
_open_seconds: Final = 2.0
_few_rows: Final = 8
_weight: Final = 0.2  # of the newest measurement


class StageLost(Exception):
    """A stage of a pipeline is gone, or has not what it had: nothing of the session serves any more."""

    def __init__(self, message: str, nodes: frozenset[PublicKey] = frozenset()) -> None:
        super().__init__(message)
        self.message = message
        self.nodes = nodes  # whose fault it was, as far as is known


class StageNodes(Protocol):
    """What the lead needs to know of others."""

    def route(self, model: PayloadId, config: ModelConfig, without: frozenset[PublicKey]) -> tuple[Hop, ...] | None:
        """Which nodes take which layers, all of them in order; None where some have nobody."""
        ...

    def link(self, node: PublicKey) -> Link | None:
        """An open link to a node."""
        ...

    def round_trip(self, node: PublicKey) -> float:
        """Seconds of a ping, as far as was measured."""
        ...


@dataclass(slots=True, eq=False)
class Session:
    """Leases at the stages of one route, for one engine of the lead."""

    id: str
    model: PayloadId
    config: ModelConfig
    dtype: torch.dtype
    hops: tuple[Hop, ...]
    lost: StageLost | None = None
    number: int = 0  # of the last call; the compute thread's
    fixed: float | None = None  # seconds of a call of few rows
    row: float = 0.0  # of each row more
    rows: int = 0  # under way
    keeping: asyncio.Task[None] | None = None
    waiting: dict[int, asyncio.Future[Message]] = field(default_factory=dict[int, "asyncio.Future[Message]"])

    def expected(self) -> float:
        """Seconds that what is under way should take."""
        return 1.0 if self.fixed is None else self.fixed + self.row * self.rows

    def took(self, rows: int, seconds: float) -> None:
        """A call of so many rows took so long, those that were before it included."""
        if rows <= _few_rows or self.fixed is None:
            self.fixed = seconds if self.fixed is None else self.fixed + _weight * (seconds - self.fixed)
            return
        row = max(0.0, seconds - self.fixed) / rows
        self.row = row if not self.row else self.row + _weight * (row - self.row)

    def end(self, reason: StageLost) -> None:
        """Everybody who waits is told."""
        if self.lost is None:
            self.lost = reason
        for answer in self.waiting.values():
            if not answer.done():
                answer.set_exception(reason)


def leases(nodes: StageNodes, own: PublicKey, session: Session, pages: int) -> list[Coroutine[Any, Any, None]]:
    """Ask each stage for its lease, or that it goes on."""
    before = [own, *(hop.node for hop in session.hops)]
    return [
        _asked(nodes, hop.node, StageOpen(session.model, session.id, hop.begin, hop.end, pages, previous))
        for hop, previous in zip(session.hops, before, strict=False)
    ]


async def _asked(nodes: StageNodes, node: PublicKey, asked: StageOpen) -> None:
    link = nodes.link(node)
    if link is None:
        raise LinkLost(f"peer {node[:12]}: expected a link, found none")
    await link.request(open_kind, asked.fields(), seconds=_open_seconds)


async def give_back(link: Link, session: str) -> None:
    """Tell a stage that its lease is of no use any more."""
    with contextlib.suppress(LinkLost, NoAnswer, Refused):
        await link.request(close_kind, {"session": session}, seconds=_open_seconds)


async def is_alive(nodes: StageNodes, node: PublicKey) -> bool:
    """Whether a node answers at once."""
    link = nodes.link(node)
    if link is None:
        return False
    try:
        seconds = max(_pong_seconds, _pong_factor * nodes.round_trip(node))
        await link.request("ping", {}, seconds=seconds)
    except (LinkLost, NoAnswer, Refused):
        return False
    return True


def result_of(session: Session, call: StageCall, message: Message) -> tuple[Tensor, NDArray[Any]]:
    """Hidden states and chosen experts of an end; `MalformedMessage` unless it is this call's."""
    config = session.config
    shape = (len(config.moe_layers), call.count, config.experts_per_token)
    passed = read_end(call, message)
    chosen = np.frombuffer(passed.chosen, "<u2").astype(np.int32)
    if chosen.size != shape[0] * shape[1] * shape[2] or (chosen.size and int(chosen.max()) >= config.experts):
        raise MalformedMessage("stage end: expected the experts of each position in each MoE layer")
    hidden = torch.frombuffer(bytearray(passed.hidden), dtype=session.dtype).view(call.count, call.width)
    return hidden, chosen.reshape(shape)
