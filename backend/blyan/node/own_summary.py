"""What this node says of itself to others. For the network's loop, but for `draining`, which any thread may set."""

from __future__ import annotations

from dataclasses import dataclass

from blyan.inference.expert_host import ExpertHost
from blyan.network.identity import Identity
from blyan.node.holdings import Holdings
from blyan.primitives.clock import Monotonic
from blyan.wire.peer import Summary


@dataclass(slots=True, eq=False)
class OwnSummary:
    """Signed anew when something changed, and after a second."""

    identity: Identity
    swarm: str  # its tag
    roles: tuple[str, ...]
    holdings: Holdings
    host: ExpertHost
    monotonic: Monotonic
    urls: tuple[str, ...] = ()  # where peers reach it
    draining: bool = False
    _sequence: int = 0
    _said: tuple[object, ...] = ()
    _signed: Summary | None = None

    def __call__(self) -> Summary:
        """The summary of now."""
        said = (int(self.monotonic()), self.holdings.version, self.draining, self.urls)
        if self._signed is None or self._said != said:
            self._sequence += 1
            self._said = said
            ours = self.identity
            self._signed = Summary(
                ours.key.public,
                ours.boot,
                ours.started,
                self._sequence,
                ours.certificate_hash,
                self.swarm,
                self.urls,
                (),
                self.roles,
                self.draining,
                self.host.queue,
                self.host.busy,
                self.holdings.said(),
            ).sign(ours.key)
        return self._signed
