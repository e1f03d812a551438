"""A gateway of the simulated swarm: the real registry and plans, and an executor as `inference/executor` is."""

from dataclasses import dataclass, field

from blyan.inference.plan import CallSpec, default_policy, plan_experts
from blyan.inference.registry import Registry
from blyan.inference.scoring import Rules
from blyan.network import reputation
from blyan.network.breaker import RetryBudget
from blyan.primitives.ids import PublicKey
from simulation.links import FOUND_AGAIN_SECONDS, Link, Links
from simulation.world import Process, World
from swarms import MODEL

LOOK_SECONDS = 0.05
CALL_SECONDS = 5.0
RULES = Rules(reputation=reputation.Rules(half_life_s=5.0))  # a world lasts a minute


@dataclass(eq=False)
class Message:
    """Calls of one step that went to one node."""

    id: int
    step: "Step"
    indices: list[int]
    node: PublicKey
    without: frozenset[PublicKey]
    rows: int
    began: float
    pending: bool = True


@dataclass(eq=False)
class Step:
    """The calls of one MoE layer of one token."""

    calls: list[CallSpec]
    began: float
    until: float
    answered: set[int] = field(default_factory=set)
    over: bool = False
    waited: bool = False  # for somebody who has an expert


@dataclass
class Outcome:
    """What came of all steps."""

    steps: int = 0
    answered: int = 0
    failed: int = 0  # in time, with an error
    unjust: list[str] = field(default_factory=list)  # failed though somebody had the expert and was well
    wrong: int = 0  # answers taken that were none
    rejected: int = 0
    late: int = 0  # ended after the deadline
    seconds: list[float] = field(default_factory=list)  # of answered steps for which nobody had to be waited for
    waited: list[float] = field(default_factory=list)  # of the others
    recent: dict[int, list[float]] = field(default_factory=dict)  # times of answers, by process


class Gateway:
    """Links, steps, and what came of them."""

    def __init__(self, world: World, process: Process, rules: Rules = RULES) -> None:
        self.world = world
        self.process = process
        self.registry = Registry(process.table, process.key, rules)
        self.registry.serve(MODEL, world.grid)
        self.links = Links(world, process, self.registry, lambda link, message: self._failed(link, message, "lost"))
        self.budget = RetryBudget()
        self.outcome = Outcome()
        self.asking = True
        self.steps: list[Step] = []
        self._ids = 0

    def ask(self, calls: list[CallSpec]) -> None:
        """Begin one step."""
        step = Step(calls, self.world.now, self.world.now + CALL_SECONDS)
        self.outcome.steps += 1
        self.steps.append(step)
        self._resolve(step, list(range(len(calls))), frozenset())

    def _resolve(self, step: Step, indices: list[int], without: frozenset[PublicKey]) -> None:
        indices = [index for index in indices if index not in step.answered]
        if step.over or not indices:
            return
        now = self.world.now
        snapshot = self.registry.snapshot(now)
        calls = [step.calls[index] for index in indices]
        chosen: dict[PublicKey, list[int]] = {}
        hedges: dict[PublicKey, float] = {}
        missing: list[int] = []
        if not without:
            self.budget.called()
            made = plan_experts(calls, MODEL, frozenset(), snapshot, default_policy, self.world.rng.random)
            chosen = {node: [indices[place] for place in places] for node, places in made.assignments}
            hedges.update(made.hedge_after)
            missing = [indices[place] for place in made.missing]
        else:
            for index, call in zip(indices, calls, strict=True):
                holders = snapshot.holders(MODEL, call.layer, call.expert)
                node = next((each for each in holders if each not in without), None)
                if node is None:
                    missing.append(index)
                else:
                    chosen.setdefault(node, []).append(index)
            hedges = {view.node: view.hedge_after for view in snapshot.nodes if view and view.node in chosen}
        for node, mine in chosen.items():
            self._send(step, mine, node, without, hedges[node])
        if missing:
            step.waited = True
            self._look_again(step, missing)

    def _look_again(self, step: Step, missing: list[int]) -> None:
        if self.world.now + LOOK_SECONDS < step.until:
            self.world.at(LOOK_SECONDS, lambda: self._resolve(step, missing, frozenset()))
        else:
            self._give_up(step, missing)

    def _send(
        self, step: Step, indices: list[int], node: PublicKey, without: frozenset[PublicKey], hedge_after: float
    ) -> None:
        now = self.world.now
        links = self.links.to(node)
        if not links:
            self.registry.failed(node, "lost", 0, now, self.world.rng.random())
            self.world.at(0.0, lambda: self._resolve(step, indices, without | {node}))
            return
        link = links[-1]
        self._ids += 1
        rows = sum(step.calls[index].rows for index in indices)
        message = Message(self._ids, step, indices, node, without, rows, now)
        link.asked[message.id] = message
        self.registry.began(node, rows, now)
        numbers = [self._number(step.calls[index]) for index in indices]
        peer = link.peer

        def reply(what: str, about: object) -> None:
            if what == "answer" and self.world.rng.random() < 1e-4:
                what = "misdirected"  # an answer to another call: its echo says so
            self.world.send(peer, self.process, lambda: self._replied(link, message, what, about))

        if peer.boot == link.boot:
            self.world.send(self.process, peer, lambda: peer.compute(rows, numbers, reply))
        self.world.at(min(hedge_after, step.until - now), lambda: self._hedge(message))
        self.world.at(step.until - now, lambda: self._timed_out(link, message))

    def _number(self, call: CallSpec) -> int:
        return self.world.grid.layers.index(call.layer) * self.world.grid.experts + call.expert

    def _replied(self, link: Link, message: Message, what: str, about: object) -> None:
        if not link.open or not message.pending:
            return
        now, step, node = self.world.now, message.step, message.node
        if what == "not_held":
            self._failed(link, message, "not_held")
            assert isinstance(about, list)
            for index in message.indices:
                call = step.calls[index]
                if self._number(call) in about:
                    self.registry.not_held(node, MODEL, call.layer, call.expert, now)
        elif what == "refused":
            self._failed(link, message, "refused")
        elif what != "answer":  # verification: the digest or the echo does not match
            self.outcome.rejected += 1
            self._failed(link, message, "corrupt")
        else:
            message.pending = False
            del link.asked[message.id]
            self.registry.answered(node, message.rows, now - message.began, 1000 * message.rows, now)
            self._taken(link.peer, message, what)

    def _taken(self, peer: Process, message: Message, what: str) -> None:
        step, outcome = message.step, self.outcome
        outcome.wrong += what != "answer"
        outcome.recent.setdefault(peer.number, []).append(self.world.now)
        step.answered.update(message.indices)
        if len(step.answered) == len(step.calls) and not step.over:
            step.over = True
            outcome.answered += 1
            outcome.late += self.world.now > step.until
            (outcome.waited if step.waited else outcome.seconds).append(self.world.now - step.began)

    def _failed(self, link: Link, message: Message, kind) -> None:
        message.pending = False
        link.asked.pop(message.id, None)
        self.registry.failed(message.node, kind, message.rows, self.world.now, self.world.rng.random())
        self.budget.failed_over()
        self._resolve(message.step, message.indices, message.without | {message.node})

    def _hedge(self, message: Message) -> None:
        step, others = message.step, message.without | {message.node}
        left = [index for index in message.indices if index not in step.answered]
        if not message.pending or step.over or not left:
            return
        snapshot = self.registry.snapshot(self.world.now)
        for index in left:
            call = step.calls[index]
            if all(each in others for each in snapshot.holders(MODEL, call.layer, call.expert)):
                return
        if self.budget.may_hedge():
            self._resolve(step, left, others)
            self.world.at(0.0, lambda: self._watch(message))

    def _watch(self, message: Message) -> None:
        """A hedged message is outrun once its calls were answered by others."""
        if not message.pending:
            return
        if message.step.answered.issuperset(message.indices):
            message.pending = False
            self.links.forget(message.id)
            self.registry.outrun(message.node, message.rows, self.world.now - message.began, self.world.now)
            self.registry.dropped(message.node, message.rows)
        elif self.world.now < message.step.until:
            self.world.at(0.005, lambda: self._watch(message))

    def _timed_out(self, link: Link, message: Message) -> None:
        if message.pending and link.open:
            message.pending = False
            link.asked.pop(message.id, None)
            self.registry.failed(message.node, "timeout", message.rows, self.world.now, self.world.rng.random())
            self._give_up(message.step, [index for index in message.indices if index not in message.step.answered])

    def _give_up(self, step: Step, indices: list[int]) -> None:
        """The time is over: an error that says which expert nobody had."""
        if step.over or not indices:
            return
        step.over = True
        self.outcome.failed += 1
        self.outcome.late += self.world.now > step.until + 1e-6
        for index in indices:
            number = self._number(step.calls[index])
            for each in self.world.experts:
                if number in each.holds and self._was_well(each, step.began):
                    self.outcome.unjust.append(f"{self.world.now:.1f} s: expert {number}, which {each.number} had")

    def _was_well(self, each: Process, since: float) -> bool:
        """Whether it could be asked all the time: well and reachable, and found again if that was otherwise before."""
        ill = each.corrupt or each.claims is not None or each.stopped or not each.alive
        well = max(each.well_since, self.world.together_since(each, self.process))
        return not ill and (well == float("-inf") or well + FOUND_AGAIN_SECONDS <= since)
