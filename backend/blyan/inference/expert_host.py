"""Answers peers' expert calls from the experts that are here: one thread computes, few may wait for it.

Every call of a message is computed by itself, as the plain step computes it, so that where an expert is changes no bit
of its answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from blyan.inference.quick_work import QuickWork
from blyan.inference.steppers import PreparedMixture
from blyan.model.config import ModelConfig
from blyan.model.experts import ExpertCall
from blyan.model.weights import ModelWeights
from blyan.network.answers import Prompt
from blyan.network.link import Link
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import BlockCorrupt, Busy, InvalidInput, NotFound, NotHeld
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.storage import tensor_block
from blyan.wire.expert_call import ExpertBatch, answer_of, parse_batch, unpacked
from blyan.wire.framing import Buffer, Message, WireTensor

_log = logging.getLogger(__name__)
_quick_seconds: Final = 0.0005  # what is computed in the network's loop itself: two changes of thread take as long
_news: Final = 0.1  # weight of the last message


@dataclass(frozen=True, slots=True)
class HostedModel:
    """A model of which this node computes experts for others."""

    config: ModelConfig
    weights: ModelWeights
    holds: Callable[[int, int], bool]  # layer, expert
    mixture: PreparedMixture | None = None  # jitted code for its experts

    @property
    def jitted(self) -> bool:
        """Whether jitted code computes its experts."""
        return self.mixture is not None and self.mixture.ready is not None

    def computes_at_once(self, layer: int, experts: Sequence[int]) -> bool:
        """Whether jitted code has these experts before it: nothing is to be opened or hashed."""
        mixture = self.mixture.ready if self.mixture is not None else None
        return mixture is not None and all(mixture.has(layer, expert) for expert in experts)

    def close(self) -> None:
        """It is hosted no more."""
        if self.mixture is not None:
            self.mixture.close()


@dataclass(slots=True)
class HostCounters:
    """What was computed for peers since the start."""

    messages: int = 0
    rows: int = 0
    refused: int = 0
    called_off: int = 0  # while they waited
    seconds: float = 0.0


class Allowance:
    """Rows that each node may still ask for: a bucket that fills in a minute, bounded in nodes."""

    def __init__(self, rows: int, monotonic: Monotonic) -> None:
        self.rows = rows
        self._monotonic = monotonic
        self._left: dict[PublicKey, tuple[float, float]] = {}  # rows, and when they were counted

    def take(self, node: PublicKey, rows: int) -> bool:
        """Whether it may; a bucket that is full lets one message of any size pass."""
        if not self.rows:
            return True
        now = self._monotonic()
        left, then = self._left.pop(node, (float(self.rows), now))
        left = min(float(self.rows), left + (now - then) * self.rows / 60)
        allowed = rows <= left or left >= self.rows
        self._left[node] = (left - rows if allowed else left, now)
        if len(self._left) > limits.nodes_known_max:
            del self._left[next(iter(self._left))]  # who was heard of longest ago: full by now, or nearly
        return allowed


class ExpertHost:
    """Computes in a thread of its own. `find` says which model a manifest is, None if it is none of ours."""

    def __init__(
        self, find: Callable[[PayloadId], HostedModel | None], monotonic: Monotonic, rows_per_minute: int = 0
    ) -> None:
        """`rows_per_minute`: of one node; 0 is without limit."""
        self._find = find
        self.quick = QuickWork()
        self._of: Counter[PublicKey] = Counter()  # messages that wait, by node
        self.allowance = Allowance(rows_per_minute, monotonic)
        self._monotonic = monotonic
        self._thread = ThreadPoolExecutor(1, "blyan-experts")
        self._began = monotonic()
        self.queue = 0
        self._row_seconds: dict[PayloadId, float] = {}  # that a row took lately, of models in jitted code
        self.counters = HostCounters()

    @property
    def busy(self) -> int:
        """The share of the time since the start that was spent computing, in basis points."""
        return min(10_000, int(self.counters.seconds / max(1e-9, self._monotonic() - self._began) * 10_000))

    @property
    def answer(self) -> Prompt:
        """The handler of `experts`. `Busy` if too many wait or its time is over, `NotHeld` names what is not here."""
        return Prompt(self._begin)

    def _begin(self, link: Link, message: Message) -> Message | Callable[[], Awaitable[Message]]:
        node = link.peer.node
        batch = parse_batch(message.fields)
        until = self._monotonic() + batch.milliseconds / 1000
        if self.queue >= limits.expert_queue_max or self._of[node] >= limits.expert_queue_peer_max:
            self.counters.refused += 1
            raise Busy(
                f"expert calls: expected fewer than {limits.expert_queue_max} waiting, and than "
                f"{limits.expert_queue_peer_max} of one node, found {self.queue} and {self._of[node]}"
            )
        if not self.allowance.take(node, batch.count):
            self.counters.refused += 1
            raise Busy(f"expert calls: expected at most {self.allowance.rows} rows a minute of one node, found more")
        if self._is_quick(batch):
            with self.quick.timed(self._monotonic):
                rows = self._compute(batch, message.tensors, until)
            return answer_of(batch, message.tensors[0], rows)
        self.queue += 1
        self._of[node] += 1
        wanted = [message.tensors]  # packed: unpacked they may be four times as large
        done = asyncio.get_running_loop().run_in_executor(self._thread, self._turn, batch, wanted, until)
        done.add_done_callback(lambda over: self._left(node, over))

        async def in_turn() -> Message:
            try:
                rows = await asyncio.shield(done)
            except asyncio.CancelledError:  # called off, or the link ended; it counts as waiting until its turn
                wanted.clear()
                raise
            return answer_of(batch, message.tensors[0], rows)

        return in_turn

    def close(self) -> None:
        """Compute no more."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _is_quick(self, batch: ExpertBatch) -> bool:
        """Whether it is computed sooner than a thread would begin with it, and nobody waits for the thread."""
        seconds = self._row_seconds.get(batch.model)
        if seconds is None or self.queue or seconds * batch.count > _quick_seconds or self.quick.over:
            return False
        hosted = self._find(batch.model)
        return hosted is not None and hosted.computes_at_once(batch.layer, batch.experts)

    def _left(self, node: PublicKey, over: asyncio.Future[Buffer]) -> None:
        if not over.cancelled():
            over.exception()  # which nobody may be waiting for
        self.queue -= 1
        self._of[node] -= 1
        if not self._of[node]:
            del self._of[node]

    def _turn(self, batch: ExpertBatch, wanted: list[tuple[WireTensor, ...]], until: float) -> Buffer:
        try:
            tensors = wanted.pop()
        except IndexError:
            self.counters.called_off += 1
            return b""
        return self._compute(batch, tensors, until)

    @torch.inference_mode()
    def _compute(self, batch: ExpertBatch, tensors: tuple[WireTensor, ...], until: float) -> Buffer:
        began = self._monotonic()
        if began > until:
            self.counters.refused += 1
            raise Busy("expert call: expected to be computed in its time, found it over")
        hosted = self._find(batch.model)
        if hosted is None:
            self._row_seconds.pop(batch.model, None)
            raise NotHeld(f"model {batch.model[:12]}: expected one that is held here, found none")
        self._want(hosted, batch)
        data = unpacked(batch, tensors)
        dtype = tensor_block.dtypes[batch.dtype]
        hidden = torch.frombuffer(bytearray(data), dtype=dtype).view(batch.count, batch.width)
        output = self._computed(hosted, batch, hidden)
        self.counters.messages += 1
        self.counters.rows += batch.count
        seconds = self._monotonic() - began
        self.counters.seconds += seconds
        if hosted.jitted:
            usual = self._row_seconds.get(batch.model, seconds / batch.count)
            self._row_seconds[batch.model] = usual + _news * (seconds / batch.count - usual)
        return bytes_of(output)

    def _want(self, hosted: HostedModel, batch: ExpertBatch) -> None:
        config = hosted.config
        fits = batch.layer in config.moe_layers and all(expert < config.experts for expert in batch.experts)
        if not fits or batch.width != config.hidden:
            raise InvalidInput(
                f"expert call: expected a MoE layer, experts below {config.experts} and rows of {config.hidden}"
            )
        lacking = [expert for expert in batch.experts if not hosted.holds(batch.layer, expert)]
        if lacking:
            raise _not_held(batch.layer, lacking, "not held")

    def _computed(self, hosted: HostedModel, batch: ExpertBatch, hidden: Tensor) -> Tensor:
        """Rows [count, width], one expert's after the other's."""
        mixture = None if hosted.mixture is None else hosted.mixture.get(batch.layer, batch.experts[0])
        try:
            if mixture is not None:
                return mixture.answer(batch.layer, batch.experts, batch.rows, hidden)
        except (BlockCorrupt, NotFound):
            pass  # the plain path says which
        outputs: list[Tensor] = []
        pieces = torch.split(hidden, list(batch.rows))
        for expert, piece in zip(batch.experts, pieces, strict=True):
            try:
                outputs.append(hosted.weights.answer(ExpertCall(batch.layer, expert, piece)))
            except (BlockCorrupt, NotFound) as fault:
                _log.error("an expert that peers ask for is damaged: %s", fault.message)
                raise _not_held(batch.layer, [expert], "damaged") from None
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _not_held(layer: int, experts: list[int], found: str) -> NotHeld:
    message = f"layer {layer} experts {experts[:8]}: expected them here, found them {found}"
    return NotHeld(message, detail={"layer": layer, "experts": experts})


def bytes_of(tensor: Tensor) -> bytes:
    """The bytes of a tensor, row-major."""
    if tensor.dtype is torch.bfloat16:  # which numpy does not know
        tensor = tensor.view(torch.int16)
    return tensor.numpy().tobytes()
