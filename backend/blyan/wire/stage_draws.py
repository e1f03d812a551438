"""What the last stage of a pipeline is to draw, and what it tells of that (docs/spec/peer.md).

A call may ask that the token after each of its runs is chosen where its scores are. The chosen tokens go to the lead,
and to the first stage too, which may have the call already whose tokens they are: so no way leads over the lead.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from blyan.primitives import canonical, limits
from blyan.primitives.digest import hash_stage_call
from blyan.primitives.errors import InvalidInput, MalformedMessage
from blyan.wire.framing import Message, WireTensor
from blyan.wire.stage_shapes import as_number, is_hex, session_chars

kind: Final = "stage_drawn"
nothing: Final = -1  # in the place of a token: none was asked for
not_finite: Final = -2  # the run's numbers overflowed, so there is no token
_packed: Final = struct.Struct("<3d2q")
_no_draw: Final = -1  # in the place of `top_k`


class Draw(NamedTuple):
    """How the token after a run is chosen (`model/sampling.Sampling`); whoever computes checks the ranges."""

    temperature: float
    top_p: float
    min_p: float
    top_k: int
    seed: int


class After(NamedTuple):
    """Whose tokens a call has: those that an earlier call of the session draws, one for each of its runs."""

    number: int  # of that call
    runs: tuple[int, ...]  # which of its runs each run goes on with

    def fields(self) -> list[int]:
        """As it is sent."""
        return [self.number, *self.runs]


def draws_tensor(draws: Sequence[Draw | None]) -> WireTensor:
    """As they are sent, one for each run of a call."""
    rows = ((*each[:3], each.top_k, each.seed) if each is not None else (0.0, 0.0, 0.0, _no_draw, 0) for each in draws)
    data = b"".join(_packed.pack(*row) for row in rows)
    return WireTensor("draws", "U8", (len(data),), data)


def read_draws(tensor: WireTensor, runs: int) -> tuple[Draw | None, ...]:
    """Those of a call of so many runs; `InvalidInput` for what is none."""
    if (tensor.name, tensor.dtype, tensor.shape) != ("draws", "U8", (runs * _packed.size,)):
        raise InvalidInput(f"expected how to draw for {runs} runs")
    rows = _packed.iter_unpack(tensor.data)
    return tuple(None if row[3] == _no_draw else Draw(*row) for row in rows)


def read_after(value: list[Any]) -> After | None:
    """Of a call's field; `InvalidInput` for what is none."""
    if not value:
        return None
    number, *runs = (as_number(each) for each in value)
    return After(number, tuple(runs))


def tokens_tensor(tokens: bytes) -> WireTensor:
    """I32 LE, as they are sent."""
    return WireTensor("tokens", "I32", (len(tokens) // 4,), tokens)


def read_tokens(tensor: WireTensor, count: int, least: int = 0) -> bytes:
    """So many token ids, none below `least`; `MalformedMessage` for what is none."""
    if (tensor.name, tensor.dtype, tensor.shape) != ("tokens", "I32", (count,)):
        raise MalformedMessage(f"stage call: expected {count} tokens as I32, found {tensor.dtype} {list(tensor.shape)}")
    found = np.frombuffer(tensor.data, "<i4")
    if count and (int(found.min()) < least or int(found.max()) >= limits.vocab_max):
        raise MalformedMessage("stage call: expected token ids, found others")
    return bytes(tensor.data)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What the last stage tells the first: the tokens that a call drew, I32 LE, one for each of its runs."""

    session: str
    number: int
    tokens: bytes

    def message(self) -> Message:
        """As it goes over the wire."""
        fields: dict[str, Any] = {"session": self.session, "number": self.number}
        return Message({**fields, "digest": _digest(fields, self.tokens)}, (tokens_tensor(self.tokens),))


def parse_drawn(message: Message) -> Drawn:
    """Read what was drawn; `MalformedMessage` for what is none, or was changed on its way."""
    session, number, said = (message.fields.get(name) for name in ("session", "number", "digest"))
    fits = isinstance(session, str) and is_hex(session, session_chars) and type(number) is int
    if not fits or len(message.tensors) != 1 or not 0 < len(message.tensors[0].data) <= 4 * limits.stage_runs_max:
        raise MalformedMessage("stage drawn: expected session, number and tokens")
    assert isinstance(session, str) and isinstance(number, int), "looked at"
    (tensor,) = message.tensors
    tokens = read_tokens(tensor, len(tensor.data) // 4, not_finite)
    expected = _digest({"session": session, "number": number}, tokens)
    if not isinstance(said, str) or not hmac.compare_digest(said.encode(), expected.encode()):
        raise MalformedMessage(f"stage drawn: expected the digest {expected[:16]}…, found {str(said)[:16]!r}")
    return Drawn(session, number, tokens)


def _digest(fields: dict[str, Any], tokens: bytes) -> str:
    return hash_stage_call(b"drawn\0" + canonical.encode(fields), tokens)
