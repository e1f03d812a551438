"""Values that leases and calls of a pipeline's stages have in common, and how they are checked (docs/spec/peer.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput
from blyan.primitives.ids import PublicKey, public_key

session_chars: Final = 32
nonce_chars: Final = 24
_hex: Final = frozenset("0123456789abcdef")


class Hop(NamedTuple):
    """A node, and the layers that are its."""

    node: PublicKey
    begin: int
    end: int


class RunShape(NamedTuple):
    """New positions of one sequence (see `model/stepping.Run`)."""

    rows: int
    start: int
    pages: tuple[int, ...]
    reach: int


def run_fits(run: RunShape) -> bool:
    """Whether a run is within the limits."""
    return (
        0 < run.rows <= limits.step_tokens_max
        and 0 <= run.start <= limits.stage_position_max
        and 0 <= run.reach <= limits.stage_position_max
        and all(page >= 0 for page in run.pages)
    )


def is_span(begin: int, end: int) -> bool:
    """Whether layers begin … end - 1 could be some."""
    return 0 <= begin < end <= limits.layers_max


def follows(end: int, route: Sequence[Hop]) -> bool:
    """Whether the stages of a route take up layers from `end` on without a gap."""
    for hop in route:
        if hop.begin != end or not is_span(hop.begin, hop.end):
            return False
        end = hop.end
    return True


def is_hex(text: str, chars: int) -> bool:
    """Whether a text is so many lower-case hex digits."""
    return len(text) == chars and set(text) <= _hex


def as_list(value: object, most: int) -> list[Any]:
    """Read a list; `InvalidInput` for what is none, or longer."""
    if not isinstance(value, list) or len(cast("list[Any]", value)) > most:
        raise InvalidInput(f"expected a list of at most {most}")
    return cast("list[Any]", value)


def as_number(value: object) -> int:
    """Read an integer; `InvalidInput` for what is none."""
    if type(value) is not int:
        raise InvalidInput("expected a number")
    return value


def as_hop(value: object) -> Hop:
    """Read a node and its layers; `InvalidInput` for what is none."""
    given = as_list(value, 3)
    if len(given) != 3 or not isinstance(given[0], str):
        raise InvalidInput("expected a node and its layers")
    return Hop(public_key(given[0]), as_number(given[1]), as_number(given[2]))
