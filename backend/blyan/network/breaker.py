"""When a peer is left alone for a while, and how many calls may be sent twice. Pure.

Circuit breaker (Nygard, Release It!): closed, open, half-open with one probe; waits double up to a bound. The budget
of hedges is a token bucket filled by calls (as in gRPC's retry throttling). Another one is for calls that are replaced
again: the first time one fails is never denied, because an answer depends on that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from blyan.network.measurements import Failure

State: TypeAlias = Literal["closed", "open", "half-open"]

_at_once: Final = ("lost", "corrupt")  # one of these opens


@dataclass(frozen=True, slots=True)
class Rules:
    """When a breaker opens, and for how long."""

    failures: int = 3  # in a row
    wait_s: float = 1.0  # at first
    wait_max_s: float = 60.0
    probe_s: float = 10.0  # after which a probe that nobody reported counts as lost

    def __post_init__(self) -> None:
        assert self.failures > 0 and 0 < self.wait_s <= self.wait_max_s and self.probe_s > 0, "a breaker that closes"


@dataclass(frozen=True, slots=True)
class Breaker:
    """What happened between this node and one peer lately."""

    failures: int = 0  # in a row
    since: float | None = None  # when it opened, None while it is closed
    until: float = 0.0  # when a probe may go
    trips: int = 0  # openings that were not followed by a long enough peace
    closed: float = 0.0  # when it last closed
    probing: float | None = None  # when the probe went
    reason: Failure | None = None  # of the last opening

    def state(self, now: float, rules: Rules) -> State:
        """Whether the peer may be asked: `half-open` once, by a probe."""
        if self.since is None:
            return "closed"
        if now < self.until or (self.probing is not None and now < self.probing + rules.probe_s):
            return "open"
        return "half-open"

    def probed(self, now: float) -> Breaker:
        """A probe went; until its outcome is known nothing else goes. No change while it is closed."""
        return self if self.since is None else replace(self, probing=now)

    def unprobed(self) -> Breaker:
        """The probe's outcome will never be known: another may go."""
        return replace(self, probing=None)

    def succeeded(self, now: float) -> Breaker:
        """A call was answered and verified. What was sent before the breaker opened closes it not before its time."""
        if self.since is not None:
            if self.probing is None and now < self.until:
                return self
            return Breaker(trips=self.trips, closed=now, reason=self.reason)
        return self if not self.failures else replace(self, failures=0)

    def failed(self, kind: Failure, now: float, draw: float, rules: Rules) -> Breaker:
        """A call failed; `draw` in [0, 1) spreads the waits of many callers. Being refused opens nothing."""
        if kind in ("refused", "not_held"):
            return self if self.probing is None else self.unprobed()
        if self.since is not None and self.probing is None and now < self.until:
            return self  # what was still under way when it opened
        failures = self.failures + 1
        if self.since is None and failures < rules.failures and kind not in _at_once:
            return replace(self, failures=failures)
        waited = min(rules.wait_max_s, rules.wait_s * 2.0 ** min(self.trips, 32))
        calm = self.since is None and now - self.closed > max(10 * rules.wait_s, 2 * waited)
        trips = 0 if calm else self.trips
        wait = min(rules.wait_max_s, rules.wait_s * 2.0 ** min(trips, 32)) * (0.75 + 0.5 * draw)
        since = now if self.since is None else self.since
        return Breaker(failures, since, now + wait, trips + 1, self.closed, None, kind)


class RetryBudget:
    """How many messages may be sent a second time before the first has failed: one for every other plan.

    `most` is what may be saved up: when a third of a swarm falls silent at once, every one of them costs a hedge or
    two until its score tells.
    """

    def __init__(self, share: float = 0.5, most: float = 200.0) -> None:
        assert 0 <= share <= 1 and most >= 1, "a share of plans"
        self._share = share
        self._most = most
        self._tokens = most
        self.hedges = 0
        self.denied = 0
        self.failovers = 0

    def called(self) -> None:
        """A plan was carried out: some messages were sent for the first time."""
        self._tokens = min(self._most, self._tokens + self._share)

    def may_hedge(self) -> bool:
        """Take a token for a second copy of a call that may still be answered; False when there is none."""
        taken = self.take()
        self.hedges += taken
        return taken

    def take(self) -> bool:
        """Take a token; False when there is none."""
        if self._tokens < 1:
            self.denied += 1
            return False
        self._tokens -= 1
        return True

    def failed_over(self) -> None:
        """A call that failed goes to another node. Counted, never refused."""
        self.failovers += 1
