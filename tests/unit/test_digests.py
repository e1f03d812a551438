"""Digests that bind what comes to what it is about (docs/spec/peer.md)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from blake3 import blake3

from blyan.primitives.digest import Possession, hash_expert_answer, hash_generation_chunk, hash_stage_call


@pytest.mark.parametrize("count", [0, 2_048, 64 * 1024 - 3, 64 * 1024 - 2, 1 << 20])
@pytest.mark.parametrize(
    ("use", "digest"),
    [
        ("expert answer", hash_expert_answer),
        ("generation chunk", hash_generation_chunk),
        ("stage call", hash_stage_call),
    ],
)
def test_one_digest_binds_what_comes_to_what_it_is_about(
    use: str, digest: Callable[[bytes, bytes], str], count: int
) -> None:
    """Small or large; bytes that change sides make another."""
    came = bytes(range(256)) * (count // 256) + bytes(count % 256)
    said = (3).to_bytes(8, "little") + b"abc" + came
    assert digest(b"abc", came) == blake3(said, derive_key_context=f"blyan v1 {use}").hexdigest()
    assert digest(b"ab", b"c" + came) != digest(b"abc", came)


def test_a_question_goes_into_every_chunk_of_what_shows_a_copy() -> None:
    """As the key of the hash. Hashed before the bytes it went into the first of BLAKE3's chunks alone, and digests of
    the rest, a kilobyte in all, answered every later question."""
    question, data = bytes(range(80)), bytes(range(256)) * 20
    hasher = Possession(question)
    hasher.update(data[:3_000])
    hasher.update(data[3_000:])
    key = blake3(question, derive_key_context="blyan v1 possession").digest()
    assert hasher.digest() == blake3(data, key=key).digest()
