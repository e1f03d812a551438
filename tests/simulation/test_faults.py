"""A swarm goes on answering whatever happens to its nodes, as long as somebody well has the expert.

Small swarms here; under `scripts/test --long` the matrix of faults, sizes and seeds, which writes
docs/benchmarks/simulation.md.
"""

import pytest

from blyan.inference.snapshot import ExpertGrid
from simulation.faults import FAULTS, Fault
from simulation.table import write_row
from simulation.trial import CALLS, Found, run

SMALL = ExpertGrid((0, 1, 2), 16)
GRIDS = {
    20: ExpertGrid(tuple(range(4)), 16),
    100: ExpertGrid(tuple(range(8)), 32),
    1_000: ExpertGrid(tuple(range(16)), 64),
}
MATRIX = [(20, seed) for seed in range(1, 6)] + [(100, 1), (100, 2), (1_000, 1)]


def check(fault: Fault, found: Found, nodes: int) -> None:
    """What must hold in every world.

    Of shares as far as chance allows: in a thousand nodes each is asked a dozen times, and some node thrice as often.
    """
    chance = (nodes / (found.steps * CALLS)) ** 0.5
    assert found.wrong == 0, "no answer that does not verify is taken"
    assert found.unjust == [], "what somebody well had was answered"
    assert found.answered + found.failed == found.steps, "every step ends"
    assert found.late == 0, "and in time"
    if not fault.loses:
        assert found.failed == 0
    assert found.longest_s <= fault.pause_max
    most = (5.0 if found.has_bad or fault.harms else 3.0) + 3 * chance
    assert found.spread <= most, "no node gets far more without a reason"
    assert found.bad_share <= fault.bad_max + chance / 3, "who is not well gets next to nothing"
    assert not found.has_bad or found.back_share >= 0.25 - chance / 3, "and its share again once it is well"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_small_swarm_goes_on_while(fault: Fault) -> None:
    check(fault, run(fault, 1, 12, grid=SMALL, step_seconds=0.2), 12)


def test_a_run_is_a_function_of_its_seed() -> None:
    one, same, other = (run(FAULTS[-1], seed, 8, grid=SMALL, step_seconds=0.5) for seed in (1, 1, 2))
    assert one.seen() == same.seen()
    assert one.seen() != other.seen()


@pytest.mark.long
@pytest.mark.parametrize(("nodes", "seed"), MATRIX)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_swarm_goes_on_while(fault: Fault, nodes: int, seed: int) -> None:
    found = run(fault, seed, nodes, grid=GRIDS[nodes])
    write_row(fault.name, nodes, seed, found.row())
    check(fault, found, nodes)
