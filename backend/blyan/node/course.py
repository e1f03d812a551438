"""One answer on its way by the first of several plans that can give it: what is impossible at once goes another way.

Which plan and which nodes computed it is known to the end, for the receipt. For the event loop that answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from blyan.inference.delivery import Emit
from blyan.inference.session import Event, Failed
from blyan.model.stepping import PlanName
from blyan.primitives.errors import Fault, Unavailable
from blyan.primitives.ids import PublicKey


class Begun(Protocol):
    """Something that was begun."""

    def cancel(self) -> None:
        """Stop it. Events of before may still come."""
        ...


class Way(Protocol):
    """How answers go by one plan."""

    def begin(self, emit: Emit) -> Begun:
        """Begin the answer; a fault where that cannot be."""
        ...

    def worked(self) -> Mapping[PublicKey, int | None]:
        """Others that computed it, and how many of its tokens; None: all."""
        ...


@dataclass(slots=True, eq=False)
class Course:
    """See the module. `begin` once; then `cancel` and `worked` whenever it suits."""

    way: Callable[[PlanName], Way]
    plans: Sequence[PlanName]  # in the order in which they are tried
    emit: Emit
    plan: PlanName = field(init=False)  # by which it is answered
    turned: int = 0  # plans that turned out impossible
    _now: Way = field(init=False)
    _begun: Begun | None = None
    _spoke: bool = False
    _cancelled: bool = False

    def begin(self) -> None:
        """By the first plan that takes it; the fault of the last where none does."""
        while True:
            turn, self.plan = self.turned, self.plans[self.turned]
            self._now = self.way(self.plan)
            try:
                begun = self._now.begin(self._passed)
            except Unavailable:
                if self.turned + 1 == len(self.plans):
                    raise
                self.turned += 1
            else:
                if turn == self.turned:  # else it failed at once, and another was begun
                    self._begun = begun
                return

    def cancel(self) -> None:
        """Stop it."""
        self._cancelled = True
        if self._begun is not None:
            self._begun.cancel()

    def worked(self) -> Mapping[PublicKey, int | None]:
        """Other nodes that computed it, and how many of its tokens; None: all."""
        return self._now.worked()

    def _passed(self, event: Event) -> None:
        """On to whoever asked, unless nothing came yet and another plan may still answer."""
        again = isinstance(event, Failed) and isinstance(event.fault, Unavailable)
        if again and not self._spoke and not self._cancelled and self.turned + 1 < len(self.plans):
            self.turned += 1
            try:
                self.begin()
            except Fault as reason:
                self.emit(Failed(reason))
            return
        self._spoke = True
        self.emit(event)
