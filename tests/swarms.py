"""Summaries and registries of small swarms, without sockets or signatures."""

from collections.abc import Iterable, Mapping

from blyan.inference.registry import Registry
from blyan.inference.scoring import Rules
from blyan.inference.snapshot import ExpertGrid
from blyan.network.gossip import SummaryTable
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.peer import Holding, Summary, bits_of

MODEL = PayloadId("ab" * 32)


def node(number: int) -> PublicKey:
    """The key of a node, by a number."""
    return PublicKey(f"{number:064x}")


def said(
    number: int,
    sequence: int = 1,
    *,
    boot: int = 0,
    started: int = 100,
    holds: Iterable[int] = (),
    draining: bool = False,
    model: PayloadId = MODEL,
) -> Summary:
    """What a node says: which routed experts it holds, by their numbers in the model."""
    return Summary(
        node(number),
        f"{boot:032x}",
        started,
        sequence,
        "00" * 32,
        "00" * 8,
        draining=draining,
        holdings={model: Holding(False, bits_of(set(holds)))},
    )


def registry(
    holds: Mapping[int, Iterable[int]],
    grid: ExpertGrid | None = None,
    rules: Rules | None = None,
    *,
    answers: int = 20,
    seconds: float = 0.01,
    now: float = 0.0,
) -> Registry:
    """A registry that has links to these nodes, each of which answered so many calls of `seconds`."""
    made = Registry(SummaryTable(), rules=rules)
    made.serve(MODEL, grid or ExpertGrid((0, 1), 4))
    for number, numbers in holds.items():
        made.linked(said(number, holds=numbers), now)
    made.snapshot(now)
    for number in holds:
        for _ in range(answers):
            made.began(node(number), 8, now)
            made.answered(node(number), 8, seconds, 100, now)
    made.snapshot(now + 1)
    return made
