"""A swarm on one seeded clock: processes, links, gossip and expert calls as events, without tensors or sockets.

What is real: `gossip`, `measurements`, `reputation`, `breaker`, `registry`, `snapshot`, `plan`. What is played: the
network (latency, loss, partitions), the processes (they die, stop, drain, lie, corrupt), links with pings, and the
executor (`simulation/gateway`), which does what `inference/executor` does with a plan. A run is a function of its seed.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from blyan.inference.snapshot import ExpertGrid
from blyan.network.gossip import SummaryTable, parse_digest
from blyan.primitives.ids import PublicKey
from blyan.wire.peer import Holding, Summary, bits_of
from swarms import MODEL, node

GOSSIP_SECONDS = 2.0
SAID_SECONDS = 5.0  # a summary is renewed so often
FIXED_SECONDS = 0.001
ROW_SECONDS = 0.0002
QUEUE_MAX = 256


@dataclass(eq=False)
class Process:
    """One process of a node: what it is, and how it is."""

    world: "World"
    number: int  # its place in the world; 0 to 2 are the addresses that everybody was given
    identity: int  # whose key it has: its own number, but for a copy
    holds: frozenset[int]
    boot: str = ""
    skew: float = 0.0  # of its wall clock
    alive: bool = True
    stopped: bool = False
    draining: bool = False
    group: int = 0  # side of a partition
    slow: float = 1.0
    corrupt: float = 0.0  # share of its answers
    claims: frozenset[int] | None = None  # what it says that it holds, if that is not so
    sequence: int = 0
    started: float = 0.0
    well_since: float = float("-inf")  # nothing was wrong with it since, partitions aside
    moves: list[tuple[float, int]] = field(default_factory=list)  # when it went to which side
    free_at: float = 0.0
    waiting: int = 0
    table: SummaryTable = field(default_factory=SummaryTable)
    heard: set[int] = field(default_factory=set)  # addresses that it ever knew
    arrived: list[Callable[[], None]] = field(default_factory=list)  # while it was stopped
    said: Summary | None = None
    said_at: float = float("-inf")
    said_of: object = None

    key: PublicKey = field(init=False)

    def __post_init__(self) -> None:
        self.key = node(self.identity)

    def side(self, moment: float) -> int:
        """Of the partition that there was."""
        return next((group for at, group in reversed(self.moves) if at <= moment), 0)

    def begin(self) -> None:
        """A new process, at birth or after a restart."""
        self.boot = f"{self.world.rng.getrandbits(128):032x}"
        self.started = self.world.now
        self.sequence = 0
        self.said = None
        self.table = SummaryTable()
        self.heard = set()
        self.free_at, self.waiting = self.world.now, 0
        self.world.by_boot[self.boot] = self

    def summary(self) -> Summary:
        """What it says of itself now: anew after some seconds, at once when something changed."""
        state = (self.draining, self.claims)
        if self.said is None or self.world.now - self.said_at >= SAID_SECONDS or state != self.said_of:
            self.said_of = state
            self.sequence += 1
            self.said_at = self.world.now
            holds = self.holds if self.claims is None else self.claims
            self.said = Summary(
                self.key,
                self.boot,
                int(1_700_000_000 + self.started + self.skew),
                self.sequence,
                "00" * 32,
                "00" * 8,
                draining=self.draining,
                holdings={MODEL: Holding(False, bits_of(holds))},
            )
        return self.said

    def take(self, deed: Callable[[], None]) -> None:
        """Something arrived."""
        if self.stopped:
            self.arrived.append(deed)
        elif self.alive:
            deed()

    def hear(self, summary: Summary, age: float, *, direct: bool) -> None:
        """A summary came by gossip: its own sender's, or another's."""
        boot, world = summary.boot, self.world
        if boot == self.boot:
            return
        known = world.by_boot.get(boot)
        if known is not None:
            self.heard.add(known.number)
        if summary.node != self.key:
            self.table.offer(summary, world.now, 0.0 if direct else age)

    def compute(self, rows: int, experts: list[int], reply: Callable[[str, Any], None]) -> None:
        """Queue a call; `reply` is called with what came of it when that is done."""
        lacking = [number for number in experts if number not in self.holds]
        if lacking:
            reply("not_held", lacking)
        elif self.waiting >= QUEUE_MAX:
            reply("refused", None)
        else:
            self.waiting += 1
            begin = max(self.world.now, self.free_at)
            self.free_at = begin + (FIXED_SECONDS + ROW_SECONDS * rows) * self.slow
            boot = self.boot
            self.world.at(self.free_at - self.world.now, lambda: self._done(boot, reply))

    def _done(self, boot: str, reply: Callable[[str, Any], None]) -> None:
        def deed() -> None:
            self.waiting -= 1
            reply("corrupt" if self.world.rng.random() < self.corrupt else "answer", None)

        if boot == self.boot:
            self.take(deed)


class World:
    """All processes and the events to come."""

    def __init__(self, seed: int, nodes: int, gateways: int, grid: ExpertGrid, replicas: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.grid = grid
        self.by_boot: dict[str, Process] = {}
        self.loss = 0.0  # of gossip
        self.delay = 0.0  # of gossip, at most; so it is reordered too
        self.links_cut: list[Callable[[Process, bool], None]] = []  # gateways' ears for ended processes
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        holds: list[set[int]] = [set() for _ in range(nodes)]
        for number in range(grid.count):
            for each in self.rng.sample(range(nodes), min(nodes, replicas)):
                holds[each].add(number)
        self.experts = [Process(self, number, number, frozenset(held)) for number, held in enumerate(holds)]
        self.gateways = [Process(self, nodes + number, nodes + number, frozenset()) for number in range(gateways)]
        self._all = [*self.experts, *self.gateways]
        for each in self._all:
            each.begin()
            self.at(self.rng.random() * GOSSIP_SECONDS, lambda each=each: self._gossip(each))

    def processes(self) -> list[Process]:
        """All, whether or not they live."""
        return self._all

    def at(self, seconds: float, deed: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._events, (self.now + max(0.0, seconds), next(self._count), deed))

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._events and self._events[0][0] <= until:
            self.now, _, deed = heapq.heappop(self._events)
            deed()
        self.now = until

    def latency(self) -> float:
        """One way, of one message."""
        return 0.001 + 0.002 * self.rng.random()

    def reach(self, one: Process, other: Process) -> bool:
        """Whether a message arrives now."""
        return one.alive and other.alive and one.group == other.group

    def send(self, one: Process, other: Process, deed: Callable[[], None], *, gossip: bool = False) -> None:
        """A message on its way; it may never arrive."""
        wait = self.latency()
        if gossip:
            if self.rng.random() < self.loss:
                return
            wait += self.delay * self.rng.random()
        boots = (one.boot, other.boot)

        def arrive() -> None:
            if boots == (one.boot, other.boot) and self.reach(one, other):
                other.take(deed)

        self.at(wait, arrive)

    # Gossip

    def _gossip(self, one: Process) -> None:
        self.at(GOSSIP_SECONDS * (0.75 + 0.5 * self.rng.random()), lambda: self._gossip(one))
        if one.alive and not one.stopped:
            known = sorted(one.heard | {0, 1, 2})
            for number in self.rng.sample(known, min(2, len(known))):
                other = self.at_number(number)
                if other is not one:
                    self.exchange(one, other)

    def at_number(self, number: int) -> Process:
        """The process with that place."""
        return self._all[number]

    def exchange(self, one: Process, other: Process) -> None:
        """Ours and what we know there, theirs and what they know here: two round trips."""
        ours, digest = one.summary(), one.table.digest()

        def asked() -> None:
            other.hear(ours, 0.0, direct=True)
            theirs, known = other.summary(), other.table.digest()
            passed = other.table.lacking(parse_digest(digest), self.now)

            def answered() -> None:
                one.hear(theirs, 0.0, direct=True)
                for each in passed:
                    one.hear(each.summary, each.age, direct=False)
                more = one.table.lacking(parse_digest(known), self.now)

                def told() -> None:
                    for each in more:
                        other.hear(each.summary, each.age, direct=False)

                self.send(one, other, told, gossip=True)

            self.send(other, one, answered, gossip=True)

        self.send(one, other, asked, gossip=True)

    # What happens to processes

    def kill(self, each: Process) -> None:
        """SIGKILL: its links are reset."""
        each.alive = False
        each.well_since = float("inf")
        for ear in self.links_cut:
            ear(each, True)

    def restart(self, each: Process) -> None:
        """A new process of the same node, with what it holds."""
        if each.alive:
            self.kill(each)
        each.alive, each.stopped, each.arrived = True, False, []
        each.well_since = self.now
        each.begin()

    def stop(self, each: Process) -> None:
        """SIGSTOP: its links stay, nothing is answered."""
        each.stopped = True
        each.well_since = float("inf")

    def go_on(self, each: Process) -> None:
        """SIGCONT: what came meanwhile is done now."""
        each.stopped = False
        each.well_since = self.now
        arrived, each.arrived = each.arrived, []
        for deed in arrived:
            each.take(deed)

    def move(self, each: Process, group: int) -> None:
        """To a side of a partition."""
        each.moves.append((self.now, group))
        each.group = group

    def together_since(self, one: Process, other: Process) -> float:
        """Since when no partition is between them; infinite while one is."""
        since, apart = float("-inf"), False
        for moment in sorted({at for at, _ in one.moves + other.moves}):
            if apart:
                since = moment
            apart = one.side(moment) != other.side(moment)
        return float("inf") if apart else since

    def copy(self, each: Process, holds: frozenset[int]) -> Process:
        """Another process with the same key."""
        made = Process(self, len(self._all), each.identity, holds)
        self._all.append(made)
        made.begin()
        self.at(0.0, lambda: self._gossip(made))
        each.well_since = float("inf")  # who has its key copied is promised nothing
        made.well_since = float("inf")
        return made
