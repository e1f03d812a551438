"""The nodes that may generate alone, as a gateway sees them, and what came of asking them. For the network's loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from blyan.inference.call_times import Calls, alone
from blyan.inference.delegation import Candidate, Delegate, Elsewhere, choose, nowhere
from blyan.inference.expert_set import ExpertSet
from blyan.inference.registry import Registry
from blyan.inference.step_times import StepSeen, Timed, untimed
from blyan.inference.trying import doubt
from blyan.network.link import Link
from blyan.network.links import Links
from blyan.network.measurements import Failure
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.ids import PayloadId, PublicKey

_weight: Final = 0.1  # of the newest step in a running mean
_stretch_max: Final = 16.0
_first_look_s: Final = 0.05
_pong_s: Final = 0.25
_pong_max_s: Final = 0.5
_pong_factor: Final = 4.0
_refused_s: Final = 5.0  # for which a node that refused is not asked for this model
_quiet_s: Final = 2.0  # of silence on a link that is pinged every second: who is there said something
_said_s: Final = 6.0  # so old may be what a node says of itself
_steps_seen: Final = 8  # of which the mean is one measurement: some come together, others late
_waited_most: Final = 0.98  # of a step's time, by what a lead says: some of it computes
_first_share: Final = 0.1  # of the time to the first step that is its own at least, whatever the round trip


@dataclass(slots=True, eq=False)
class Pace:
    """The steps of one generation as they come from whoever leads it, by this node's clock."""

    leads: Leads
    node: PublicKey
    model: PayloadId
    positions: int  # that it has read, or reads
    last: float  # when something came, or it was asked
    read_called_s: float = 0.0  # that calls for what it lacks are expected to take while it reads
    called_s: float = 0.0  # and those of a token
    first: bool = True  # nothing came yet
    _jitted: bool = False
    _steps: int = 0
    _seconds: float = 0.0
    _waited: float = 0.0

    def came(self, steps: int, *, jitted: bool = False, waited_s: float = 0.0) -> None:
        """So many steps, together; what it says of the code, and of how long it waited for experts elsewhere."""
        now, beside = self.leads.monotonic(), self.leads.beside(self.node)
        seconds, self.last = now - self.last, now
        # who lacks nothing that it should need waits for nobody, and others not longer than calls ever take
        called_s = self.read_called_s if self.first else steps * self.called_s
        waited = min(waited_s, _waited_most * seconds, _stretch_max * called_s)
        if jitted != self._jitted:  # what other code took is not of this mean
            self._jitted, self._steps, self._seconds, self._waited = jitted, 0, 0.0, 0.0
        if self.first:
            self.first = False
            self.leads.registry.answered(self.node, 0, seconds, 0, now)  # it works
            there = self.leads.registry.measurements.of(self.node).rtt_s or 0.0
            own = max(seconds - there, _first_share * seconds)
            self._tell(own, min(waited, _waited_most * own), beside, self.positions + beside, 0.0)
            self.positions += steps
            return
        self.leads.stepped(self.node, seconds / steps, waited / steps, self.called_s, jitted=jitted)
        self.positions += steps
        self._steps += steps
        self._seconds += seconds
        self._waited += waited
        if self._steps >= _steps_seen:
            self.over()

    def over(self) -> None:
        """Nothing more comes, or enough came for a mean."""
        if self._steps:
            beside = self.leads.beside(self.node)
            seconds, waited = self._seconds / self._steps, self._waited / self._steps
            self._tell(seconds, waited, beside, 1 + beside, float(self.positions))
            self._steps, self._seconds, self._waited = 0, 0.0, 0.0

    def _tell(self, seconds: float, waited: float, beside: int, tokens: int, positions: float) -> None:
        step = StepSeen("static_delegate", seconds, waited, 1 + beside, tokens, positions)
        self.leads.timed(self.model, step, jitted=self._jitted, node=self.node)


@dataclass(frozen=True, slots=True)
class Usual:
    """A step of generations that a node leads, on average."""

    step_s: float
    waited_s: float  # of these, for experts elsewhere
    jitted: bool
    at: float  # when the last came
    stretch: float | None = None  # times as long as expected its calls took; None: none was expected


@dataclass(slots=True, eq=False)
class Leads:
    """What is known of nodes as leads: whether they may be asked, and what their steps took."""

    registry: Registry
    links: Links
    monotonic: Monotonic
    draw: Callable[[], float]
    timed: Timed = untimed
    size: Callable[[PayloadId, int], int] = lambda _model, _number: 0  # bytes of an expert
    elsewhere: Callable[[PayloadId], Elsewhere] = lambda _model: nowhere  # who else has which
    _usual: dict[PublicKey, Usual] = field(default_factory=dict[PublicKey, Usual])
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
            view, usual = standing.view, self._usual.get(node)
            found.append(
                Candidate(
                    node,
                    view.rank,
                    holding,
                    view.measured.rtt_s,
                    None if usual is None else usual.step_s - usual.waited_s,
                    self._under_way[node],
                    max(0, link.peer.queue - self._ours(node, now)),
                    "cold" if usual is None else doubt(now - usual.at, jitted=usual.jitted),
                    1.0 if usual is None or usual.stretch is None else usual.stretch,
                )
            )
        return tuple(found)

    def ranked(self, model: PayloadId, predicted: ExpertSet, without: Collection[PublicKey] = ()) -> Sequence[Delegate]:
        """Who can be asked for an answer that will use these experts, the best first."""
        candidates = self.candidates(model)
        elsewhere = self.elsewhere(model) if candidates else nowhere
        return choose(candidates, predicted, partial(self.size, model), elsewhere, without)

    def link(self, node: PublicKey) -> Link | None:
        """An open link to a node."""
        return self.links.link(node)

    def usual_step_s(self, node: PublicKey) -> float:
        """Between two steps of a generation that it leads, on average; 0 where nothing is known."""
        usual = self._usual.get(node)
        return 0.0 if usual is None else usual.step_s

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

    def follow(self, node: PublicKey, model: PayloadId, positions: int, calls: Calls = alone) -> Pace:
        """The steps of a generation that it was asked for now, of which so many positions stand; its calls for them."""
        read_s, token_s = (calls.seconds(tokens) / calls.stretch for tokens in (positions, 1))
        return Pace(self, node, model, positions, self.monotonic(), read_s, token_s)

    def beside(self, node: PublicKey) -> int:
        """Other generations of this node that it leads."""
        return max(0, self._under_way[node] - 1)

    def stepped(self, node: PublicKey, seconds: float, waited: float, called_s: float, *, jitted: bool) -> None:
        """A step of one generation took so long, so much of it for experts elsewhere; of other code it is the first.

        `called_s`: how long calls for them were expected to take.
        """
        before = self._usual.pop(node, None)
        stretch = None if before is None else before.stretch
        if called_s > 0:
            found = min(_stretch_max, max(1 / _stretch_max, waited / called_s))
            stretch = found if stretch is None else stretch + _weight * (found - stretch)
        if before is not None and before.jitted == jitted:
            seconds = before.step_s + _weight * (seconds - before.step_s)
            waited = before.waited_s + _weight * (waited - before.waited_s)
        self._usual[node] = Usual(seconds, waited, jitted, self.monotonic(), stretch)
        if len(self._usual) > limits.nodes_known_max:
            del self._usual[next(iter(self._usual))]

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
