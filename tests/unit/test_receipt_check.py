"""What a receipt file shows, check by check: damage and lies fail the check that is named after them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from blyan.chain.entries import ModelBody, ParameterBody, PayloadReference, RetirementBody
from blyan.chain.excerpt import Excerpt
from blyan.chain.joint import Head, JointCheckpoint
from blyan.inference.receipt import Choice, make, output_bytes
from blyan.inference.receipt_check import CheckName, Known, Report, check_receipt, sentences
from blyan.inference.receipt_file import ReceiptFile, parse_file
from blyan.ledger import seal
from blyan.ledger.transfers import Leg, Post
from blyan.primitives.errors import InvalidInput, NotFound
from blyan.primitives.ids import Digest, EntryId, PayloadId
from receipts import (
    ACCOUNT,
    CHOICES,
    ID,
    KEY,
    MANIFEST,
    NEXT,
    PRICE,
    REQUEST,
    SALT,
    TIME,
    Network,
    free,
    network,
    now,
    paid,
    receipt,
)

ALL = Known(REQUEST, output_bytes(CHOICES), SALT, KEY.public)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Network, ReceiptFile]]:
    found = paid(tmp_path_factory.mktemp("receipt"))
    yield found
    found[0].store.close()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Network]:
    found = network(tmp_path)
    yield found
    found.store.close()


def failed(file: ReceiptFile | bytes, known: Known = ALL) -> list[CheckName]:
    report = check_receipt(file if isinstance(file, bytes) else file.encode(), known)
    return [each.name for each in report.failed]


def not_made(report: Report) -> list[CheckName]:
    return [each.name for each in report.not_made]


def signed_by_gateway(file: ReceiptFile, **changes: object) -> ReceiptFile:
    """The same file with another receipt in it, properly signed."""
    return replace(file, signed=make(replace(file.signed.receipt, **changes), KEY))


def test_everything_holds_of_an_honest_receipt(made: tuple[Network, ReceiptFile]) -> None:
    chain, file = made
    report = check_receipt(file.encode(), replace(ALL, checkpoint=chain.chains.joint.encode()))
    assert [each.name for each in report.checks] == list(sentences)
    assert not report.failed
    assert not_made(report) == []
    assert report.file == parse_file(file.encode()) == file


def test_what_was_not_given_is_not_checked_and_said(made: tuple[Network, ReceiptFile]) -> None:
    report = check_receipt(made[1].encode())
    assert not report.failed
    assert not_made(report) == ["origin", "known", "request", "output"]
    assert KEY.public in next(each.why for each in report.not_made if each.name == "origin")
    half = check_receipt(made[1].encode(), Known(request=REQUEST))
    assert next(each.why for each in half.not_made if each.name == "request") == "no salt was given"


def test_every_byte_that_changes_fails_a_check_that_is_named(made: tuple[Network, ReceiptFile]) -> None:
    raw = made[1].encode()
    seen: set[str] = set()
    for at in range(len(raw)):
        damaged = bytearray(raw)
        damaged[at] ^= 1 << at % 8
        found = failed(bytes(damaged))
        assert found, f"byte {at} of {raw[max(0, at - 40) : at + 40]!r}"
        seen.add(found[0])
    assert seen == {"file", "signature", "record", "amount", "inclusion", "checkpoint", "writer"}


def test_a_file_that_is_cut_or_goes_on_is_none(made: tuple[Network, ReceiptFile]) -> None:
    raw = made[1].encode()
    for bad in (*(raw[:end] for end in range(0, len(raw), 97)), raw + b"\n", raw[:-1] + b',"z":1}', b" " + raw):
        report = check_receipt(bad, ALL)
        assert [each.name for each in report.failed] == ["file"]
        assert not_made(report) == list(sentences)[1:]


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("cost", {"completion_tokens": 31}),
        ("price", {"price": replace(PRICE, prompt_per_million=15_000_001)}),  # rounds to the same charge
        ("price", {"price": replace(PRICE, entry=EntryId("0" * 64))}),
        ("cost", {"charged": 1_979, "price": replace(PRICE, entry=None)}),
        ("cost", {"nodes": ()}),
        ("record", {"id": "f" * 32}),
        ("record", {"record": 6}),
        ("model", {"model": "n"}),
        ("model", {"manifest": PayloadId("ac" * 32)}),
        ("request", {"request": "0" * 64}),
        ("output", {"output": "0" * 64}),
    ],
)
def test_a_gateway_that_signs_something_else_is_found_out(
    made: tuple[Network, ReceiptFile], check: CheckName, changes: dict[str, object]
) -> None:
    file = made[1]
    if "nodes" in changes:
        changes = {"nodes": (replace(file.signed.receipt.nodes[0], completion_tokens=29),)}
    assert check in failed(signed_by_gateway(file, **changes))


def test_a_charge_other_than_the_receipts_is_found_out(fresh: Network) -> None:
    record = fresh.settle(1_981)
    fresh.promise()
    assert failed(fresh.file(receipt(record))) == ["amount"]


def test_a_record_that_is_no_settlement_is_found_out(fresh: Network) -> None:
    [record] = fresh.do(Post(f"receipt {ID}", (Leg(ACCOUNT, "income:inference", 1_980),)))
    fresh.promise()
    assert failed(fresh.file(receipt(record))) == ["record"]


def test_books_that_nobody_promised_are_found_out(made: tuple[Network, ReceiptFile], fresh: Network) -> None:
    record = fresh.settle(1_980)  # the same as in the other books, without what came later
    fresh.promise()
    other = fresh.file(receipt(record))
    assert failed(replace(made[1], proof=other.proof)) == ["promise"]


def test_an_older_checkpoint_without_books_promises_nothing(made: tuple[Network, ReceiptFile], fresh: Network) -> None:
    bare = fresh.file(replace(free(), price=replace(free().price, entry=PRICE.entry)))
    assert failed(replace(made[1], checkpoint=bare.checkpoint)) == ["promise"]


def _resigned(file: ReceiptFile, chain: Network, **changes: object) -> ReceiptFile:
    joint: JointCheckpoint = replace(chain.chains.joint, author=NEXT.public, **changes).signed(NEXT)
    return replace(file, checkpoint=replace(file.checkpoint, joint=joint.encode()))


def test_a_checkpoint_by_a_key_that_the_chain_does_not_name_is_found_out(made: tuple[Network, ReceiptFile]) -> None:
    chain, file = made
    assert failed(_resigned(file, chain)) == ["writer"]
    lying = _resigned(file, chain, ledger_root=Head(7, Digest(bytes(32))))
    assert failed(lying) == ["writer", "promise"]


def test_a_gateway_outside_the_network_is_found_out(made: tuple[Network, ReceiptFile]) -> None:
    said = receipt(made[1].signed.receipt.record, key=NEXT)
    assert failed(replace(made[1], signed=make(said, NEXT))) == ["gateway"]


def test_entries_are_wanted_in_their_places_and_the_genesis_first(made: tuple[Network, ReceiptFile]) -> None:
    file = made[1]
    genesis, model, price = file.checkpoint.meta
    for meta in ((), (model,), (model, genesis), (genesis, genesis), (genesis, replace(model, index=2))):
        assert failed(replace(file, checkpoint=replace(file.checkpoint, meta=meta))) == ["writer"]
    without = replace(file, checkpoint=replace(file.checkpoint, meta=(genesis, price)))
    assert not failed(without)
    assert "model" in not_made(check_receipt(without.encode(), ALL))


def test_a_key_that_was_handed_over_is_followed_and_no_rotation_is_left_out(fresh: Network) -> None:
    record = fresh.settle(1_980)
    old = make(receipt(record), KEY)
    fresh.chains.rotate(KEY, NEXT, now)
    fresh.key = NEXT
    fresh.promise()
    file = fresh.file(receipt(record, key=NEXT))
    assert [each.index for each in file.checkpoint.meta] == [0, 1, 2, 3]
    assert not failed(file)
    assert not failed(replace(file, signed=old))  # signed before it was handed over
    cut = Excerpt(file.checkpoint.joint, file.checkpoint.meta[:3])
    assert failed(replace(file, checkpoint=cut)) == ["writer"]


def test_a_model_that_the_file_does_not_show_is_said_to_be_unchecked(fresh: Network) -> None:
    record = fresh.settle(1_980)
    model = fresh.chains.state.models["m"][0].entry
    fresh.chains.append(RetirementBody("m", "1.0.0"), (model,), None, KEY, now)
    fresh.promise()
    report = check_receipt(fresh.file(receipt(record)).encode(), ALL)  # the price's entry is still shown
    assert not report.failed
    assert not_made(report) == ["model", "known"]


def test_a_price_of_another_model_or_another_parameter_is_found_out(fresh: Network) -> None:
    part = fresh.chains.newest("parameter")
    manifest = PayloadReference(MANIFEST, 4096, "application/vnd.blyan.manifest+json")
    model = fresh.chains.append(ModelBody("n", "1.0.0", "qwen3_moe", 1, part), (part,), manifest, KEY, now)
    other = fresh.chains.append(ParameterBody("price", "n", "USD 15000000 60000000"), (model,), None, KEY, now)
    record = fresh.settle(1_980)
    fresh.promise()
    for entry in (other, fresh.chains.state.models["m"][0].entry):
        said = replace(receipt(record), price=replace(PRICE, entry=entry))
        assert failed(fresh.file(said)) == ["price"]
    report = check_receipt(fresh.file(replace(receipt(record), price=replace(PRICE, entry=None))).encode(), ALL)
    assert report.state("price") == "not made"


def test_another_network_is_not_the_one_that_is_trusted(made: tuple[Network, ReceiptFile]) -> None:
    assert failed(made[1], replace(ALL, origin=NEXT.public)) == ["origin"]


def test_a_checkpoint_from_elsewhere_must_promise_the_same(made: tuple[Network, ReceiptFile]) -> None:
    chain, file = made
    joint = chain.chains.joint
    assert joint.ledger_root is not None

    def with_other(other: JointCheckpoint, key=KEY) -> Report:
        return check_receipt(
            file.encode(), replace(ALL, checkpoint=replace(other, author=key.public).signed(key).encode())
        )

    other_root = Head(joint.ledger_root.size, Digest(bytes(32)))
    assert [each.name for each in with_other(replace(joint, ledger_root=other_root)).failed] == ["known"]
    meta = {**joint.heads, "meta": Head(joint.heads["meta"].size, Digest(bytes(32)))}
    assert [each.name for each in with_other(replace(joint, heads=meta)).failed] == ["known"]
    assert [each.name for each in with_other(replace(joint, network="local-2")).failed] == ["known"]
    larger = Head(joint.ledger_root.size + 1, Digest(bytes(32)))
    assert with_other(replace(joint, ledger_root=larger)).state("known") == "not made"
    assert with_other(joint, NEXT).state("known") == "not made"
    damaged = replace(ALL, checkpoint=joint.encode().replace(b'"height":', b'"height":1'))
    assert failed(file, damaged) == ["known"]


def test_another_request_answer_or_salt_is_found_out(made: tuple[Network, ReceiptFile]) -> None:
    file = made[1]
    assert failed(file, replace(ALL, request=REQUEST + b" ")) == ["request"]
    assert failed(file, replace(ALL, output=output_bytes([Choice("3")]))) == ["output"]
    assert failed(file, replace(ALL, salt=bytes(32))) == ["request", "output"]


def test_what_cost_nothing_has_no_record_and_says_so(fresh: Network) -> None:
    fresh.promise()
    file = fresh.file(free())
    report = check_receipt(file.encode(), ALL)
    assert not report.failed
    assert not_made(report) == ["record", "amount", "inclusion", "promise", "price", "known"]
    with pytest.raises(InvalidInput, match="proof"):
        parse_file(file.encode().replace(b'"charged":"0"', b'"charged":"1"').replace(b'"record":null', b'"record":1'))


def test_a_proof_that_was_taken_out_is_no_receipt(made: tuple[Network, ReceiptFile]) -> None:
    assert failed(replace(made[1], proof=None)) == ["file"]


def test_a_proof_stands_under_the_promised_size_not_under_a_newer_seal(fresh: Network) -> None:
    record = fresh.settle(1_980)
    fresh.promise()
    fresh.do(*(Post(f"more {number}", (Leg(ACCOUNT, "income:inference", 1),)) for number in range(300)))
    with fresh.store.session() as session:
        newest = seal.seal(session, now)
        assert newest is not None and newest.size == 306
        for size in range(record + 1, 307):
            found = seal.inclusion(session, record, size)
            assert found.size == size
        assert seal.inclusion(session, record, 306) == seal.inclusion(session, record)
        with pytest.raises(NotFound):
            seal.inclusion(session, record, record)
    file = fresh.file(receipt(record))
    assert file.proof is not None and file.proof.size == 6
    assert not failed(file)
    assert file.checkpoint.checkpoint().time == TIME
