"""The question whether a node has the experts that it says it holds, and its answer (docs/spec/peer.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, cast

from blyan.primitives import limits
from blyan.primitives.digest import digest_bytes
from blyan.primitives.errors import InvalidInput, MalformedMessage
from blyan.primitives.ids import PayloadId, PublicKey, payload_id
from blyan.wire.framing import Message, WireTensor
from blyan.wire.stage_shapes import is_hex

kind: Final = "possession"
nonce_bytes: Final = 16


@dataclass(frozen=True, slots=True)
class Question:
    """Of which experts of a model bytes are to be shown."""

    model: PayloadId
    experts: tuple[int, ...]  # numbers, rising
    nonce: str  # 32 hex digits

    def fields(self) -> dict[str, Any]:
        """As they are sent."""
        return {"model": self.model, "experts": list(self.experts), "nonce": self.nonce}

    def bound(self, asker: PublicKey, answerer: PublicKey) -> bytes:
        """What is hashed before the bytes: nonce ‖ who asks ‖ who answers."""
        return b"".join(map(bytes.fromhex, (self.nonce, asker, answerer)))


def parse_question(fields: Mapping[str, Any]) -> Question:
    """`MalformedMessage` for what is none."""
    experts, nonce = _numbers(fields.get("experts")), fields.get("nonce")
    if not experts:
        raise MalformedMessage(f"possession: expected 1 to {limits.possession_experts_max} rising numbers of experts")
    if not isinstance(nonce, str) or not is_hex(nonce, 2 * nonce_bytes):
        raise MalformedMessage(f"possession: expected a nonce of {2 * nonce_bytes} hex digits")
    try:
        return Question(payload_id(fields.get("model")), tuple(experts), nonce)
    except InvalidInput as reason:
        raise MalformedMessage(f"possession: {reason}") from None


def answer_of(shown: Mapping[int, bytes]) -> Message:
    """The digests of the experts that are here, by number."""
    numbers = sorted(shown)
    data = b"".join(shown[number] for number in numbers)
    return Message({"experts": numbers}, (WireTensor("digests", "U8", (len(numbers), digest_bytes), data),))


def read_answer(question: Question, answer: Message) -> dict[int, bytes]:
    """By number, of those that were asked for; `MalformedMessage` for what is no answer."""
    numbers = _numbers(answer.fields.get("experts"))
    if numbers is None or not set(numbers) <= set(question.experts):
        raise MalformedMessage("possession: expected numbers of those that were asked for, rising")
    tensors = answer.tensors
    if [(each.name, each.dtype, each.shape) for each in tensors] != [("digests", "U8", (len(numbers), digest_bytes))]:
        raise MalformedMessage("possession: expected a digest for each number")
    data = bytes(tensors[0].data)
    return {number: data[at * digest_bytes : (at + 1) * digest_bytes] for at, number in enumerate(numbers)}


def _numbers(value: object) -> list[int] | None:
    """Rising numbers, None for anything else."""
    if not isinstance(value, list) or len(cast("list[Any]", value)) > limits.possession_experts_max:
        return None
    listed = cast("Sequence[Any]", value)
    if any(type(each) is not int or each < 0 for each in listed):
        return None
    numbers = cast("list[int]", value)
    return numbers if all(one < other for one, other in pairwise(numbers)) else None
