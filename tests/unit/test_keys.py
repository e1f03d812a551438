"""Signatures: one kind per use, one author."""

import pytest

from blyan.primitives.errors import IntegrityFault, InvalidInput
from blyan.primitives.keys import Key, verify, verify_note

KEY = Key.from_seed(bytes(32))


def test_signature_of_a_known_message_never_changes() -> None:
    """Frozen vector: Ed25519 over the domain prefix and the bytes."""
    assert KEY.public == "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
    assert KEY.sign("entry", b"x").hex().startswith("80433a7617de8132c147a7e62ae47cf7")


def test_a_signature_serves_for_its_kind_alone() -> None:
    """An entry's signature is no note's."""
    signature = KEY.sign("entry", b"text")
    verify(KEY.public, "entry", b"text", signature)
    with pytest.raises(IntegrityFault):
        verify_note(KEY.public, b"text", signature)


@pytest.mark.parametrize("change", ["message", "signature", "author", "length"])
def test_anything_else_does_not_verify(change: str) -> None:
    """Another message, another signature, another author, a short signature."""
    signature = KEY.sign("entry", b"text")
    author = Key.from_seed(bytes([1] * 32)).public if change == "author" else KEY.public
    forged = {"signature": bytes([signature[0] ^ 1]) + signature[1:], "length": signature[:-1]}.get(change, signature)
    with pytest.raises(IntegrityFault):
        verify(author, "entry", b"texT" if change == "message" else b"text", forged)


def test_a_small_order_public_key_verifies_nothing() -> None:
    """The identity point as key would accept a signature of zeros over any message in lax libraries."""
    with pytest.raises(IntegrityFault):
        verify("01" + "00" * 31, "entry", b"any", bytes([1] + [0] * 63))  # pyright: ignore[reportArgumentType]


def test_a_key_does_not_print_its_secret() -> None:
    """The repr shows the public half."""
    assert "SigningKey" not in repr(KEY) and KEY.public in repr(KEY)


def test_a_seed_of_another_length_is_refused() -> None:
    """32 bytes, no more and no less."""
    with pytest.raises(InvalidInput, match="expected 32 bytes, found 31"):
        Key.from_seed(bytes(31))
