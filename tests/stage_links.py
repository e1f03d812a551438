"""Stages and a lead in one process, without sockets: what one sends is encoded, and decoded by the other's handler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from blyan.inference.stage_host import StageHost
from blyan.inference.stage_lead import LeadOptions, StageLead
from blyan.inference.stage_route import Candidate, even_split
from blyan.model.config import ModelConfig
from blyan.model.stage_step import EagerLayers, StagedModel
from blyan.model.stepping import Stretch
from blyan.model.weights import ModelWeights
from blyan.network.link import Link, frame_of
from blyan.network.questions import LinkLost, NoAnswer, Refused
from blyan.network.thread import NetworkThread
from blyan.primitives.errors import Fault
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.framing import Message, WireTensor, decode
from blyan.wire.stage_call import Hop, end_kind
from random_models import RandomWeights

MODEL = PayloadId("ab" * 32)


class FakePeer:
    """Who is at the other end."""

    def __init__(self, node: PublicKey) -> None:
        self.node = node


class FakeLink:
    """One end's way to another: requests are answered by the other's handlers, with this end as their peer."""

    def __init__(self, house: House, own: PublicKey, other: PublicKey) -> None:
        self._house, self._own, self._other = house, own, other
        self.peer = FakePeer(other)
        self.closed = asyncio.Event()

    async def request(
        self, kind: str, fields: Mapping[str, Any], tensors: Sequence[WireTensor] = (), *, seconds: float
    ) -> Message:
        """As `Link.request`."""
        house = self._house
        if self.closed.is_set():
            raise LinkLost(f"peer {self._other[:12]}: gone")
        if self._other in house.silent:
            await asyncio.sleep(seconds)
            raise NoAnswer(f"peer {self._other[:12]}: silent")
        message = house.tamper(kind, decode(frame_of({**fields, "kind": kind}, tensors)))
        if kind == "ping":
            return Message({}, ())
        house.sent.append((self._own, self._other, kind, message))
        try:
            return await house.handlers[self._other][kind](cast(Link, house.links[self._other, self._own]), message)
        except Fault as reason:
            raise Refused(self._other, reason.code, reason.message, dict(reason.detail)) from None


class Waiting:
    """Layers that are computed when the house lets them."""

    def __init__(self, house: House, layers: EagerLayers) -> None:
        self._house, self._layers = house, layers
        self.close = layers.close

    def through(self, hidden: Tensor, runs: Sequence[Stretch]) -> tuple[Tensor, Any]:
        """As `EagerLayers.through`."""
        self._house.before_layers()
        return self._layers.through(hidden, runs)


class House:
    """A lead `L` and stages `a`, `b`, … that hold these layers of one random model. A context: its loop is a thread."""

    def __init__(self, config: ModelConfig, weights: RandomWeights, *spans: range, kv_bytes: int = 1 << 26) -> None:
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
        self.removed = False  # the model, from every stage
        self.before_layers: Callable[[], object] = lambda: None  # in the compute thread of a stage
        self._kv_bytes = kv_bytes

    def __enter__(self) -> House:
        self.thread = NetworkThread()
        self.run(self._furnish())
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.run(self._closed()).result(10)
        self.thread.close()
        for host in self.hosts.values():
            host.close()

    async def _closed(self) -> None:
        for session in list(self.lead.sessions.values()):
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
        self.handlers[self.lead_key] = {end_kind: self.lead.ended}

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
        return even_split(config.layers, [Candidate(key, frozenset(self.spans[key])) for key in there])

    def link(self, node: PublicKey) -> Link | None:
        """An open link of the lead's."""
        return self.link_of(self.lead_key, node)

    def round_trip(self, _node: PublicKey) -> float:
        """None."""
        return 0.0
