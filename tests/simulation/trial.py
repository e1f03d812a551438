"""One run: a swarm, a fault, steps from several gateways, and what was found."""

import dataclasses
import random
import time
from dataclasses import dataclass

from blyan.inference.plan import CallSpec
from blyan.inference.snapshot import ExpertGrid
from simulation.faults import BEGIN, END, LAST, Fault
from simulation.gateway import Gateway, Outcome
from simulation.world import World

CALLS = 8
QUIET, SETTLED = 10.0, 10.0  # seconds before the end of the fault, of the world, in which traffic is looked at


@dataclass
class Found:
    """Of all gateways together."""

    steps: int
    answered: int
    failed: int
    unjust: list[str]
    wrong: int
    late: int
    rejected: int
    p50_s: float
    p99_s: float
    longest_s: float
    spread: float  # the most that a well node got, of what its experts would give it if replicas shared evenly
    bad_share: float  # of the traffic that bad nodes got at last, over what an even share would be
    back_share: float  # the same, once they were well
    has_bad: bool
    took_s: float

    def seen(self) -> tuple[object, ...]:
        """All but how long it took."""
        return dataclasses.astuple(self)[:-1]

    def row(self) -> str:
        """For the table, from the second column on."""
        return (
            f"{self.steps:,} | {self.answered:,} | {self.failed:,} | {len(self.unjust)} | {self.wrong} | "
            f"{self.rejected:,} | {self.p50_s * 1e3:.0f} | {self.p99_s * 1e3:.0f} | {self.longest_s * 1e3:.0f} | "
            f"{self.spread:.1f} | {self.bad_share:.2f} | {self.back_share:.2f} | {self.took_s:.0f}"
        )


def run(
    fault: Fault,
    seed: int,
    nodes: int,
    *,
    grid: ExpertGrid,
    replicas: int = 3,
    gateways: int = 2,
    step_seconds: float = 0.1,
) -> Found:
    """Play one fault with one seed; each gateway begins a step every `step_seconds`."""
    began = time.monotonic()
    world = World(seed, nodes, gateways, grid, replicas)
    fault.before(world)
    for each in world.processes():
        each.said = None
    doors = [Gateway(world, process) for process in world.gateways]
    world.run(BEGIN - 5.0)
    for number, door in enumerate(doors):
        world.at(number * step_seconds / gateways, lambda door=door: _step(world, door, step_seconds))
    world.run(BEGIN)
    harm = fault.begin(world, random.Random(seed))
    world.run(END)
    harm.heal()
    world.run(LAST)
    for door in doors:
        door.asking = False
    world.run(LAST + 6.0)
    outcomes = [door.outcome for door in doors]
    seconds = sorted(second for each in outcomes for second in each.seconds)
    assert seconds, "something was answered"
    return Found(
        sum(each.steps for each in outcomes),
        sum(each.answered for each in outcomes),
        sum(each.failed for each in outcomes),
        [line for each in outcomes for line in each.unjust],
        sum(each.wrong for each in outcomes),
        sum(each.late for each in outcomes),
        sum(each.rejected for each in outcomes),
        seconds[len(seconds) // 2],
        seconds[int(0.99 * len(seconds))],
        seconds[-1],
        _spread(world, outcomes, harm.bad),
        _share(world, outcomes, harm.bad, END - QUIET, END),
        _share(world, outcomes, harm.bad, LAST - SETTLED, LAST),
        bool(harm.bad),
        time.monotonic() - began,
    )


def _step(world: World, door: Gateway, every: float) -> None:
    if not door.asking:
        return
    grid, rng = world.grid, world.rng
    layer = rng.choice(grid.layers)
    long = rng.random() < 0.02  # a prompt among tokens
    experts = rng.sample(range(grid.experts), min(CALLS, grid.experts))
    door.ask([CallSpec(layer, expert, rng.randint(16, 64) if long else rng.randint(1, 3)) for expert in experts])
    world.at(every, lambda: _step(world, door, every))


def _fair(world: World) -> list[float]:
    """The share of all rows that each node would get if replicas shared evenly and all experts were asked equally."""
    replicas = [0] * world.grid.count
    for each in world.experts:
        for number in each.holds:
            replicas[number] += 1
    return [sum(1 / replicas[number] for number in each.holds) / world.grid.count for each in world.experts]


def _spread(world: World, outcomes: list[Outcome], bad: set[int]) -> float:
    counts = [sum(len(each.recent.get(process.number, ())) for each in outcomes) for process in world.experts]
    fair, total = _fair(world), max(1, sum(counts))
    return max(
        counts[process.number] / total / fair[process.number]
        for process in world.experts
        if process.number not in bad and process.holds
    )


def _share(world: World, outcomes: list[Outcome], numbers: set[int], begin: float, end: float) -> float:
    fair = _fair(world)
    due = sum(fair[number] for number in numbers)
    counts = {
        number: sum(begin <= at < end for each in outcomes for at in each.recent.get(number, ()))
        for number in range(len(world.experts))
    }
    total = sum(counts.values())
    return sum(counts[number] for number in numbers) / total / due if total and due else 0.0
