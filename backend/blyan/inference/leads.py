"""The nodes that may generate alone, as a gateway sees them, and what came of asking them. For the network's loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from blyan.inference.delegation import Candidate
from blyan.inference.registry import Registry
from blyan.inference.step_times import StepSeen, Timed, untimed
from blyan.network.link import Link
from blyan.network.links import Links
from blyan.network.measurements import Failure
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.ids import PayloadId, PublicKey

_weight: Final = 0.1  # of the newest step in a running mean
_first_look_s: Final = 0.05
_pong_s: Final = 0.25
_pong_max_s: Final = 0.5
_pong_factor: Final = 4.0
_refused_s: Final = 5.0  # for which a node that refused is not asked for this model
_quiet_s: Final = 2.0  # of silence on a link that is pinged every second: who is there said something
_said_s: Final = 6.0  # so old may be what a node says of itself
_steps_seen: Final = 8  # of which the mean is one measurement: some come together, others late
_first_share: Final = 0.1  # of the time to the first step that is its own at least, whatever the round trip


@dataclass(slots=True, eq=False)
class Pace:
    """The steps of one generation as they come from whoever leads it, by this node's clock."""

    leads: Leads
    node: PublicKey
    model: PayloadId
    positions: int  # that it has read, or reads
    last: float  # when something came, or it was asked
    first: bool = True  # nothing came yet
    _steps: int = 0
    _seconds: float = 0.0

    def came(self, steps: int) -> None:
        """So many steps, together."""
        now, beside = self.leads.monotonic(), self.leads.beside(self.node)
        seconds, self.last = now - self.last, now
        if self.first:
            self.first = False
            self.leads.registry.answered(self.node, 0, seconds, 0, now)  # it works
            there = self.leads.registry.measurements.of(self.node).rtt_s or 0.0
            self._tell(max(seconds - there, _first_share * seconds), beside, self.positions + beside, 0.0)
            self.positions += steps
            return
        self.leads.stepped(self.node, seconds, steps)
        self.positions += steps
        self._steps += steps
        self._seconds += seconds
        if self._steps >= _steps_seen:
            self.over()

    def over(self) -> None:
        """Nothing more comes, or enough came for a mean."""
        if self._steps:
            beside = self.leads.beside(self.node)
            self._tell(self._seconds / self._steps, beside, 1 + beside, float(self.positions))
            self._steps, self._seconds = 0, 0.0

    def _tell(self, seconds: float, beside: int, tokens: int, positions: float) -> None:
        step = StepSeen("static_delegate", seconds, 0.0, 1 + beside, tokens, positions)
        self.leads.timed(self.model, step, node=self.node)


@dataclass(slots=True, eq=False)
class Leads:
    """What is known of nodes as leads: whether they may be asked, and what their steps took."""

    registry: Registry
    links: Links
    monotonic: Monotonic
    draw: Callable[[], float]
    timed: Timed = untimed
    _step_s: dict[PublicKey, float] = field(default_factory=dict[PublicKey, float])
    _peaks: dict[PublicKey, tuple[float, int]] = field(default_factory=dict[PublicKey, tuple[float, int]])
    _under_way: Counter[PublicKey] = field(default_factory=Counter[PublicKey])
    _refused: dict[tuple[PublicKey, PayloadId], float] = field(
        default_factory=dict["tuple[PublicKey, PayloadId]", float]
    )

    def candidates(self, model: PayloadId) -> tuple[Candidate, ...]:
        """Nodes with an open link that say they hold a model's trunk, have not refused it lately and are not silent."""
        now = self.monotonic()
        self._refused = {key: until for key, until in self._refused.items() if until > now}
        found: list[Candidate] = []
        for node in list(self.links.open):
            link = self.links.link(node)
            holding = None if link is None else link.peer.holdings.get(model)
            standing = self.registry.standing(node, now)
            if link is None or holding is None or not holding.trunk or standing is None:
                continue
            if (node, model) in self._refused or now - link.heard > _quiet_s:
                continue
            view, measured = standing.view, standing.view.measured
            found.append(
                Candidate(
                    node,
                    view.rank,
                    holding,
                    measured.rtt_s,
                    self._step_s.get(node),
                    measured.call_s,
                    self._under_way[node],
                    max(0, link.peer.queue - self._ours(node, now)),
                )
            )
        return tuple(found)

    def link(self, node: PublicKey) -> Link | None:
        """An open link to a node."""
        return self.links.link(node)

    def usual_step_s(self, node: PublicKey) -> float:
        """Between two steps of a generation that it leads, on average; 0 where nothing is known."""
        return self._step_s.get(node, 0.0)

    def pong_s(self, node: PublicKey) -> float:
        """How long a ping is waited for that shows whether it is there: one that is late is replaced."""
        usual = self.registry.measurements.of(node).rtt_s or 0.0
        return max(_pong_s, min(_pong_max_s, _pong_factor * usual), 1.5 * usual)

    def first_look_s(self, node: PublicKey) -> float:
        """How long the first step is waited for until a ping is sent: who is there might have begun."""
        return max(_first_look_s, 2 * (self.registry.measurements.of(node).rtt_s or _first_look_s))

    def began(self, node: PublicKey) -> None:
        """It was asked for a generation: `ended` follows."""
        now = self.monotonic()
        lately = self._ours(node, now)
        self._under_way[node] += 1
        self._peaks[node] = now, max(lately, self._under_way[node])
        if len(self._peaks) > limits.nodes_known_max:
            del self._peaks[next(iter(self._peaks))]

    def follow(self, node: PublicKey, model: PayloadId, positions: int) -> Pace:
        """The steps of a generation that it was asked for now, of which so many positions stand."""
        return Pace(self, node, model, positions, self.monotonic())

    def beside(self, node: PublicKey) -> int:
        """Other generations of this node that it leads."""
        return max(0, self._under_way[node] - 1)

    def stepped(self, node: PublicKey, seconds: float, steps: int) -> None:
        """Steps of one generation came, so many seconds after those before."""
        own, before = seconds / steps, self._step_s.pop(node, None)
        self._step_s[node] = own if before is None else before + _weight * (own - before)
        if len(self._step_s) > limits.nodes_known_max:
            del self._step_s[next(iter(self._step_s))]

    def _ours(self, node: PublicKey, now: float) -> int:
        """Generations of this node in what it says of its queue: as many as there were lately, for that is older."""
        at, most = self._peaks.get(node, (0.0, 0))
        return max(self._under_way[node], most if now - at < _said_s else 0)

    def ended(self, node: PublicKey) -> None:
        """Nothing more is awaited of it."""
        self._peaks[node] = self.monotonic(), self._ours(node, self.monotonic())
        self._under_way[node] -= 1
        if self._under_way[node] <= 0:
            del self._under_way[node]

    def failed(self, node: PublicKey, kind: Failure, model: PayloadId) -> None:
        """It gave no answer, or none that is one, or refused."""
        now = self.monotonic()
        if kind in ("refused", "not_held"):
            self._refused[node, model] = now + _refused_s
            self.registry.measurements.failed(node, kind, now)
            return
        self.registry.failed(node, kind, 0, now, self.draw())
