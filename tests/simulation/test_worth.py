"""Experts placed by their worth, against rarest first, greedy and by chance: what a swarm can carry, and few moves.

A small swarm here; under `scripts/test --long` sizes up to 1,000 nodes, which write docs/benchmarks/placement.md.
"""

import fcntl
import time

import pytest

from blyan.inference.snapshot import ExpertGrid
from conftest import ROOT, git
from simulation.demand import Traffic
from simulation.placing import ROUND_MINUTES, Carried, Rule, Swarm

PAGE = ROOT / "docs/benchmarks/placement.md"
HOUR = round(60 / ROUND_MINUTES)
GRIDS = {
    10: (ExpertGrid((0, 1, 2, 3), 8), 2),
    100: (ExpertGrid(tuple(range(8)), 32), 4),
    1_000: (ExpertGrid(tuple(range(16)), 64), 8),
}
HEAD = """# Placement of experts

Written by `scripts/test --long`: seeded swarms (`tests/simulation/test_worth.py`) of laptops, desktops and machines
with a GPU, each of which decides alone what to hold, with *room* for so many times two replicas of each expert.
Tokens have topics by Zipf's law with exponent *skew*, each with its own experts. *worth* is the product's rule;
*rarest* the same without knowing what is used; *greedy* the floor and then the most used for each byte; *random* by
chance. Under every rule a node keeps in its fastest memory what is called there most. After 2 hours the topics
change; after 3 a tenth of the nodes dies. *tokens/s*: when the busiest node has no rest, in units of a laptop's
memory, by hour 0, 2, 2 (changed), 3, 3 (died), 4. *nodes*: that together hold what a token uses in a layer, the
fewest, at hours 0, 2 and 4. *at risk*: tokens that a tenth of the nodes would take with it at once, on average, at
hours 0, 2, 3, 3 (died) and 4. *lost*: tokens that use an expert nobody holds, when the tenth has died, and at the
end. *moves*: exchanged for worth, for a node and hour, in each hour. Simulated time, but for *took*.

"""
COLUMNS = (
    "nodes, room, skew, rule, tokens/s, nodes for a layer, at risk, lost, replicas, fetched for a node, moves, took s, "
    "commit"
).split(", ")
HEAD += f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"
RULES: tuple[Rule, ...] = ("worth", "rarest", "greedy", "random")
CASES = [
    (10, 1.5, 1.0),
    (100, 1.5, 1.0),
    (100, 1.5, 2.0),
    (100, 3.0, 1.0),
    (100, 3.0, 2.0),
    (1_000, 2.0, 1.0),
    (1_000, 2.0, 2.0),
]


def swarm(rule: Rule, nodes: int, room: float, skew: float = 1.0, seed: int = 1) -> Swarm:
    grid, few = GRIDS[nodes]
    made = Swarm(rule, nodes, grid, Traffic(grid, few, seed, skew), room, seed)
    made.serve()
    return made


def hours(made: Swarm, count: float) -> float:
    """Let time pass; exchanges for a node and hour."""
    before = made.exchanged
    for _ in range(round(count * HOUR)):
        made.serve(128)
        made.round()
    return (made.exchanged - before) / len(made.alive) / count


def test_a_swarm_comes_to_carry_more_than_greedy_and_loses_nothing_as_chance_does() -> None:
    made = {rule: swarm(rule, 10, 1.5) for rule in ("worth", "greedy", "random")}
    first = hours(made["worth"], 1)
    rest = hours(made["worth"], 1)
    assert rest <= first <= 12.0, "few moves, and ever fewer"
    assert rest <= 3.0
    for rule in ("greedy", "random"):
        hours(made[rule], 1)
    found = {rule: each.carried(256) for rule, each in made.items()}
    assert found["worth"].lost == 0
    assert min(made["worth"].replicas()) >= 2
    assert found["worth"].tokens_s > found["greedy"].tokens_s
    assert min(made["random"].replicas()) == 0, "chance leaves experts that nobody holds"


def row(rule: Rule, nodes: int, room: float, skew: float) -> tuple[str, list[Carried]]:
    """What became of a swarm through four hours, for the table."""
    began, made, found = time.monotonic(), swarm(rule, nodes, room, skew), []
    made.round()
    sample = 512
    found.append(made.carried(sample))
    moves = [hours(made, 2)]
    found.append(made.carried(sample))
    made.traffic.drift()
    found.append(made.carried(sample))
    moves.append(hours(made, 1))
    found.append(made.carried(sample))
    made.kill(0.1)
    found.append(made.carried(sample))
    moves.append(hours(made, 1))
    found.append(made.carried(sample))
    replicas = made.replicas()
    text = " | ".join(
        (
            " ".join(f"{each.tokens_s:.2f}" for each in found),
            " ".join(f"{found[at].nodes:.2f}" for at in (0, 1, 5)),
            " ".join(f"{found[at].risk:.1%}" for at in (0, 1, 3, 4, 5)),
            f"{found[4].lost:.1%} {found[5].lost:.1%}",
            f"{min(replicas)} to {max(replicas)}",
            f"{made.fetched / nodes:.0f}",
            " ".join(f"{each:.1f}" for each in moves),
            f"{time.monotonic() - began:.0f}",
        )
    )
    return text, found


def write(start: str, text: str) -> None:
    """A line of the page, in place of an earlier one."""
    commit = git("rev-parse", "--short=12", "HEAD") or "no commit"
    if git("status", "--porcelain", "--untracked-files=no", "--", "backend", "tests"):
        commit += " and changes"
    with PAGE.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # workers share it
        file.seek(0)
        had, _, rest = file.read().partition("|---|\n")
        lines = rest.splitlines() if HEAD.startswith(had) else []  # of another table none are kept
        kept = [line for line in lines if line.startswith("| ") and not line.startswith(start)]
        kept.append(f"{start} {text} | {commit} |")
        kept.sort(key=_place)
        file.seek(0)
        file.truncate()
        file.write(HEAD + "\n".join(kept) + "\n")


def _place(line: str) -> tuple[float, ...]:
    nodes, room, skew, rule = line.removeprefix("| ").split(" | ")[:4]
    return int(nodes.replace(",", "")), float(room), float(skew), RULES.index(rule)


@pytest.mark.long
@pytest.mark.parametrize(("nodes", "room", "skew"), CASES)
def test_placement_through_hours(nodes: int, room: float, skew: float) -> None:
    """All rules on one swarm; what the product's carries is held against what it would without knowing what is used."""
    found = dict[Rule, list[Carried]]()
    for rule in RULES:
        text, found[rule] = row(rule, nodes, room, skew)
        write(f"| {nodes:,} | {room} | {skew} | {rule} |", text)
    worth, rarest = found["worth"], found["rarest"]
    assert worth[-1].lost == 0
    settled = (1, 3, 5)
    assert sum(worth[at].risk for at in settled) <= sum(rarest[at].risk for at in settled) + 0.02, "as safe"
    gained = [worth[at].tokens_s / rarest[at].tokens_s for at in settled]
    assert sum(gained) / len(gained) >= (1.05 if skew > 1 else 0.97), "as fast, and faster where traffic is skewed"
