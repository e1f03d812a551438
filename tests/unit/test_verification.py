"""Signatures on every processor: each entry is checked once, and the bad one is named wherever it stands."""

import subprocess

import pytest

from blyan.chain.entries import Entry, ExpertBody, PayloadReference, parse_entry, signed_parts
from blyan.chain.signature_worker import first_bad
from blyan.chain.verification import SignatureCheck
from blyan.primitives.errors import IntegrityFault, Unavailable
from blyan.primitives.ids import EntryId, PayloadId
from blyan.primitives.keys import Key

KEY = Key.from_seed(bytes(range(32)))


def entries(count: int) -> list[bytes]:
    """Signed entries, all different."""
    block = PayloadReference(PayloadId("cd" * 32), 4096, "application/vnd.blyan.tensorblock")
    parents = (EntryId("ee" * 32),)
    made = (Entry("local-1", KEY.public, n, parents, ExpertBody("m", 1, n % 9), block, n) for n in range(count))
    return [each.signed(KEY).encode() for each in made]


GOOD = entries(1_500)


def tampered(raw: bytes) -> bytes:
    """The same entry with another number of its expert, well-formed and not what was signed."""
    return raw.replace(b'"layer":1', b'"layer":2')


def check(raws: list[bytes], workers: int = 2) -> None:
    with SignatureCheck(workers) as signatures:
        for number, raw in enumerate(raws):
            signatures.feed(raw, f"number {number}")


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1_500])
def test_good_signatures_pass(count: int) -> None:
    """Few of them here, many in other processes."""
    check(GOOD[:count])


@pytest.mark.parametrize("bad", [0, 63, 64, 1_023, 1_024, 1_200, 1_499])
def test_a_bad_signature_is_named(bad: int) -> None:
    """Wherever it stands, and whoever checked it."""
    with pytest.raises(IntegrityFault, match=f"at number {bad}$"):
        check([*GOOD[:bad], tampered(GOOD[bad]), *GOOD[bad + 1 :]])


def test_the_parts_are_those_that_were_signed() -> None:
    """Cut out of the received bytes, they are what the entry's own encoding gives."""
    for raw in GOOD[:20]:
        author, message, signature = signed_parts(raw)
        entry = parse_entry(raw)
        assert author == entry.author
        assert signature == entry.signature
        assert first_bad(len(raw).to_bytes(2, "big") + raw) == -1
        entry.verify_signature()
        assert b'"sig"' not in message


def test_a_model_named_like_a_signature_does_not_confuse_the_cut() -> None:
    """Texts that an author chooses stand before `sig`, so the last one is the real one."""
    block = PayloadReference(PayloadId("cd" * 32), 4096, "application/vnd.blyan.tensorblock")
    made = (
        Entry("local-1", KEY.public, 0, (EntryId("ee" * 32),), ExpertBody("sig", 1, 2), block, 5).signed(KEY).encode()
    )
    check([made])


def test_a_worker_that_dies_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither good nor bad: the check did not happen."""
    plain = subprocess.Popen

    def dying(command: list[str], **options: object):
        return plain(["/bin/sh", "-c", "exit 3"], **options)  # pyright: ignore[reportCallIssue, reportArgumentType]

    monkeypatch.setattr(subprocess, "Popen", dying)
    with pytest.raises(Unavailable, match="found it ended with 3"):
        check(GOOD)
