"""Trial calls: how long a stage takes for layers of a model, by the clock of the lead that may ask it.

A stage by itself is opened, called with a row and with many, once over all the layers that it could take and once over
one of them, and closed. What comes back is thrown away. Nothing here rests on what a stage says of itself.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import Final, cast

import torch

from blyan.inference.expert_host import bytes_of
from blyan.inference.stage_session import Session, StageNodes, give_back, leases
from blyan.model.config import ModelConfig
from blyan.model.stepping import page_positions
from blyan.network.link import Link
from blyan.network.measurements import LayerTimes
from blyan.network.questions import LinkLost, NoAnswer
from blyan.primitives.clock import Entropy, Monotonic
from blyan.primitives.errors import Fault, PeerFault
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.storage import tensor_block
from blyan.wire.expert_call import Activations
from blyan.wire.framing import Message, are_finite
from blyan.wire.stage_call import Passed, StageCall, end_names, kind, message_of, read_end
from blyan.wire.stage_shapes import Hop, RunShape, nonce_chars, session_chars

_many: Final = 64  # rows
_calls: Final = 3  # of a kind, one after the other: the quickest counts
_rounds_max: Final = 4  # of those with one row: jitted code comes a moment after the lease
_round_seconds: Final = 0.3  # between two
_better: Final = 0.8  # of the time before: then there may be more to come
_call_seconds: Final = 5.0
_test_seconds: Final = 1.0  # for one call that shows whether a stage computes
_least_share: Final = 0.05  # of a call that is the stage's own, whatever the round trip


class NotFinite(PeerFault):
    """What a stage gave for ordinary rows is no number."""


@dataclass(slots=True, eq=False)
class StageProbe:
    """For the network's loop."""

    nodes: StageNodes
    own: PublicKey
    boot: str
    monotonic: Monotonic
    entropy: Entropy
    activations: Activations = "exact"
    _waiting: dict[str, tuple[PublicKey, asyncio.Future[Message]]] = field(
        default_factory=dict["str", "tuple[PublicKey, asyncio.Future[Message]]"]
    )

    def ended(self, link: Link, message: Message) -> bool:
        """Whether the end of a call is one of a trial's."""
        name, _ = end_names(message.fields)
        node, answer = self._waiting.get(name, (None, None))
        if answer is None:
            return False
        if link.peer.node == node and not answer.done():
            answer.set_result(message)
        return True

    async def times(self, model: PayloadId, config: ModelConfig, dtype: torch.dtype, hop: Hop) -> LayerTimes:
        """What layers of a hop take; `PeerFault` and its kind, `Fault` of what is malformed, if it does not answer."""
        one, many = await self._tried(Session(self._name(), model, config, dtype, range(0), (hop,)))
        count, rows = hop.end - hop.begin, _many - 1
        if count == 1:  # what is the layer's own cannot be told from the call's
            return LayerTimes(0.0, one, (many - one) / rows, math.inf, self.monotonic())
        last = Hop(hop.node, hop.end - 1, hop.end)
        alone, alone_many = await self._tried(Session(self._name(), model, config, dtype, range(0), (last,)))
        layer = max(0.0, one - alone) / (count - 1)
        row = max(0.0, many - alone_many - (one - alone)) / ((count - 1) * rows)
        sent = (alone_many - alone) / rows - row  # seconds in which a row went there and back
        moved = 2 * config.hidden * dtype.itemsize
        rate = moved / sent if sent > 0 else math.inf
        return LayerTimes(max(0.0, alone - layer), layer, row, rate, self.monotonic())

    async def broken(self, session: Session) -> frozenset[PublicKey]:
        """Stages that give what is no number for a row of ordinary ones; who cannot be asked now is not judged."""
        about = session.model, session.config, session.dtype, range(0)
        one = [Session(self._name(), *about, (hop,), asked=1) for hop in session.hops]
        return frozenset(found for found in await asyncio.gather(*map(self._broken, one)) if found is not None)

    async def _broken(self, session: Session) -> PublicKey | None:
        link = self.nodes.link(session.hops[0].node)
        if link is None:
            return None
        try:
            async with asyncio.timeout(_test_seconds):
                await asyncio.gather(*leases(self.nodes, self.own, session, 1))
                await self._called(link, session, 1)
        except NotFinite:
            return link.peer.node
        except (Fault, TimeoutError):
            return None
        finally:
            await give_back(link, session.id)
        return None

    async def _tried(self, session: Session) -> tuple[float, float]:
        """Seconds of a call with one row and with many, round trip aside."""
        (hop,) = session.hops
        link = self.nodes.link(hop.node)
        if link is None:
            raise LinkLost(f"peer {hop.node[:12]}: expected a link, found none")
        try:
            session.asked = -(-_many // page_positions)
            await asyncio.gather(*leases(self.nodes, self.own, session, session.asked))
            one = await self._quickest(link, session, 1)
            for _ in range(_rounds_max - 1):
                await asyncio.sleep(_round_seconds)
                again = await self._quickest(link, session, 1)
                done, one = again > _better * one, min(one, again)
                if done:
                    break
            return one, max(one, await self._quickest(link, session, _many))
        finally:
            await give_back(link, session.id)

    async def _quickest(self, link: Link, session: Session, rows: int) -> float:
        there = self.nodes.round_trip(link.peer.node)
        seconds = math.inf
        for _ in range(_calls):
            seconds = min(seconds, await self._called(link, session, rows))
        return max(seconds - there, _least_share * seconds)

    async def _called(self, link: Link, session: Session, rows: int) -> float:
        session.number += 1
        hop, width = session.hops[0], session.config.hidden
        call = StageCall(
            session.model,
            session.id,
            session.number,
            hop.begin,
            hop.end,
            (),
            self.own,
            (RunShape(rows, 0, tuple(range(-(-rows // page_positions))), rows),),
            width,
            tensor_block.dtype_names[session.dtype],
            self.activations,
            int(_call_seconds * 1000),
            self.entropy(nonce_chars // 2).hex(),
        )
        drawn = torch.Generator().manual_seed(int.from_bytes(self.entropy(6), "big"))
        hidden = torch.randn((rows, width), generator=drawn).to(session.dtype)
        message = message_of(call, Passed(bytes_of(hidden), b""))
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[session.id] = hop.node, answer
        began = self.monotonic()
        try:
            async with asyncio.timeout(_call_seconds):
                await link.tell(kind, message.fields, message.tensors)
                end = await answer
        except TimeoutError:
            raise NoAnswer(f"stage {hop.node[:12]}: expected an answer in {_call_seconds:g} s, found none") from None
        finally:
            del self._waiting[session.id]
        seconds = self.monotonic() - began
        fault = cast("object", end.fields.get("fault"))
        if fault is not None:
            raise PeerFault(f"stage {hop.node[:12]}: expected layers {hop.begin} to {hop.end}, found a fault")
        if not are_finite(call.dtype, read_end(call, end).hidden):
            raise NotFinite(f"stage {hop.node[:12]}: expected finite numbers for ordinary ones, found others")
        return seconds

    def _name(self) -> str:
        return self.boot[: session_chars // 2] + self.entropy(session_chars // 4).hex()
