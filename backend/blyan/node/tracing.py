"""Which request a piece of work belongs to: an id and its counts, carried by a context variable.

Set where a request enters (`api/middleware`), read by the log formatter and by whoever counts tokens. Threads that work
for a request run in a copy of its context, so their log lines carry the id too. Nothing of what a caller wrote is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Protocol

from blyan.primitives.ids import PublicKey

_well_formed: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Computed(Protocol):
    """One answer, by whom it was computed."""

    @property
    def plan(self) -> str:
        """How the work was divided."""
        ...

    def worked(self) -> Mapping[PublicKey, int | None]:
        """Other nodes that computed it, and how many of its tokens; None: all."""
        ...


@dataclass(slots=True)
class Trace:
    """One request while it is answered."""

    identity: str
    client: str = ""  # who shares the machine with others: a digest, of which nothing is kept
    prompt_tokens: int = 0
    completion_tokens: int = 0
    outcome: str = ""  # how its last generation ended
    courses: list[Computed] = field(default_factory=list["Computed"])  # how each was computed


_current: Final[ContextVar[Trace | None]] = ContextVar("blyan_trace", default=None)


def current_trace() -> Trace | None:
    """The request that this code works for, None outside of any."""
    return _current.get()


def begin_trace(given: str | None, made: bytes) -> Trace:
    """Begin the trace of this task: with the id that came with the request if it is well-formed, else a made one."""
    usable = given is not None and _well_formed.fullmatch(given) is not None
    trace = Trace(given if usable and given is not None else made.hex())
    _current.set(trace)
    return trace
