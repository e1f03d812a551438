"""Hidden states on their way through the stages of a pipeline, and the leases of pages there (docs/spec/peer.md).

The lead opens a lease at each stage and then sends numbered calls. Each stage passes its outputs on to the next of the
route, the last to the lead, or draws from them (`stage_draws`). A digest binds what is sent to the whole call, and
numbers leave no gap: what was corrupted, replayed, lost or meant for another stage is not computed with.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np

from blyan.primitives import canonical, limits
from blyan.primitives.digest import hash_stage_call
from blyan.primitives.errors import InvalidInput, MalformedMessage
from blyan.primitives.ids import PayloadId, PublicKey, payload_id, public_key
from blyan.wire.expert_call import Activations
from blyan.wire.framing import Buffer, Message, WireTensor, item_bytes, pack_rows, unpack_rows
from blyan.wire.stage_draws import (
    After,
    Draw,
    draws_tensor,
    not_finite,
    read_after,
    read_draws,
    read_tokens,
    tokens_tensor,
)
from blyan.wire.stage_shapes import (
    Hop,
    RunShape,
    as_hop,
    as_list,
    as_number,
    follows,
    is_hex,
    is_span,
    nonce_chars,
    run_fits,
    session_chars,
)

kind: Final = "stage"
end_kind: Final = "stage_end"
_dtypes: Final = frozenset({"F32", "F16", "BF16"})
Direction: TypeAlias = Literal["call", "end"]
Given: TypeAlias = Literal["hidden", "tokens"]


@dataclass(frozen=True)
class StageCall:
    """Hidden states of some runs for layers begin … end. A value that exists is within the limits."""

    model: PayloadId
    session: str
    number: int  # rises by one with each call of the session
    begin: int
    end: int
    route: tuple[Hop, ...]  # the stages after this one
    lead: PublicKey  # who gets what the last one gives
    runs: tuple[RunShape, ...]
    width: int
    dtype: str
    activations: Activations
    milliseconds: int
    nonce: str
    given: Given = "hidden"  # tokens: the stage embeds
    draws: tuple[Draw | None, ...] = ()  # for each run; empty: the last stage draws nothing, and gives hidden states
    after: After | None = None  # whose tokens it has, if they are not sent along
    taker: PublicKey | None = None  # who is told what was drawn, besides the lead

    def __post_init__(self) -> None:
        fits = (
            is_hex(self.session, session_chars)
            and is_hex(self.nonce, nonce_chars)
            and 0 < self.number <= limits.canonical_integer_max
            and is_span(self.begin, self.end)
            and len(self.route) <= limits.stages_max
            and follows(self.end, self.route)
            and 0 < len(self.runs) <= limits.stage_runs_max
            and all(run_fits(run) for run in self.runs)
            and self.count <= limits.step_tokens_max
            and sum(len(run.pages) for run in self.runs) <= limits.stage_call_pages_max
            and 0 < self.width <= limits.dimension_max
            and self.dtype in _dtypes
            and self.activations in get_args(Activations)
            and 0 < self.milliseconds <= limits.request_seconds_max * 1000
            and self.given in get_args(Given)
            and len(self.draws) in (0, len(self.runs))
            and (self.taker is None or len(self.draws) > 0)
            and (self.after is None or self._goes_on(self.after))
        )
        if not fits:
            raise InvalidInput("stage call: expected session, layers, route, runs and width within the limits")

    def _goes_on(self, after: After) -> bool:
        """Whether all runs are of one token each, of some runs of an earlier call."""
        return (
            self.given == "tokens"
            and 0 < after.number < self.number
            and len(after.runs) == len(self.runs) == self.count
            and all(0 <= run < limits.stage_runs_max for run in after.runs)
        )

    @cached_property
    def count(self) -> int:
        """Positions in all."""
        return sum(run.rows for run in self.runs)

    @property
    def bytes(self) -> int:
        """What its pages take as they are sent."""
        return 4 * sum(len(run.pages) for run in self.runs)

    def onward(self) -> StageCall:
        """The call of the next stage of the route."""
        after = self.route[0]
        given: Given = "hidden"
        return replace(self, begin=after.begin, end=after.end, route=self.route[1:], given=given, after=None)

    def fields(self) -> dict[str, Any]:
        """As it is sent, less its pages."""
        return {
            "model": self.model,
            "session": self.session,
            "number": self.number,
            "layers": [self.begin, self.end],
            "route": [list(hop) for hop in self.route],
            "lead": self.lead,
            "runs": [[run.rows, run.start, len(run.pages), run.reach] for run in self.runs],
            "width": self.width,
            "dtype": self.dtype,
            "activations": self.activations,
            "ms": self.milliseconds,
            "nonce": self.nonce,
            "given": self.given,
            "draws": bool(self.draws),
            "after": [] if self.after is None else self.after.fields(),
            "taker": self.taker or "",
        }


@dataclass(frozen=True, slots=True)
class Passed:
    """What leaves one stage for the next: hidden states or, before the first layer and after the last, tokens."""

    hidden: Buffer  # [count, width], row-major
    chosen: bytes  # u16 LE [moe layers so far, count, top_k]: the experts of each position
    tokens: bytes = b""  # I32 LE [count], or as they were drawn [runs]

    @property
    def size(self) -> int:
        """Bytes of all."""
        return len(self.hidden) + len(self.chosen) + len(self.tokens)


def message_of(call: StageCall, passed: Passed) -> Message:
    """A call as it goes over the wire."""
    pages = np.array([page for run in call.runs for page in run.pages], "<i4").tobytes()
    tensors = (
        _packed(call, passed.hidden) if call.given == "hidden" else tokens_tensor(passed.tokens),
        WireTensor("pages", "I32", (len(pages) // 4,), pages),
        WireTensor("chosen", "U8", (len(passed.chosen),), passed.chosen),
        *((draws_tensor(call.draws),) if call.draws else ()),
    )
    fields = call.fields()
    return Message({**fields, "digest": _digest("call", fields, tensors)}, tensors)


def parse_call(message: Message) -> tuple[StageCall, Passed]:
    """Read a call, whole; `MalformedMessage` for what is none, or was changed on its way."""
    fields, tensors = message.fields, message.tensors
    if [tensor.name for tensor in tensors[1:]] not in (["pages", "chosen"], ["pages", "chosen", "draws"]):
        raise MalformedMessage("stage call: expected the tensors hidden or tokens, pages, chosen, and perhaps draws")
    try:
        call = _call_of(fields, tensors[1], tensors[3:])
    except (KeyError, TypeError, InvalidInput) as reason:
        raise MalformedMessage(f"stage call: {reason}") from None
    _want_digest("call", call.fields(), tensors, fields.get("digest"))
    chosen = _chosen(call, tensors[2])
    if call.given == "tokens":
        return call, Passed(b"", chosen, read_tokens(tensors[0], 0 if call.after else call.count))
    return call, Passed(_unpacked(call, tensors[0]), chosen)


def end_of(call: StageCall, passed: Passed) -> Message:
    """What the last stage tells the lead."""
    first = tokens_tensor(passed.tokens) if call.draws else _packed(call, passed.hidden)
    tensors = (first, WireTensor("chosen", "U8", (len(passed.chosen),), passed.chosen))
    fields = _end_fields(call)
    return Message({**fields, "digest": _digest("end", fields, tensors)}, tensors)


def fault_of(call: StageCall, code: str, message: str, node: str) -> Message:
    """What a stage tells the lead that could not compute, or pass on to a node."""
    return Message({**_end_fields(call), "fault": {"code": code, "message": message, "node": node}}, ())


def end_names(fields: Mapping[str, Any]) -> tuple[str, int]:
    """Session and number of the call that an end is of; `MalformedMessage` for what names none."""
    session, number = fields.get("session"), fields.get("number")
    if not isinstance(session, str) or not is_hex(session, session_chars) or type(number) is not int:
        raise MalformedMessage("stage end: expected session and number")
    return session, number


def read_end(call: StageCall, message: Message) -> Passed:
    """What the last stage gave; `MalformedMessage` unless it is the end of this very call, whole."""
    tensors = message.tensors
    if [tensor.name for tensor in tensors] != ["tokens" if call.draws else "hidden", "chosen"]:
        raise MalformedMessage("stage end: expected the tensors hidden, or tokens that were drawn, and chosen")
    _want_digest("end", _end_fields(call), tensors, message.fields.get("digest"))
    if call.draws:
        return Passed(b"", _chosen(call, tensors[1]), read_tokens(tensors[0], len(call.runs), not_finite))
    return Passed(_unpacked(call, tensors[0]), _chosen(call, tensors[1]))


def _end_fields(call: StageCall) -> dict[str, Any]:
    return {"session": call.session, "number": call.number, "nonce": call.nonce}


def _call_of(fields: Mapping[str, Any], pages: WireTensor, draws: Sequence[WireTensor]) -> StageCall:
    layers = [as_number(each) for each in as_list(fields["layers"], 2)]
    if len(layers) != 2:
        raise InvalidInput("expected where its layers begin and end")
    begin, end = layers
    shapes = as_list(fields["runs"], limits.stage_runs_max)
    route = as_list(fields["route"], limits.stages_max)
    if pages.dtype != "I32" or len(pages.shape) != 1 or pages.shape[0] > limits.stage_call_pages_max:
        raise InvalidInput("expected pages as a row of I32")
    numbers: list[int] = np.frombuffer(pages.data, "<i4").tolist()
    counts = [[as_number(each) for each in as_list(shape, 4)] for shape in shapes]
    if any(len(each) != 4 or not 0 <= each[2] <= len(numbers) for each in counts):
        raise InvalidInput("expected four numbers of each run")
    ends = list(accumulate(each[2] for each in counts))
    if not ends or ends[-1] != len(numbers):
        raise InvalidInput(f"expected {ends[-1] if ends else 0} pages, found {len(numbers)}")
    runs = tuple(
        RunShape(rows, start, tuple(numbers[end - held : end]), reach)
        for (rows, start, held, reach), end in zip(counts, ends, strict=True)
    )
    if bool(draws) is not fields["draws"]:
        raise InvalidInput("expected how to draw where it says so")
    after = as_list(fields["after"], 1 + limits.stage_runs_max)
    return StageCall(
        payload_id(fields["model"]),
        str(fields["session"]),
        as_number(fields["number"]),
        begin,
        end,
        tuple(as_hop(each) for each in route),
        public_key(fields["lead"]),
        runs,
        as_number(fields["width"]),
        str(fields["dtype"]),
        fields["activations"],
        as_number(fields["ms"]),
        str(fields["nonce"]),
        fields["given"],
        read_draws(draws[0], len(runs)) if draws else (),
        read_after(after),
        public_key(fields["taker"]) if fields["taker"] else None,
    )


def _packed(call: StageCall, data: Buffer) -> WireTensor:
    tensor = WireTensor("hidden", call.dtype, (call.count, call.width), data)
    rows = pack_rows(tensor) if call.activations == "int8" else None
    return tensor if rows is None else WireTensor("hidden", "U8", (len(rows),), rows)


def _unpacked(call: StageCall, tensor: WireTensor) -> Buffer:
    if tensor.name != "hidden":
        raise MalformedMessage("stage call: expected the tensor hidden, found none")
    if tensor.dtype == "U8" and call.activations == "int8" and len(tensor.shape) == 1:
        return unpack_rows("hidden", call.dtype, call.count, call.width, tensor.data)
    if tensor.dtype != call.dtype or tensor.shape != (call.count, call.width):
        expected = f"{call.dtype} [{call.count}, {call.width}]"
        raise MalformedMessage(f"stage call: expected {expected}, found {tensor.dtype} {list(tensor.shape)}")
    return tensor.data


def _chosen(call: StageCall, tensor: WireTensor) -> bytes:
    if tensor.dtype != "U8" or len(tensor.shape) != 1 or tensor.shape[0] % (2 * call.count):
        raise MalformedMessage("stage call: expected chosen experts of each position as U8")
    return bytes(tensor.data)


def _digest(which: Direction, fields: Mapping[str, Any], tensors: Sequence[WireTensor]) -> str:
    beside = b"".join(bytes(tensor.data) for tensor in tensors[1:])
    return hash_stage_call(which.encode() + b"\0" + canonical.encode(fields) + beside, tensors[0].data)


def _want_digest(which: Direction, fields: Mapping[str, Any], tensors: Sequence[WireTensor], said: object) -> None:
    expected = _digest(which, fields, tensors)
    if not isinstance(said, str) or not hmac.compare_digest(said.encode(), expected.encode()):
        raise MalformedMessage(f"stage {which}: expected the digest {expected[:16]}…, found {str(said)[:16]!r}")


def data_bytes(call: StageCall) -> int:
    """Bytes of its hidden states, before they are packed."""
    return call.count * call.width * item_bytes[call.dtype]
