"""What a stage tells the lead of a call: what came out, or what went wrong. For the network's loop."""

from __future__ import annotations

import logging
from collections.abc import Callable

from blyan.network.link import Link
from blyan.network.questions import LinkLost
from blyan.primitives.errors import Fault
from blyan.primitives.ids import PublicKey
from blyan.wire.framing import Message
from blyan.wire.stage_call import StageCall, end_kind, fault_of

_log = logging.getLogger(__name__)


class Telling:
    """`link` gives an open link to a node. A lead that cannot be reached finds out by itself."""

    def __init__(self, link: Callable[[PublicKey], Link | None]) -> None:
        self.link = link

    def now(self, call: StageCall, message: Message) -> bool:
        """In this turn of the loop; False, and nothing is said, where it would have to wait."""
        link = self.link(call.lead)
        try:
            return link is not None and link.tell_now(end_kind, message.fields, message.tensors)
        except LinkLost:
            return False

    async def lead(self, call: StageCall, message: Message) -> None:
        """When it takes it; what fits in no frame it is told of in its place."""
        link = self.link(call.lead)
        if link is None:
            _log.debug("no link to lead %s", call.lead[:12])
            return
        try:
            try:
                await link.tell(end_kind, message.fields, message.tensors)
            except Fault as reason:
                if isinstance(reason, LinkLost):
                    raise
                why = fault_of(call, reason.code, reason.message, "")
                await link.tell(end_kind, why.fields, why.tensors)
        except LinkLost as reason:
            _log.debug("lead %s: %s", call.lead[:12], reason.message)
