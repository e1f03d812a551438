"""What this node says of itself to others. For the network's loop, but for `draining`, which any thread may set."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from blyan.inference.expert_host import ExpertHost
from blyan.network.identity import Identity
from blyan.network.link import Link
from blyan.network.more_held import page_of
from blyan.node.holdings import Holdings
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import InvalidInput
from blyan.primitives.ids import PayloadId
from blyan.wire.framing import Message
from blyan.wire.peer import Holding, Summary, encode_holdings

_log = logging.getLogger(__name__)
_fresh_seconds = 5.0
_margin_bytes = 64  # that must be left to say more models than the last time: numbers have more digits at times


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
    _fitted: int = limits.summary_models_max  # models in the last summary
    _rest: bytes = b""  # of models that did not fit in, as they are told who asks

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
        """The summary with as many of these models as fit, those of fewest experts first; who asks is told the rest."""
        ours = self.identity
        models = sorted(holdings.items(), key=lambda each: len(each[1].experts))
        fits = models[: limits.summary_models_max]
        while True:
            self._rest = self._not_in(models[len(fits) :])
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
                rest=hashlib.sha256(self._rest).hexdigest() if self._rest else "",
            )
            try:
                signed = made.sign(ours.key)
            except InvalidInput:
                if not fits:
                    raise
            else:
                more = len(fits) > self._fitted
                if not more or len(signed.signed) <= limits.summary_bytes_max - _margin_bytes:
                    self._fitted = len(fits)
                    return signed
            fits = fits[: len(fits) * 3 // 4]

    def _not_in(self, models: Sequence[tuple[PayloadId, Holding]]) -> bytes:
        """As they are told, as many as may be."""
        models = models[: limits.holdings_rest_models_max]
        while len(raw := encode_holdings(dict(models)) if models else b"") > limits.holdings_rest_bytes_max:
            _log.warning("model %s is not told to peers: they would be told too much", models[-1][0][:12])
            models = models[:-1]
        return raw

    async def tell_rest(self, _link: Link, message: Message) -> Message:
        """Answers who asks for what does not fit in."""
        summary = self()
        return page_of(self._rest, summary.rest, message)
