"""What this node says of itself to others. For the network's loop, but for `draining`, which any thread may set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from blyan.inference.expert_host import ExpertHost
from blyan.network.identity import Identity
from blyan.node.holdings import Holdings
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import InvalidInput
from blyan.primitives.ids import PayloadId
from blyan.wire.peer import Holding, Summary

_log = logging.getLogger(__name__)
_fresh_seconds = 5.0


@dataclass(slots=True, eq=False)
class OwnSummary:
    """Signed anew when something changed, and after some seconds."""

    identity: Identity
    swarm: str  # its tag
    roles: tuple[str, ...]
    holdings: Holdings
    host: ExpertHost
    monotonic: Monotonic
    where: Callable[[], tuple[str, ...]] = lambda: ()  # peers reach it
    draining: bool = False
    led: Callable[[], int] = lambda: 0  # generations that are computed here, for whomever
    _sequence: int = 0
    _said: tuple[object, ...] = ()
    _signed: Summary | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """Where peers reach it now."""
        return self.where()[: limits.summary_urls_max]

    def __call__(self) -> Summary:
        """The summary of now."""
        led = self.led().bit_length()  # anew when it has doubled or halved
        said = (self.monotonic() // _fresh_seconds, self.holdings.version, self.draining, self.urls, led)
        if self._signed is None or self._said != said:
            self._sequence += 1
            self._said = said
            self._signed = self._made(self.holdings.said())
        return self._signed

    def _made(self, holdings: Mapping[PayloadId, Holding]) -> Summary:
        """The summary with as many of these models as fit, those of fewest experts first."""
        ours = self.identity
        fits = sorted(holdings.items(), key=lambda each: len(each[1].experts))[: limits.summary_models_max]
        while True:
            made = Summary(
                ours.key.public,
                ours.boot,
                ours.started,
                self._sequence,
                ours.certificate_hash,
                self.swarm,
                self.urls,
                self.roles,
                self.draining,
                self.host.queue + self.led(),
                self.host.busy,
                dict(fits),
            )
            try:
                return made.sign(ours.key)
            except InvalidInput as reason:
                if not fits:
                    raise
                model, _ = fits.pop()
                _log.warning("model %s is not told to peers: %s", model[:12], reason.message)
