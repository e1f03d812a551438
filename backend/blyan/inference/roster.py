"""The nodes as the executor sees them: who is asked, over which link, and what came of it. For the network's loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from blyan.inference.plan import Assignment, CallSpec, ExpertPlan, Policy, plan_experts
from blyan.inference.registry import Registry
from blyan.network.breaker import RetryBudget
from blyan.network.link import Link
from blyan.network.links import Links
from blyan.network.measurements import Failure, bulk_bytes
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.ids import PayloadId, PublicKey

_moving_factor: Final = 1.5  # times what bytes took on average
_nobody: frozenset[tuple[int, int]] = frozenset()


@dataclass(slots=True, eq=False)
class Roster:
    """Implements `executor.Nodes` over a registry and links."""

    registry: Registry
    links: Links
    monotonic: Monotonic
    draw: Callable[[], float]
    number: Callable[[PayloadId, int, int], tuple[int, int] | None]  # manifest, layer, expert → number and bytes
    policy: Policy = field(default_factory=Policy)
    budget: RetryBudget = field(default_factory=RetryBudget)
    replacements: RetryBudget = field(default_factory=lambda: RetryBudget(0.1, 20.0))
    seconds: dict[PublicKey, float] = field(default_factory=dict[PublicKey, float])  # that answers took, by node

    def plan(self, model: PayloadId, calls: Sequence[CallSpec], without: frozenset[PublicKey]) -> ExpertPlan:
        """Who is asked for what, leaving some nodes out."""
        snapshot = self.registry.snapshot(self.monotonic())
        made = plan_experts(calls, model, _nobody, snapshot, self.policy, self.draw)
        if not without:
            self.budget.called()
            self.replacements.called()
            return made
        chosen: dict[PublicKey, list[int]] = {}
        missing: list[int] = []
        for at, call in enumerate(calls):
            holders = snapshot.holders(model, call.layer, call.expert)
            node = next((each for each in holders if each not in without), None)
            if node is None:
                missing.append(at)
            else:
                chosen.setdefault(node, []).append(at)
        hedges: Mapping[PublicKey, float] = {
            view.node: view.hedge_after for view in snapshot.nodes if view is not None and view.node in chosen
        }
        assignments = tuple(Assignment(node, tuple(places)) for node, places in chosen.items())
        return ExpertPlan("dynamic", (), assignments, ((),) * len(calls), hedges, tuple(missing))

    def link(self, node: PublicKey) -> Link | None:
        """An open link to a node."""
        return self.links.link(node)

    def moving_s(self, node: PublicKey, count: int) -> float:
        """Seconds beyond an ordinary call's that so many bytes there and back may take, computing included."""
        if count < bulk_bytes:
            return 0.0
        rate = self.registry.measurements.of(node).bytes_per_s or limits.link_bytes_per_second
        return _moving_factor * count / rate

    def proven(self, node: PublicKey) -> bool:
        """Whether enough of its answers held for it to be no newcomer."""
        return self.registry.is_proven(node)

    def may_hedge(self) -> bool:
        """Whether one more message may be sent for speed alone."""
        return self.budget.may_hedge()

    def may_replace(self) -> bool:
        """Whether one more message may be sent at once in place of one that failed again."""
        return self.replacements.take()

    def began(self, node: PublicKey, rows: int) -> None:
        """A message was sent to it."""
        self.registry.began(node, rows, self.monotonic())

    def answered(self, node: PublicKey, model: PayloadId, calls: Sequence[CallSpec], seconds: float, sent: int) -> None:
        """It gave a good answer."""
        numbers = (self.number(model, call.layer, call.expert) for call in calls)
        measured = self.registry.measurements
        opened = [measured.computed_with(node, model, *found) for found in numbers if found is not None]
        rows = sum(call.rows for call in calls)
        self.registry.answered(node, rows, seconds, sent, self.monotonic(), opened=any(opened))
        self.seconds[node] = self.seconds.pop(node, 0.0) + seconds
        if len(self.seconds) > limits.nodes_known_max:
            del self.seconds[next(iter(self.seconds))]  # who answered longest ago

    def outrun(self, node: PublicKey, rows: int, seconds: float) -> None:
        """Another answered first."""
        self.registry.outrun(node, rows, seconds, self.monotonic())

    def dropped(self, node: PublicKey, rows: int) -> None:
        """It is not waited for any more."""
        self.registry.dropped(node, rows)

    def failed(self, node: PublicKey, kind: Failure, rows: int) -> None:
        """It gave no answer, or none that is one."""
        self.budget.failed_over()
        self.registry.failed(node, kind, rows, self.monotonic(), self.draw())

    def not_held(self, node: PublicKey, model: PayloadId, calls: Sequence[CallSpec]) -> None:
        """It said that it does not hold something of what it was asked for."""
        for call in calls:
            self.registry.not_held(node, model, call.layer, call.expert, self.monotonic())
