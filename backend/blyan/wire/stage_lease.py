"""Leases of pages at the stages of a pipeline, and how far a stage is with the calls of one (docs/spec/peer.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, MalformedMessage
from blyan.primitives.ids import PayloadId, PublicKey, payload_id, public_key
from blyan.wire.stage_shapes import as_number, is_hex, is_span, session_chars

open_kind: Final = "stage_open"
close_kind: Final = "stage_close"
look_kind: Final = "stage_look"


@dataclass(frozen=True, slots=True)
class StageOpen:
    """Asks for a lease of pages over some layers, or that it goes on. A value that exists is within limits."""

    model: PayloadId
    session: str
    begin: int
    end: int
    pages: int  # at most
    least: int  # fewer are of no use
    before: PublicKey  # who alone sends calls: the lead, or the stage before

    def __post_init__(self) -> None:
        fits = 0 < self.least <= self.pages <= _pages_max
        if not (is_hex(self.session, session_chars) and is_span(self.begin, self.end) and fits):
            raise InvalidInput("stage lease: expected session, layers and pages within the limits")

    def fields(self) -> dict[str, Any]:
        """As it is sent."""
        return {
            "model": self.model,
            "session": self.session,
            "begin": self.begin,
            "end": self.end,
            "pages": self.pages,
            "least": self.least,
            "before": self.before,
        }


_pages_max: Final = limits.stage_lease_pages_max


def parse_open(fields: Mapping[str, Any]) -> StageOpen:
    """Read a request for a lease; `MalformedMessage` for what is none."""
    try:
        numbers = (as_number(fields[name]) for name in ("begin", "end", "pages", "least"))
        return StageOpen(
            payload_id(fields["model"]), str(fields["session"]), *numbers, before=public_key(fields["before"])
        )
    except (KeyError, InvalidInput) as reason:
        raise MalformedMessage(f"stage lease: {reason}") from None


def given_pages(asked: StageOpen, fields: Mapping[str, Any]) -> int:
    """How many pages a stage gives, by its answer; `MalformedMessage` for what was not asked for."""
    found = fields.get("pages")
    if type(found) is not int or not asked.least <= found <= asked.pages:
        raise MalformedMessage(f"stage lease: expected {asked.least} to {asked.pages} pages, found {found!r:.40}")
    return found


def gives_ends(fields: Mapping[str, Any]) -> bool:
    """Whether a stage embeds, if the first layer is its, and draws, if the last one is, by its answer."""
    return fields.get("ends") is True


def bytes_left(fields: Mapping[str, Any]) -> int | None:
    """What a stage has for pages of this lead in all, by its answer; None where it says nothing of it."""
    found = fields.get("room")
    return found if type(found) is int and 0 <= found <= limits.canonical_integer_max else None


class Progress(NamedTuple):
    """How far a stage is with the calls of a session."""

    taken: int = 0  # the number of the last call that came
    passed: int = 0  # of the last whose outputs were sent on
    milliseconds: int = 0  # since then
    awaits: int = 0  # the call whose tokens the next one waits for; 0 for none

    def fields(self) -> dict[str, Any]:
        """As it is sent."""
        return {"taken": self.taken, "passed": self.passed, "ms": self.milliseconds, "awaits": self.awaits}


def parse_progress(fields: Mapping[str, Any]) -> Progress:
    """Read what a stage says of itself; `MalformedMessage` for what is none."""
    try:
        found = Progress(*(as_number(fields[name]) for name in ("taken", "passed", "ms", "awaits")))
    except (KeyError, InvalidInput) as reason:
        raise MalformedMessage(f"stage progress: {reason}") from None
    if not 0 <= found.passed <= found.taken or found.milliseconds < 0 or not 0 <= found.awaits <= found.taken:
        raise MalformedMessage("stage progress: expected numbers of calls, found others")
    return found
