"""Leases at stages that are of no use any more: each stage is told until it has heard it. For the network's loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from blyan.inference.stage_session import Session, StageNodes, give_back
from blyan.network.questions import LinkLost
from blyan.primitives import limits
from blyan.primitives.ids import PublicKey
from blyan.wire.stage_lease import close_kind


@dataclass(slots=True, eq=False)
class LeaseReturns:
    """Those of one lead. `task` does what nobody waits for."""

    nodes: StageNodes
    task: Callable[[Coroutine[Any, Any, None]], None]
    _owed: dict[PublicKey, list[str]] = field(default_factory=dict[PublicKey, "list[str]"])

    def owe(self, session: Session) -> None:
        """Its stages are told. Who cannot be finds out by the lease's end."""
        for hop in session.hops:
            owed = self._owed.pop(hop.node, [])
            owed.append(session.id)
            self._owed[hop.node] = owed[-limits.stage_leases_node_max :]
            if len(self._owed) > limits.nodes_known_max:  # the leases of who was owed first have ended long ago
                del self._owed[next(iter(self._owed))]
            self.task(self._give_back(hop.node))

    async def say_again(self, node: PublicKey) -> None:
        """Before more is asked of a stage: what it may not have heard, for it could not be reached then."""
        link = self.nodes.link(node)
        with suppress(LinkLost):
            for session in list(self._owed.get(node, ())):
                if link is not None:
                    await link.tell(close_kind, {"session": session})

    async def _give_back(self, node: PublicKey) -> None:
        """Until a stage answers that it has none of the leases any more that are of no use."""
        link = self.nodes.link(node)
        for session in list(self._owed.get(node, ())):
            if link is None or not await give_back(link, session):
                return
            owed = self._owed.get(node, [])
            if session in owed:
                owed.remove(session)
        if not self._owed.get(node):
            self._owed.pop(node, None)
