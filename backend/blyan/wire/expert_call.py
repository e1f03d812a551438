"""One batch of expert calls of one layer as a message, and its answer (docs/spec/peer.md).

The answer carries a digest over the whole call, which has a nonce, and over its own bytes: what was corrupted, late, or
meant for another call is not taken.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, cast, get_args

import orjson

from blyan.primitives import limits
from blyan.primitives.digest import hash_expert_answer
from blyan.primitives.errors import InvalidInput, MalformedMessage
from blyan.primitives.ids import PayloadId, payload_id
from blyan.wire.framing import Buffer, Message, WireTensor, item_bytes, pack_rows, unpack_rows

Activations: TypeAlias = Literal["exact", "int8"]

kind: Final = "experts"
nonce_bytes: Final = 12
_tensor: Final = "hidden"
_activations: Final = get_args(Activations)
_dtypes: Final = frozenset({"F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True)
class ExpertBatch:
    """Rows for some experts of one layer, one expert after the other. A value that exists is within the limits."""

    model: PayloadId  # of the manifest
    layer: int
    experts: tuple[int, ...]
    rows: tuple[int, ...]  # for each of them
    width: int  # of a row: the model's hidden size
    dtype: str
    activations: Activations
    milliseconds: int  # from its arrival: whoever answers later answers nobody
    nonce: str
    encoded: bytes = field(init=False, repr=False, compare=False)  # what answers are bound to, beside the rows

    def __post_init__(self) -> None:
        fits = (
            0 <= self.layer < limits.layers_max
            and 0 < len(self.experts) == len(self.rows) <= limits.expert_calls_max
            and 0 <= min(self.experts) <= max(self.experts) < limits.experts_max
            and min(self.rows) > 0
            and sum(self.rows) <= limits.expert_rows_max
            and 0 < self.width <= limits.dimension_max
            and self.dtype in _dtypes
            and self.activations in _activations
            and 0 < self.milliseconds <= limits.request_seconds_max * 1000
            and len(self.nonce) == 2 * nonce_bytes
            and self.nonce.isascii()
        )
        if not fits:
            raise InvalidInput("expert call: expected layer, experts, rows, width and time within the limits")
        # the canonical encoding: all that it would be refused for was looked at, and this is done for every call
        object.__setattr__(self, "encoded", orjson.dumps(self.fields(), option=orjson.OPT_SORT_KEYS))

    @property
    def count(self) -> int:
        """Rows in all."""
        return sum(self.rows)

    @property
    def data_bytes(self) -> int:
        """Bytes of its rows, before they are packed."""
        return self.count * self.width * item_bytes[self.dtype]

    def fields(self) -> dict[str, Any]:
        """As it is sent."""
        return {
            "model": self.model,
            "layer": self.layer,
            "experts": list(self.experts),
            "rows": list(self.rows),
            "width": self.width,
            "dtype": self.dtype,
            "activations": self.activations,
            "ms": self.milliseconds,
            "nonce": self.nonce,
        }


def packed(batch: ExpertBatch, data: Buffer) -> WireTensor:
    """Rows [count, width] as they go over the wire; rows that are not finite go as they are."""
    tensor = WireTensor(_tensor, batch.dtype, (batch.count, batch.width), data)
    rows = pack_rows(tensor) if batch.activations == "int8" else None
    return tensor if rows is None else WireTensor(_tensor, "U8", (len(rows),), rows)


def unpacked(batch: ExpertBatch, tensors: Sequence[WireTensor]) -> Buffer:
    """The bytes of rows [count, width]; `MalformedMessage` if that is not what came."""
    if len(tensors) != 1 or tensors[0].name != _tensor:
        raise MalformedMessage(f"expert call: expected one tensor {_tensor}, found {len(tensors)}")
    tensor = tensors[0]
    if tensor.dtype == "U8" and batch.activations == "int8" and len(tensor.shape) == 1:
        return unpack_rows(_tensor, batch.dtype, batch.count, batch.width, tensor.data)
    if tensor.dtype != batch.dtype or tensor.shape != (batch.count, batch.width):
        expected = f"{batch.dtype} [{batch.count}, {batch.width}]"
        raise MalformedMessage(f"expert call: expected {expected}, found {tensor.dtype} {list(tensor.shape)}")
    return tensor.data


def parse_batch(fields: Mapping[str, Any]) -> ExpertBatch:
    """Read a call; `MalformedMessage` for what is none."""
    try:
        return ExpertBatch(
            payload_id(fields["model"]),
            _number(fields["layer"]),
            _numbers(fields["experts"]),
            _numbers(fields["rows"]),
            _number(fields["width"]),
            str(fields["dtype"]),
            fields["activations"],
            _number(fields["ms"]),
            str(fields["nonce"]),
        )
    except (KeyError, InvalidInput) as reason:
        raise MalformedMessage(f"expert call: {reason}") from None


def answer_of(batch: ExpertBatch, call: WireTensor, data: Buffer) -> Message:
    """The answer to a call, of rows [count, width]."""
    rows = packed(batch, data)
    return Message({"digest": digest_of(batch, call, rows)}, (rows,))


def read_answer(batch: ExpertBatch, call: WireTensor, answer: Message) -> Buffer:
    """The rows of an answer; `MalformedMessage` unless it is the answer to this very call, whole."""
    data = unpacked(batch, answer.tensors)
    said, expected = answer.fields.get("digest"), digest_of(batch, call, answer.tensors[0])
    if not isinstance(said, str) or not hmac.compare_digest(said.encode(), expected.encode()):
        raise MalformedMessage(f"expert answer: expected the digest {expected[:16]}…, found {str(said)[:16]!r}")
    return data


def digest_of(batch: ExpertBatch, call: WireTensor, answer: WireTensor) -> str:
    """What binds an answer to its call."""
    return hash_expert_answer(batch.encoded + bytes(call.data), answer.data)


def _number(value: object) -> int:
    if type(value) is not int:
        raise InvalidInput("expected a number")
    return value


def _numbers(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(cast("list[object]", value)) > limits.expert_calls_max:
        raise InvalidInput("expected a list of numbers")
    return tuple(_number(each) for each in cast("list[object]", value))
