"""The page of the simulation's matrix: one row for each fault, size and seed, the last run of each."""

import fcntl

from conftest import ROOT, git

PAGE = ROOT / "docs/benchmarks/simulation.md"
COLUMNS = (
    "fault nodes seed steps answered failed unjust taken_wrong rejected p50_ms p99_ms longest_ms spread at_last after "
    "took_s commit"
)
HEAD = """# Simulation of the control plane

Written by `scripts/test --long`: seeded swarms (`tests/simulation/`) in which the real gossip, registry, plans,
breakers, reputations and measurements run on one clock, without tensors. Each expert has three replicas; two gateways
ask for eight experts ten times a second each, for 80 seconds, a fault lasting 25 of them. *failed*: answered with an
error in time, as nobody who could be reached had the expert; *unjust*: the same though somebody had; *rejected*: wrong
answers, none of which was *taken wrong*; *p50* to *longest*: of answered steps for which nobody had to be waited for;
*spread*: the most that a well node got; *at last* and *after*: what nodes with the fault got at its end, and once they
were well again. These three are in even shares. Simulated time throughout, but for *took*.

"""


def write_row(fault: str, nodes: int, seed: int, found: str) -> None:
    """Put a row in the page, in place of an earlier one of the same fault, size and seed."""
    commit = git("rev-parse", "--short=12", "HEAD") or "no commit"
    if git("status", "--porcelain", "--untracked-files=no", "--", "backend", "tests"):
        commit += " and changes"
    start = f"| {fault} | {nodes:,} | {seed} |"
    with PAGE.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # workers share it
        file.seek(0)
        rows = [line for line in file.read().removeprefix(HEAD).splitlines() if line.startswith("| ")]
        kept = [line for line in rows if not line.startswith(start) and not line.startswith("| fault |")]
        kept.append(f"{start} {found} | {commit} |")
        kept.sort(key=lambda line: [int(part.replace(",", "")) for part in line.split(" | ")[1:3]])
        file.seek(0)
        file.truncate()
        titles = [column.replace("_", " ") for column in COLUMNS.split()]
        file.write(HEAD + f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|\n" + "\n".join(kept) + "\n")
