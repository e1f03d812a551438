"""What a stage computed on its way: to the next stage, or to the lead, and what was drawn to the first stage too.

For the network's loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from blyan.inference.stage_leases import Lease
from blyan.inference.stage_telling import Telling
from blyan.inference.stage_turns import Given
from blyan.network.questions import LinkLost
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import Fault, InternalError
from blyan.primitives.ids import PublicKey
from blyan.wire.framing import Message
from blyan.wire.stage_call import Passed, StageCall, end_kind, end_of, fault_of, kind, message_of
from blyan.wire.stage_draws import Drawn
from blyan.wire.stage_draws import kind as drawn_kind

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Passing:
    """`go_on`: what waits at a lease for what is drawn may be computed."""

    telling: Telling
    monotonic: Monotonic
    go_on: Callable[[Lease], None]

    def now(self, lease: Lease, call: StageCall, given: Passed) -> bool:
        """Pass on in this turn of the loop; False, and nothing is done, if that is not possible."""
        try:
            if call.route:
                node, what, message = call.route[0].node, kind, message_of(call.onward(), given)
            else:
                node, what, message = call.lead, end_kind, end_of(call, given)
            told = self._drew(lease, call, given)
            if told is not None:
                taker = self.telling.link(told)
                drawn = Drawn(call.session, call.number, given.tokens).message()
                if taker is None or not taker.tell_now(drawn_kind, drawn.fields, drawn.tensors):
                    return False
            link = self.telling.link(node)
            if link is None or not link.tell_now(what, message.fields, message.tensors):
                return False
        except Fault:  # which is told on the other way
            return False
        lease.passed, lease.passed_at = call.number, self.monotonic()
        return True

    def _drew(self, lease: Lease, call: StageCall, given: Passed) -> PublicKey | None:
        """Another stage that is to be told what was drawn. It may be this one, which goes on after this turn."""
        if call.taker is None or call.route:
            return None
        if call.begin:
            return call.taker
        lease.turns.drew(call.number, given.tokens)
        asyncio.get_running_loop().call_soon(self.go_on, lease)
        return None

    async def after(self, lease: Lease, call: StageCall, computing: asyncio.Future[Given]) -> None:
        """Pass on. A mistake of ours is no reason to leave the lead waiting."""
        given = await asyncio.shield(computing)
        if given is None:
            return
        if isinstance(given, Passed):
            lease.passed, lease.passed_at = call.number, self.monotonic()  # first: to send may take long
            if call.route:
                await self._pass_on(call.route[0].node, call, partial(message_of, call.onward(), given), kind)
            else:
                told = self._drew(lease, call, given)
                if told is None:
                    await self.telling.lead(call, end_of(call, given))
                else:  # both at once: that one of them takes nothing is not to look like this node's silence
                    drawn = Drawn(call.session, call.number, given.tokens)
                    await asyncio.gather(  # what fails at once first: after the end the lead waits for nothing
                        self._pass_on(told, call, drawn.message, drawn_kind),
                        self.telling.lead(call, end_of(call, given)),
                    )
        elif isinstance(given, Fault):
            await self.telling.lead(call, fault_of(call, given.code, given.message, ""))
        else:
            _log.error("computing layers %d to %d for %s", call.begin, call.end, lease.lead[:12], exc_info=given)
            await self.telling.lead(call, fault_of(call, InternalError.code, "internal error", ""))

    async def _pass_on(self, node: PublicKey, call: StageCall, made: Callable[[], Message], what: str) -> None:
        """To the next stage; the lead is told if that cannot be reached."""
        link = self.telling.link(node)
        try:
            if link is None:
                raise LinkLost("expected a link to the next stage, found none")
            message = made()
            await link.tell(what, message.fields, message.tensors)
        except Fault as reason:  # of the way, or a message that fits in no frame
            whose = node if isinstance(reason, LinkLost) else ""
            await self.telling.lead(call, fault_of(call, reason.code, reason.message, whose))
