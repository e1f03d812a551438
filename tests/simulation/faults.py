"""What happens to the simulated swarm, and what is to be seen of it: one row each, by name."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from simulation.world import Process, World

BEGIN, END, LAST = 20.0, 45.0, 95.0  # seconds: faults begin, faults end, the world ends


@dataclass
class Harm:
    """What was done."""

    bad: set[int] = field(default_factory=set)  # processes that should get no traffic before the end of the fault
    heal: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    name: str
    begin: Callable[[World, random.Random], Harm]
    loses: bool = False  # whether some experts have no replica left that is well and can be reached
    pause_max: float = 1.0  # seconds that a step may take, if nobody had to be waited for
    harms: bool = False  # nodes that are not counted as bad, but whose work others must do for a while
    bad_max: float = 0.1  # of an even share, for those that are bad
    before: Callable[[World], None] = lambda world: None  # of the world, from the start


def some(world: World, rng: random.Random, share: float, *, covered: bool = True) -> list[Process]:
    """A share of the expert nodes, at least one; `covered`: each expert keeps a holder among the others."""
    left = Counter(number for each in world.experts for number in each.holds)
    hit: list[Process] = []
    for each in rng.sample(world.experts, len(world.experts)):
        if len(hit) < max(1, round(share * len(world.experts))) and (
            not covered or all(left[number] > 1 for number in each.holds)
        ):
            hit.append(each)
            left.subtract(each.holds)
    return hit


def _nothing(world: World, rng: random.Random) -> Harm:
    return Harm()


def _dead(share: float, *, covered: bool = True) -> Callable[[World, random.Random], Harm]:
    def begin(world: World, rng: random.Random) -> Harm:
        hit = some(world, rng, share, covered=covered)
        for each in hit:
            world.at(5.0 * rng.random(), lambda each=each: world.kill(each))
        return Harm({each.number for each in hit}, lambda: [world.restart(each) for each in hit] and None)

    return begin


def _stopped(world: World, rng: random.Random) -> Harm:
    hit = some(world, rng, 0.15)
    for each in hit:
        world.at(5.0 * rng.random(), lambda each=each: world.stop(each))
    return Harm({each.number for each in hit}, lambda: [world.go_on(each) for each in hit] and None)


def _partition(world: World, rng: random.Random) -> Harm:
    away = [*some(world, rng, 0.4, covered=False), world.gateways[-1]]
    for each in away:
        world.move(each, 1)
    return Harm(set(), lambda: [world.move(each, 0) for each in away] and None)


def _slow(world: World, rng: random.Random) -> Harm:
    hit = some(world, rng, 0.3)
    for each in hit:
        each.slow = 2.0 + 8.0 * rng.random()

    def heal() -> None:
        for each in hit:
            each.slow = 1.0

    return Harm({each.number for each in hit if each.slow > 6.0}, heal)


def _bad_gossip(world: World, rng: random.Random) -> Harm:
    world.loss, world.delay = 0.5, 8.0

    def heal() -> None:
        world.loss, world.delay = 0.0, 0.0

    return Harm(set(), heal)


def _liars(world: World, rng: random.Random) -> Harm:
    hit = some(world, rng, 0.2)
    for each in hit:
        each.claims = frozenset(range(world.grid.count))

    def heal() -> None:
        for each in hit:
            each.claims = None
            each.well_since = world.now

    return Harm(set(), heal)


def _copies(world: World, rng: random.Random) -> Harm:
    hit = some(world, rng, 0.1)
    made = [world.copy(each, frozenset(rng.sample(sorted(each.holds), len(each.holds) // 2))) for each in hit]
    return Harm(set(), lambda: [world.kill(each) for each in made] and None)


def _skewed(world: World) -> None:
    for each in world.processes():
        each.skew = world.rng.choice([-1.0, 1.0]) * world.rng.random() * 3e8


def _restarts(world: World, rng: random.Random) -> Harm:
    hit = some(world, rng, 0.3)
    for each in hit:
        each.skew = -3e8 * rng.random()  # a clock that went back meanwhile
        world.at(20.0 * rng.random(), lambda each=each: world.restart(each))
    return Harm()


def _replayed(world: World, rng: random.Random) -> Harm:
    """Dead nodes whose last summaries somebody brings again and again, always as if they were new."""
    hit = some(world, rng, 0.2)
    kept = [each.summary() for each in hit]
    for each in hit:
        world.kill(each)

    def bring() -> None:
        for each in world.processes():
            if each.alive:
                for summary in kept:
                    each.hear(summary, 0.0, direct=False)
        if world.now < END:
            world.at(1.0, bring)

    bring()
    return Harm({each.number for each in hit}, lambda: [world.restart(each) for each in hit] and None)


def _corrupt(world: World, rng: random.Random) -> Harm:
    hit = some(world, rng, 0.15)
    for each in hit:
        each.corrupt = rng.choice([0.5, 1.0])

    def heal() -> None:
        for each in hit:
            each.corrupt = 0.0
            each.well_since = world.now

    return Harm({each.number for each in hit}, heal)


def _flapping(world: World, rng: random.Random) -> Harm:
    hit = some(world, rng, 0.2)

    def flap(each: Process) -> None:
        if world.now < END:
            if each.alive:
                world.kill(each)
            else:
                world.restart(each)
            world.at(1.0 + 4.0 * rng.random(), lambda: flap(each))

    for each in hit:
        world.at(5.0 * rng.random(), lambda each=each: flap(each))
    return Harm(set(), lambda: [world.restart(each) for each in hit if not each.alive] and None)


def _mass_restart(world: World, rng: random.Random) -> Harm:
    for each in world.experts:
        world.kill(each)
        world.at(1.0 + rng.random(), lambda each=each: world.restart(each))
    return Harm()


def _draining(world: World, rng: random.Random) -> Harm:
    hit = some(world, rng, 0.2)
    for each in hit:
        each.draining = True
        each.well_since = world.now  # it leaves as it said that it would

    def leave() -> None:
        for each in hit:
            world.kill(each)

    world.at(END - BEGIN - 1.0, leave)

    def back() -> None:
        for each in hit:
            each.draining = False
            world.restart(each)

    return Harm({each.number for each in hit}, back)


def _storm(world: World, rng: random.Random) -> Harm:
    """Several at once, on different nodes."""
    world.loss, world.delay = 0.3, 3.0
    hit = some(world, rng, 0.3)
    parts = [hit[at::5] for at in range(5)]
    for each in parts[0]:
        world.kill(each)
    for each in parts[1]:
        world.stop(each)
    for each in parts[2]:
        each.slow = 10.0
    for each in parts[3]:
        each.corrupt = 1.0
    for each in parts[4]:
        each.claims = frozenset(range(world.grid.count))

    def heal() -> None:
        world.loss, world.delay = 0.0, 0.0
        for each in parts[0]:
            world.restart(each)
        for each in parts[1]:
            world.go_on(each)
        for each in [*parts[2], *parts[3], *parts[4]]:
            each.slow, each.corrupt, each.claims, each.well_since = 1.0, 0.0, None, world.now

    return Harm({each.number for each in [*parts[0], *parts[1], *parts[2], *parts[3]]}, heal)


FAULTS = [
    Fault("nothing happens", _nothing),
    Fault("10 % of nodes killed, later restarted", _dead(0.1)),
    Fault("30 % of nodes killed, later restarted", _dead(0.3)),
    Fault("50 % of nodes killed, some experts with them", _dead(0.5, covered=False), loses=True),
    Fault("15 % of nodes stopped, later continued", _stopped),
    Fault("partition that heals", _partition, loses=True, harms=True),
    Fault("30 % of nodes 2 to 10 times slower", _slow, bad_max=0.6),
    Fault("gossip lost, late and reordered", _bad_gossip),
    Fault("20 % of nodes say that they hold everything", _liars, harms=True),
    Fault("10 % of keys copied to a second process", _copies, harms=True),
    Fault("clocks years apart", _nothing, before=_skewed),
    Fault("30 % of nodes restarted, clocks gone back", _restarts, harms=True),
    Fault("old summaries of dead nodes replayed", _replayed),
    Fault("15 % of nodes answer with wrong bytes", _corrupt),
    Fault("20 % of nodes come and go", _flapping, harms=True),
    Fault("all nodes restarted at once", _mass_restart, loses=True, harms=True),
    Fault("20 % of nodes drained", _draining),
    Fault("several at once", _storm, bad_max=0.3),
]
