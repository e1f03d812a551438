"""The nodes that may generate alone, as a gateway sees them, and what came of asking them. For the network's loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from blyan.inference.delegation import Candidate
from blyan.inference.registry import Registry
from blyan.network.link import Link
from blyan.network.links import Links
from blyan.network.measurements import Failure
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.ids import PayloadId, PublicKey

_weight: Final = 0.1  # of the newest step in a running mean
_pong_s: Final = 0.25
_pong_max_s: Final = 0.5
_pong_factor: Final = 4.0
_refused_s: Final = 5.0  # for which a node that refused is not asked for this model


@dataclass(slots=True, eq=False)
class Leads:
    """What is known of nodes as leads: whether they may be asked, and what their steps took."""

    registry: Registry
    links: Links
    monotonic: Monotonic
    draw: Callable[[], float]
    _step_s: dict[PublicKey, float] = field(default_factory=dict[PublicKey, float])
    _under_way: Counter[PublicKey] = field(default_factory=Counter[PublicKey])
    _refused: dict[tuple[PublicKey, PayloadId], float] = field(
        default_factory=dict["tuple[PublicKey, PayloadId]", float]
    )

    def candidates(self, model: PayloadId) -> tuple[Candidate, ...]:
        """Nodes with an open link that say they hold a model's trunk, and have not refused it lately."""
        now = self.monotonic()
        self._refused = {key: until for key, until in self._refused.items() if until > now}
        found: list[Candidate] = []
        for node in list(self.links.open):
            link = self.links.link(node)
            holding = None if link is None else link.peer.holdings.get(model)
            standing = self.registry.standing(node, now)
            if link is None or holding is None or not holding.trunk or standing is None:
                continue
            if (node, model) in self._refused:
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
                    link.peer.queue,
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

    def began(self, node: PublicKey) -> None:
        """It was asked for a generation: `ended` follows."""
        self._under_way[node] += 1

    def stepped(self, node: PublicKey, seconds: float, steps: int, *, first: bool) -> None:
        """Steps came, so many seconds after those before; `first` of a generation: it works."""
        if first:
            self.registry.answered(node, 0, seconds, 0, self.monotonic())
            return
        own, before = seconds / steps, self._step_s.pop(node, None)
        self._step_s[node] = own if before is None else before + _weight * (own - before)
        if len(self._step_s) > limits.nodes_known_max:
            del self._step_s[next(iter(self._step_s))]

    def ended(self, node: PublicKey) -> None:
        """Nothing more is awaited of it."""
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
