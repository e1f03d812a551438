"""What is asked of networks, over which distances, and what befalls them: values, drawn from seeds.

Three workloads by the tokens of prompt and answer together, three distances by the round trips of their links, four
plans, five fates. The short run takes each workload, distance and plan together without a fault, and of the faults a
selection in which each meets every plan, every workload and every distance; `FULL=1` takes the whole product.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from benched_node import completion
from harness import SMOKE
from reference_models import Reference

from blyan.learning.draws import Draws

FULL = os.environ.get("FULL") == "1"
PLANS = ("dynamic", "static_delegate", "pipeline", "auto")
FAULTS = ("killed", "stopped", "2 to 10 × slow", "black-holed")
CALM = "none"


class Workload(NamedTuple):
    """Tokens of a prompt and its answer together, of the answer at most, and how many requests are asked of it."""

    name: str
    least: int
    most: int
    answer: int  # or half of all, if that is less
    requests: int


class Distance(NamedTuple):
    """Round trips of links, in seconds."""

    name: str
    least: float
    most: float

    def link(self, draws: Draws) -> tuple[float, float]:
        """One link's: at least, and at most so much more from message to message, a fifth of the whole range."""
        if not self.most:
            return 0.0, 0.0
        jitter = (self.most - self.least) / 5
        return self.least + (self.most - self.least - jitter) * draws.below(1_000) / 999, jitter


_answer = 5 if SMOKE else 32
WORKLOADS = (
    Workload("10 to 50", 10, 50, _answer, 1 if SMOKE else 4 if FULL else 2),
    Workload("300 to 600", 300, 600, _answer, 1 if SMOKE else 4 if FULL else 2),
    Workload("2,000 to 4,000", 2_000, 4_000, _answer, 1 if SMOKE else 4 if FULL else 1),
)
DISTANCES = (
    Distance("loopback", 0.0, 0.0),
    Distance("10 to 20 ms", 0.010, 0.020),
    Distance("50 to 150 ms", 0.050, 0.150),
)


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    workload: Workload
    distance: Distance
    plan: str
    fault: str

    def bodies(self, model: Reference, name: str) -> Iterator[dict[str, object]]:
        """Requests that no other line asks: every second one greedy, the others drawn by a seed."""
        draws = Draws(abs(hash_of(self)))
        for number in range(self.workload.requests):
            total = self.workload.least + draws.below(self.workload.most - self.workload.least + 1)
            answer = min(self.workload.answer, total // 2)
            prompt = model.prompt(total - answer, draws.below(1 << 30))
            sampled = {"temperature": 0.8, "top_p": 0.95, "seed": draws.below(1 << 30)} if number % 2 else {}
            yield completion(name, prompt, answer, **sampled)


def hash_of(case: Case) -> int:
    """The same in every process."""
    places = WORKLOADS.index(case.workload), DISTANCES.index(case.distance), PLANS.index(case.plan)
    fault = FAULTS.index(case.fault) + 1 if case.fault in FAULTS else 0
    return 1_000 * places[0] + 100 * places[1] + 10 * places[2] + fault


def cases(distance: Distance) -> list[Case]:
    """Those over one distance, without faults first."""
    calm = [Case(workload, distance, plan, CALM) for workload in WORKLOADS for plan in PLANS]
    if SMOKE:  # of each workload one plan, another at the next distance
        calm = [case for at, case in enumerate(calm) if at // 4 == (at + 2 * DISTANCES.index(distance)) % 4]
    return calm + list(_struck(distance))


def _struck(distance: Distance) -> Iterator[Case]:
    place = DISTANCES.index(distance)
    for (at, fault), (number, plan) in product(enumerate(FAULTS), enumerate(PLANS)):
        wanted = WORKLOADS[(at + number) % len(WORKLOADS)]
        for workload in WORKLOADS:
            chosen = workload is wanted and (at + 2 * number) % len(DISTANCES) == place and not (SMOKE and number != at)
            if FULL or chosen:
                yield Case(workload, distance, plan, fault)
