"""One generation as the compute thread holds it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field

from blyan.inference.delivery import Emit, Listener
from blyan.inference.engine import Engine
from blyan.inference.needs import Need
from blyan.inference.sequence import TokenSequence
from blyan.inference.session import Work
from blyan.model.loading import LoadedModel
from blyan.model.stepping import Patience, endless
from blyan.primitives.ids import PublicKey


@dataclass(slots=True, eq=False)
class Job:
    """One generation in the compute thread."""

    number: int  # rises in the order in which they came
    client: str
    model: LoadedModel
    work: Work
    emit: Emit
    listener: Listener
    context: Context  # of whoever submitted it: its log lines name the request
    started: Callable[[], None]  # told when it waits no longer: it was admitted, or ended
    came: float
    patience: Patience = endless
    staged: bool = False  # by stages, where the model's other answers are computed here
    admitted: bool = False
    need: Need = field(default_factory=lambda: Need(0, (0,)))  # its first
    engine: Engine | None = None
    sequence: TokenSequence | None = None
    worked: dict[PublicKey, None] = field(default_factory=dict[PublicKey, None])  # others that computed a part of it


def attempted(work: Callable[[], object]) -> BaseException | None:
    """What came of it, if not well: whatever one generation or step raises, a native panic too, is its end alone."""
    try:
        work()
    except BaseException as reason:  # noqa: BLE001 - task boundary: it is told to those whom it concerns
        return reason
    return None
