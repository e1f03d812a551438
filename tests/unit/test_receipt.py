"""Receipts as values: what a gateway signs, and what a reader takes."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from blyan.inference import receipt as receipts
from blyan.inference.receipt import Choice, Price, Receipt, ToolCall, Work, digest_of, make, output_bytes, parse
from blyan.primitives.errors import IntegrityFault, InvalidInput
from blyan.primitives.ids import EntryId, PayloadId
from blyan.primitives.keys import Key

KEY = Key.from_seed(bytes(range(32)))
RECEIPT = Receipt(
    id="0123456789abcdef0123456789abcdef",
    gateway=KEY.public,
    model="random",
    manifest=PayloadId("a" * 64),
    request="b" * 64,
    output="c" * 64,
    prompt_tokens=12,
    completion_tokens=30,
    plan="local",
    nodes=(Work(KEY.public, 12, 30),),
    price=Price("USD", 15_000_000, 60_000_000, EntryId("d" * 64)),
    charged=1_980,
    account="user:0x00000000000000000000000000000000000000aa",
    record=7,
    time=1_790_000_000,
)


def test_a_receipt_reads_back_as_it_was_signed() -> None:
    signed = make(RECEIPT, KEY)
    assert signed.receipt == RECEIPT
    assert parse(signed.encode()) == signed
    signed.verify()


def test_a_signature_of_another_gateway_does_not_verify() -> None:
    other = Key.from_seed(bytes(32))
    signed = make(replace(RECEIPT, gateway=other.public), other)
    with pytest.raises(IntegrityFault, match="receipt signature"):
        replace(signed, receipt=RECEIPT).verify()


def test_a_cost_is_multiplied_first_and_rounded_once_up() -> None:
    price = Price("USD", 15_000_000, 60_000_000, None)
    assert price.cost(12, 30) == 1_980
    assert replace(price, prompt_per_million=1).cost(1, 0) == 1
    assert replace(price, prompt_per_million=1, completion_per_million=1).cost(500_000, 500_000) == 1
    assert price.cost(0, 0) == 0


def test_digests_are_of_domain_salt_and_bytes() -> None:
    salt = bytes(range(32))
    assert digest_of("request", salt, b"{}") == hashlib.sha256(b"blyan v1 receipt request\0" + salt + b"{}").hexdigest()
    assert digest_of("output", salt, b"{}") != digest_of("request", salt, b"{}")
    with pytest.raises(InvalidInput, match="salt"):
        digest_of("request", b"short", b"{}")


def test_an_output_is_a_canonical_list_of_choices() -> None:
    call = ToolCall("look", '{"at":"sky"}', "call_1")
    assert output_bytes([Choice("é", "so", (call,)), Choice("")]) == (
        '[{"content":"é","reasoning":"so","tool_calls":[{"arguments":"{\\"at\\":\\"sky\\"}","id":"call_1","name":"look"}]},'
        '{"content":"","reasoning":"","tool_calls":[]}]'.encode()
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "0" * 31),
        ("model", "a b"),
        ("manifest", "g" * 64),
        ("output", ""),
        ("prompt_tokens", -1),
        ("plan", "Local plan"),
        ("nodes", ()),
        ("charged", -1),
        ("charged", 1 << 63),
        ("charged", 0),
        ("account", "user:A"),
        ("record", None),
        ("time", 1 << 53),
    ],
)
def test_a_receipt_that_no_reader_takes_is_not_made(field: str, value: object) -> None:
    with pytest.raises(InvalidInput):
        make(replace(RECEIPT, **{field: value}), KEY)


def test_an_answer_that_cost_nothing_has_a_receipt_without_a_record() -> None:
    free = replace(RECEIPT, price=Price("USD", 0, 0, None), charged=0, record=None)
    assert make(free, KEY).receipt.record is None


def test_a_receipt_is_bounded_and_its_fields_are_known() -> None:
    raw = make(RECEIPT, KEY).encode()
    for bad in (raw + b" ", raw.replace(b'"v":1', b'"v":2'), raw.replace(b'"plan":', b'"plane":'), b"[]", b""):
        with pytest.raises(InvalidInput):
            parse(bad)
    assert receipts.receipt_id("f" * 32) == "f" * 32
