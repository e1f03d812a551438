"""Orders of whole answers and their steps: what goes over comes back, and what does not follow is not taken."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, MalformedMessage
from blyan.primitives.ids import PayloadId
from blyan.wire.framing import Message, WireTensor, decode, encode
from blyan.wire.generation import Bounds, ChunkReader, ChunkWriter, Order, SamplingFields, SentStep, parse_order

BOUNDS = Bounds(50, frozenset({1, 3}), 8, 2)
ORDER = Order(
    PayloadId("ab" * 32),
    (1, 2, 3),
    SamplingFields(0.7, 0.9, 0.05, 0.1, -0.2, 1.1, 20, -(1 << 63), ((4, -100.0), (49, 1.5))),
    tokens_max=6,
    eos=(9, 7),
    top=2,
    drafts=4,
    milliseconds=1234,
    nonce="0f" * 12,
    expected=b"\x01\x80",
)


def over(message: Message) -> Message:
    """As it is after the wire."""
    return decode(b"".join(encode(message)))


def step(token: int, positions: int = 1) -> SentStep:
    experts = tuple((layer, expert, positions) for layer in (1, 3) for expert in (0, 5))
    return SentStep(token, -0.5, ((token, -0.5), (4, -1.25)), experts)


FIRST = [step(11, 3), step(12)]


@given(
    prompt=st.lists(st.integers(0, limits.vocab_max - 1), min_size=1, max_size=20),
    chosen=st.lists(st.integers(0, limits.vocab_max - 1), max_size=5),
    seed=st.integers(-(1 << 63), (1 << 63) - 1),
    temperature=st.floats(0, 2),
    told=st.booleans(),
    routed=st.booleans(),
)
def test_an_order_comes_as_it_was_sent(
    prompt: list[int], chosen: list[int], seed: int, temperature: float, told: bool, routed: bool
) -> None:
    sampling = replace(ORDER.sampling, seed=seed, temperature=temperature)
    order = replace(ORDER, prompt=tuple(prompt), chosen=tuple(chosen), sampling=sampling, told=told, routed=routed)
    assert parse_order(over(Message(order.fields(), order.tensors()))) == order


BAD_FIELDS: dict[str, Any] = {
    "model": ["", "zz" * 32, None, 7],
    "prompt": [0, -1, 4, "3", None, True],
    "tokens_max": [0, -5, limits.generation_tokens_max, 1 << 70, "6", None],
    "eos": [[-1], [limits.vocab_max], [1] * (limits.generation_eos_max + 1), "9", None, [None]],
    "top": [-1, limits.logprobs_max + 1, None],
    "told": [1, None, "yes"],
    "routed": [0, None],
    "drafts": [-1, limits.draft_tokens_max + 1],
    "ms": [0, -1, 10**9, 0.5],
    "nonce": ["", "0f" * 13, None],
    "sampling": [None, [], {}, {"temperature": 1.0}],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, many in BAD_FIELDS.items() for value in many])
def test_an_order_with_a_bad_field_is_none(name: str, value: Any) -> None:
    with pytest.raises(MalformedMessage):
        parse_order(Message({**ORDER.fields(), name: value}, ORDER.tensors()))


@pytest.mark.parametrize("name", sorted(ORDER.fields()))
def test_an_order_without_a_field_is_none(name: str) -> None:
    fields = ORDER.fields()
    del fields[name]
    with pytest.raises(MalformedMessage):
        parse_order(Message(fields, ORDER.tensors()))


@pytest.mark.parametrize(
    "sampling",
    [{"temperature": "1"}, {"temperature": True}, {"seed": 1.5}, {"logit_bias": [[1]]}, {"logit_bias": [[1, 2, 3]]},
     {"logit_bias": 3}, {"logit_bias": [[1, None]]}, {"top_k": None}],
)  # fmt: skip
def test_an_order_with_bad_sampling_is_none(sampling: dict[str, Any]) -> None:
    fields = ORDER.fields()
    with pytest.raises(MalformedMessage):
        parse_order(Message({**fields, "sampling": {**fields["sampling"], **sampling}}, ORDER.tensors()))


def numbers(name: str, values: list[int], dtype: str = "I32") -> WireTensor:
    return WireTensor(name, dtype, (len(values),), np.asarray(values, "<i4" if dtype == "I32" else "u1").tobytes())


@pytest.mark.parametrize(
    "tensors",
    [
        (),
        (numbers("tokens", []),),
        (numbers("tokens", [1, 2, -3]),),
        (numbers("tokens", [1, 2, limits.vocab_max]),),
        (numbers("tokens", [1, 2, 3], "U8"),),
        (numbers("others", [1, 2, 3]),),
        (numbers("tokens", [1, 2, 3]), numbers("more", [1])),
        (numbers("tokens", [1, 2, 3]), numbers("expected", [1])),
        (numbers("tokens", [1, 2, 3]), numbers("expected", [1] * (limits.holdings_bytes_max + 1), "U8")),
        (numbers("tokens", list(range(3 + ORDER.tokens_max))),),
    ],
)
def test_an_order_with_bad_tokens_is_none(tensors: tuple[WireTensor, ...]) -> None:
    with pytest.raises(MalformedMessage):
        parse_order(Message(ORDER.fields(), tensors))


def test_an_order_beyond_the_limits_is_not_made() -> None:
    with pytest.raises(InvalidInput):
        replace(ORDER, prompt=())
    with pytest.raises(InvalidInput):
        replace(ORDER, chosen=(1,) * ORDER.tokens_max)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("routed", [True, False])
def test_steps_come_as_they_were_sent_up_to_the_end(told: bool, routed: bool) -> None:
    order = replace(ORDER, told=told, routed=routed)
    writer, reader = ChunkWriter(order), ChunkReader(order, BOUNDS)
    for many in (FIRST, [step(13)], [step(14), step(7)]):
        found = reader.read(over(writer.chunk(many)))
        assert [each.token for each in found] == [each.token for each in many]
        assert [each.experts for each in found] == [each.experts if routed else () for each in many]
        assert [each.logprob for each in found] == [each.logprob if told else None for each in many]
        assert [each.top for each in found] == [each.top if told else () for each in many]
    assert reader.ended, "by its stop token"


def test_a_chunk_says_by_which_code_and_how_long_others_were_waited_for() -> None:
    """In numbers that can be; one that says nothing is of plain code, which waited for nobody."""
    reader, writer = ChunkReader(ORDER, BOUNDS), ChunkWriter(ORDER)
    reader.read(over(writer.chunk(FIRST, jitted=True, waited_us=1_500)))
    assert (reader.jitted, reader.waited_s) == (True, 0.0015)
    said = writer.chunk([step(13)])
    reader.read(Message({name: said.fields[name] for name in ("at", "digest")}, said.tensors))
    assert (reader.jitted, reader.waited_s) == (False, 0.0)
    for change in ({"jitted": 1}, {"waited_us": -1}, {"waited_us": 0.5}, {"waited_us": 10**12}):
        chunk = ChunkWriter(ORDER).chunk(FIRST)
        with pytest.raises(MalformedMessage):
            ChunkReader(ORDER, BOUNDS).read(Message(chunk.fields | change, chunk.tensors))


def test_an_answer_ends_with_its_last_token() -> None:
    order = replace(ORDER, tokens_max=2)
    reader = ChunkReader(order, BOUNDS)
    reader.read(over(ChunkWriter(order).chunk(FIRST)))
    assert reader.ended


Twist = Callable[[Message], Message]


def other(name: str, values: Any, dtype: str = "<i4") -> Twist:
    """A chunk with one tensor that says something else, and a digest that fits it."""

    def twist(chunk: Message) -> Message:
        array = np.asarray(values, dtype)
        made = WireTensor(name, "I32" if dtype == "<i4" else "F32", array.shape, array.tobytes())
        kept = tuple(made if each.name == name else each for each in chunk.tensors)
        return rebound(Message(chunk.fields, kept))

    return twist


def rebound(chunk: Message) -> Message:
    from blyan.wire.generation import _digest

    return Message({**chunk.fields, "digest": _digest(ORDER.bound(), 0, chunk.tensors)}, chunk.tensors)


ROWS = [list(each) for each in (*FIRST[0].experts, *FIRST[1].experts)]
TWISTS: dict[str, Twist] = {
    "another place": lambda chunk: Message({**chunk.fields, "at": 1}, chunk.tensors),
    "no place": lambda chunk: Message({"digest": chunk.fields["digest"]}, chunk.tensors),
    "no digest": lambda chunk: Message({"at": 0}, chunk.tensors),
    "another's digest": lambda chunk: Message({**chunk.fields, "digest": "0" * 64}, chunk.tensors),
    "another's steps": lambda _chunk: ChunkWriter(replace(ORDER, nonce="11" * 12)).chunk(FIRST),
    "garbled": lambda chunk: Message(chunk.fields, (replace(chunk.tensors[0], data=bytes(8)), *chunk.tensors[1:])),
    "no tokens": lambda chunk: rebound(Message(chunk.fields, chunk.tensors[1:])),
    "too many": lambda _chunk: rebound(Message({"at": 0}, (numbers("tokens", [1] * 65),))),
    "beyond the vocabulary": other("tokens", [11, 50]),
    "below it": other("tokens", [11, -1]),
    "after the end": other("tokens", [7, 11]),
    "not finite": other("logprobs", [np.nan, -1.0], "<f4"),
    "above zero": other("logprobs", [0.5, -1.0], "<f4"),
    "too few numbers": other("logprobs", [-1.0], "<f4"),
    "candidates beyond the vocabulary": other("top", [[1, 50], [1, 2]]),
    "too few candidates": other("top", [[1], [2]]),
    "experts of no layer": other("experts", [[2, *row[1:]] for row in ROWS]),
    "experts that are none": other("experts", [[row[0], 8, row[2]] for row in ROWS]),
    "one expert twice": other("experts", [[row[0], 0, row[2]] for row in ROWS]),
    "too many positions": other("experts", [[*row[:2], 9] for row in ROWS]),
    "none of them": other("experts", np.zeros((0, 3))),
    "not each step's": other("used", [7, 1]),
    "negative counts": other("used", [-1, 9]),
}  # fmt: skip


@pytest.mark.parametrize("twist", TWISTS)
def test_steps_that_do_not_follow_are_not_taken(twist: str) -> None:
    chunk = over(ChunkWriter(ORDER).chunk(FIRST))
    assert len(ChunkReader(ORDER, BOUNDS).read(chunk)) == 2
    with pytest.raises(MalformedMessage):
        ChunkReader(ORDER, BOUNDS).read(TWISTS[twist](chunk))


@given(st.data())
def test_a_chunk_with_any_byte_changed_is_not_taken(data: st.DataObject) -> None:
    """Or is no message at all, or says what it said."""
    raw = bytearray(b"".join(encode(ChunkWriter(ORDER).chunk(FIRST))))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(MalformedMessage):
        found = ChunkReader(ORDER, BOUNDS).read(decode(bytes(raw)))
        assert found == ChunkReader(ORDER, BOUNDS).read(over(ChunkWriter(ORDER).chunk(FIRST)))
