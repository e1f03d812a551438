"""Stages and a lead in one process, without sockets: what one sends is encoded, and decoded by the other's handler."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from blyan.inference.head_in_turn import HeadInTurn, plain_head
from blyan.inference.layers_in_turn import LayersInTurn
from blyan.inference.pipeline_session import Led
from blyan.inference.pipeline_step import PipelineStepper
from blyan.inference.stage_calls import LeadOptions
from blyan.inference.stage_host import StageHost
from blyan.inference.stage_lead import StageLead
from blyan.inference.stage_route import Candidate, even_split
from blyan.model.config import ModelConfig
from blyan.model.eager_step import EagerStepper
from blyan.model.stage_step import EagerLayers, OfferLayers, StagedModel
from blyan.model.stepping import KVPages, Ready, Run, RunFault, RunResult, Stretch, nothing
from blyan.model.weights import ModelWeights
from blyan.network.answers import Prompt
from blyan.network.link import Link, frame_of
from blyan.network.questions import LinkLost, NoAnswer, Refused
from blyan.network.thread import NetworkThread
from blyan.primitives.errors import Fault
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.framing import Message, WireTensor, decode
from blyan.wire.stage_call import end_kind
from blyan.wire.stage_shapes import Hop
from random_models import RandomWeights

MODEL = PayloadId("ab" * 32)


class FakePeer:
    """Who is at the other end."""

    def __init__(self, node: PublicKey) -> None:
        self.node = node


class FakeLink:
    """One end's way to another: requests are answered by the other's handlers, with this end as their peer."""

    heard = 0.0  # nothing is, as far as anybody looks

    def __init__(self, house: House, own: PublicKey, other: PublicKey) -> None:
        self._house, self._own, self._other = house, own, other
        self.peer = FakePeer(other)
        self.closed = asyncio.Event()
        self.since = 0.0

    async def request(
        self, kind: str, fields: Mapping[str, Any], tensors: Sequence[WireTensor] = (), *, seconds: float
    ) -> Message:
        """As `Link.request`."""
        if self._gone_or_silent():
            await asyncio.sleep(seconds)
            raise NoAnswer(f"peer {self._other[:12]}: silent")
        try:
            return await self._answered(kind, fields, tensors)
        except Fault as reason:
            raise Refused(self._other, reason.code, reason.message, dict(reason.detail)) from None

    async def tell(self, kind: str, fields: Mapping[str, Any], tensors: Sequence[WireTensor] = ()) -> None:
        """As `Link.tell`."""
        if not self._gone_or_silent():
            self._house.begin(self._told(kind, fields, tensors))

    def tell_now(self, kind: str, fields: Mapping[str, Any], tensors: Sequence[WireTensor] = ()) -> bool:
        """As `Link.tell_now`."""
        if not self._gone_or_silent():
            self._house.begin(self._told(kind, fields, tensors))
        return True

    def _gone_or_silent(self) -> bool:
        if self.closed.is_set():
            raise LinkLost(f"peer {self._other[:12]}: gone")
        return self._other in self._house.silent

    async def _told(self, kind: str, fields: Mapping[str, Any], tensors: Sequence[WireTensor]) -> None:
        with contextlib.suppress(Fault):
            await self._answered(kind, fields, tensors)

    async def _answered(self, kind: str, fields: Mapping[str, Any], tensors: Sequence[WireTensor]) -> Message:
        house = self._house
        message = house.tamper(kind, decode(frame_of({**fields, "kind": kind}, tensors)))
        house.sent.append((self._own, self._other, kind, message))
        return await house.handlers[self._other][kind](cast(Link, house.links[self._other, self._own]), message)


class Waiting:
    """Layers that are computed when the house lets them."""

    def __init__(self, house: House, layers: EagerLayers) -> None:
        self._house, self._layers = house, layers
        self.close = layers.close

    def through(self, hidden: Tensor, runs: Sequence[Stretch]) -> tuple[Tensor, Any]:
        """As `EagerLayers.through`."""
        self._house.before_layers()
        given, chosen = self._layers.through(hidden, runs)
        return self._house.after_layers(given, runs), chosen


class House:
    """A lead `L` and stages `a`, `b`, … that hold these layers of one random model. A context: its loop is a thread."""

    def __init__(
        self,
        config: ModelConfig,
        weights: RandomWeights,
        *spans: range,
        kv_bytes: int = 1 << 26,
        lead: range = range(0),
        ends: bool = False,
    ) -> None:
        """`lead`: the layers that it holds itself. `ends`: whether stages hold embeddings and head."""
        self.config, self.weights = config, weights
        self.lead_key = PublicKey("f" * 64)
        self.keys = [PublicKey(f"{number:x}" * 64) for number in range(len(spans))]
        self.spans = dict(zip(self.keys, spans, strict=True))
        self.silent: set[PublicKey] = set()
        self.gone: set[PublicKey] = set()
        self.sent: list[tuple[PublicKey, PublicKey, str, Message]] = []
        self.tamper: Callable[[str, Message], Message] = lambda _kind, message: message
        self.now = 0.0
        self.allow: Callable[[PublicKey, int], bool] = lambda _node, _rows: True
        self.room: dict[PublicKey, object] = {}  # what stages said that they have left
        self.removed = False  # the model, from every stage
        self.before_layers: Callable[[], object] = lambda: None  # in the compute thread of a stage
        self.after_layers: Callable[[Tensor, Sequence[Stretch]], Tensor] = lambda hidden, _runs: hidden
        self.ends = frozenset({"embed", "head"}) if ends else frozenset[str]()
        self._kv_bytes = kv_bytes
        self._lead = Candidate(self.lead_key, frozenset(lead))
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> House:
        self.thread = NetworkThread()
        self.run(self._furnish())
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.run(self._closed()).result(10)
        self.thread.close()
        for host in self.hosts.values():
            host.close()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """In the loop, from it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _closed(self) -> None:
        for session in self.lead.sessions:
            await self.lead._close(session)

    async def _furnish(self) -> None:
        everybody = [self.lead_key, *self.keys]
        self.links = {(own, other): FakeLink(self, own, other) for own in everybody for other in everybody}
        model = [
            StagedModel(
                "random",
                self.config,
                cast(ModelWeights, self.weights),
                self.weights.embed().dtype,
                lambda layers, span=span: set(layers) <= set(span),
                lambda part: part in self.ends,
            )
            for span in self.spans.values()
        ]
        self.hosts = {
            key: StageHost(
                lambda manifest, staged=staged: staged if manifest == MODEL and not self.removed else None,
                lambda node, key=key: self.link_of(key, node),
                lambda staged, kv, layers, _offer: Waiting(
                    self, EagerLayers(staged.weights, staged.config, kv, layers)
                ),
                self._kv_bytes,
                lambda: self.now,
                self._allowed,
            )
            for key, staged in zip(self.keys, model, strict=True)
        }
        self._drawn = 0
        loop = asyncio.get_running_loop()
        self.lead = StageLead(
            self.thread, self, self.lead_key, "5" * 32, loop.time, self.entropy, LeadOptions(call_seconds=1)
        )
        self.handlers: dict[PublicKey, Mapping[str, Any]] = {key: host.handlers for key, host in self.hosts.items()}
        self.handlers[self.lead_key] = {end_kind: Prompt(self.lead.ended)}

    def _allowed(self, node: PublicKey, rows: int) -> bool:
        return self.allow(node, rows)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """In the loop."""
        return self.thread.run(work).result(20)

    def entropy(self, count: int) -> bytes:
        """Different each time."""
        self._drawn += 1
        return self._drawn.to_bytes(count, "little")

    def lose(self, key: PublicKey) -> None:
        """A stage's process ends."""

        async def losing() -> None:
            self.gone.add(key)
            for (own, other), link in self.links.items():
                if key in (own, other):
                    link.closed.set()

        self.run(losing())

    def link_of(self, own: PublicKey, other: PublicKey) -> Link | None:
        """An open link."""
        found = self.links[own, other]
        return None if found.closed.is_set() else cast(Link, found)

    # StageNodes

    def route(self, model: PayloadId, config: ModelConfig, without: frozenset[PublicKey]) -> tuple[Hop, ...] | None:
        """By what the stages hold."""
        there = [key for key in self.keys if key not in without | self.gone]
        return even_split(config.layers, [Candidate(key, frozenset(self.spans[key])) for key in there], self._lead)

    def link(self, node: PublicKey) -> Link | None:
        """An open link of the lead's."""
        return self.link_of(self.lead_key, node)

    def round_trip(self, _node: PublicKey) -> float:
        """None."""
        return 0.0

    def granted(self, model: PayloadId, hop: Hop, *, ends: bool) -> None:
        """Nothing."""

    def has_room(self, node: PublicKey, left: object) -> None:
        """Kept."""
        self.room[node] = left


# What leads compute through stages, and what it is held to


def plain_layers(model: StagedModel, kv: KVPages, layers: range, _offer: OfferLayers) -> EagerLayers:
    """Layers as every node computes them at first."""
    return EagerLayers(model.weights, model.config, kv, layers)


class Prepared(PipelineStepper):
    """One that waits for its stages in a step, where a compute thread does something else."""

    def step(self, runs: Sequence[Run], ready: Ready = nothing) -> list[RunResult | RunFault]:
        """As `PipelineStepper.step`, and what `prepare` raises."""
        while not self.prepare(1, 1):
            time.sleep(0.001)
        return super().step(runs, ready)


def stepper_of(house: House, pages: int = 8, seconds: float = 1.0) -> Prepared:
    """That of the lead."""
    config, weights = house.config, house.weights
    model = StagedModel("random", config, cast(ModelWeights, weights), torch.float32, lambda _: True, lambda _: True)
    here = partial(LayersInTurn, plain_layers, model, KVPages(config, torch.float32, pages))
    led = Led(MODEL, config, weights, pages, seconds, here)
    head = partial(HeadInTurn, plain_head, model, KVPages(config, torch.float32, 1))
    return Prepared(led, house.lead, head, time.monotonic)


def steps_of(prompt: int = 40, vocab: int = 211) -> list[list[Run]]:
    """Two sequences: prompts, then a token beside a draft of three."""
    tokens = torch.randint(0, vocab, (200,), generator=torch.Generator().manual_seed(1)).tolist()
    return [
        [Run(tuple(tokens[:prompt]), 0, (5, 1, 2, 3), 1, hidden=True), Run(tuple(tokens[100:110]), 0, (4,), 0)],
        [Run((tokens[prompt],), prompt, (5, 1, 2, 3), 1), Run(tuple(tokens[110:114]), 10, (4,), 4)],
    ]


def right_of(house: House, steps: Sequence[list[Run]]) -> list[list[RunResult]]:
    """What one node gives that computes all layers itself."""
    plain = EagerStepper(house.weights, house.config, KVPages(house.config, torch.float32, 8))
    return [plain.step(runs) for runs in steps]


def compared(found: Sequence[Any], right: Sequence[Any], tolerance: float = 0.0) -> None:
    """Scores, chosen experts and hidden states are the same."""
    for one, other in zip(right, found, strict=True):
        assert isinstance(other, RunResult)
        assert np.abs(one.scores - other.scores).max(initial=0) <= tolerance
        assert (one.chosen == other.chosen).all()
        assert (one.hidden is None) == (other.hidden is None)
        if one.hidden is not None and other.hidden is not None:
            assert torch.allclose(one.hidden, other.hidden, atol=tolerance, rtol=0)
