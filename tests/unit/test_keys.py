"""Signatures: one kind per use, one author. Key files: every bit counts, and nobody else may read them."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from blyan.node import keys as key_files
from blyan.primitives import canonical, limits
from blyan.primitives.errors import Denied, IntegrityFault, InvalidInput, NotFound
from blyan.primitives.keys import Key, verify, verify_note

KEY = Key.from_seed(bytes(32))
CHEAP = key_files.Cost(1, limits.key_memory_bytes_min)


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


def entropy(count: int) -> bytes:
    return bytes(range(7, 7 + count))


def never() -> bytes:
    pytest.fail("nobody needs a passphrase here")


def plain(path: Path) -> None:
    key_files.write_key(path, bytes(32))


def encrypted(path: Path) -> None:
    key_files.write_encrypted(path, bytes(32), b"secret", entropy, CHEAP)


def test_a_plain_key_file_gives_its_key(tmp_path: Path) -> None:
    """Owner-only, without a passphrase, and silent about its seed."""
    plain(tmp_path / "node.key")
    found = key_files.read_key(tmp_path / "node.key")
    assert (found.public, found.encrypted, found.key(never).public) == (KEY.public, False, KEY.public)
    assert (tmp_path / "node.key").stat().st_mode & 0o777 == 0o600
    assert bytes(32).hex() not in repr(found)


def test_the_form_of_schema_0_is_read(tmp_path: Path) -> None:
    """64 lower-case hex digits and a line feed."""
    path = tmp_path / "node.key"
    path.write_bytes(bytes(32).hex().encode() + b"\n")
    path.chmod(0o600)
    assert (key_files.read_key(path).public, key_files.read_key(path).schema) == (KEY.public, 0)


def test_an_encrypted_key_file_opens_with_its_passphrase_alone(tmp_path: Path) -> None:
    """Whose it is can be read without; the seed is nowhere in the file."""
    seed, path = bytes(range(32)), tmp_path / "node.key"
    key_files.write_encrypted(path, seed, b"secret", entropy, CHEAP)
    found = key_files.read_key(path)
    assert (found.encrypted, found.public) == (True, Key.from_seed(seed).public)
    assert found.seed(lambda: b"secret") == seed
    assert seed not in path.read_bytes() and seed.hex().encode() not in path.read_bytes()
    for wrong in (b"Secret", b"secret\n", b""):
        with pytest.raises(Denied, match="found another"):
            found.key(lambda wrong=wrong: wrong)


@pytest.mark.parametrize("write", [plain, encrypted])
def test_every_flipped_bit_of_a_key_file_is_found_and_named(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """Without any passphrase, and the message holds nothing of the seed."""
    path = tmp_path / "node.key"
    write(path)
    good = path.read_bytes()
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(IntegrityFault) as found:
            key_files.read_key(path)
        assert found.value.detail["file"] == str(path)
        assert "0" * 8 not in found.value.message.replace(KEY.public, "")


@pytest.mark.parametrize("damage", [b"", b"x" * (limits.key_file_bytes_max + 1), b"{}", b"[1]", b"0" * 64])
def test_what_is_no_key_file_is_named(tmp_path: Path, damage: bytes) -> None:
    """Cut short, too long, another thing."""
    path = tmp_path / "node.key"
    path.write_bytes(damage)
    path.chmod(0o600)
    with pytest.raises(IntegrityFault, match=r"node\.key"):
        key_files.read_key(path)


@pytest.mark.parametrize(("field", "value"), [("memory", 1 << 40), ("passes", 1 << 20), ("memory", 1)])
def test_what_opening_may_cost_is_bounded_before_it_is_paid(tmp_path: Path, field: str, value: int) -> None:
    """A file with a right checksum that asks for a terabyte."""
    path = tmp_path / "node.key"
    encrypted(path)
    said = {**json.loads(path.read_bytes()), field: value}
    del said["check"]
    said["check"] = hashlib.sha256(canonical.encode(said)).hexdigest()
    path.write_bytes(canonical.encode(said))
    with pytest.raises(IntegrityFault, match="cost"):
        key_files.read_key(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    """Group or world, whatever is in it."""
    path = tmp_path / "node.key"
    plain(path)
    path.chmod(mode)
    with pytest.raises(Denied, match="expected mode 0600"):
        key_files.read_key(path)


def test_a_link_in_the_place_of_a_key_is_not_followed(tmp_path: Path) -> None:
    """Nor is one that leads nowhere."""
    plain(tmp_path / "elsewhere")
    (tmp_path / "node.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityFault, match=r"node\.key"):
        key_files.read_key(tmp_path / "node.key")
    with pytest.raises(NotFound, match="found none"):
        key_files.read_key(tmp_path / "none")


@pytest.mark.parametrize("passphrase", [b"", b"x" * (limits.passphrase_bytes_max + 1)])
def test_an_empty_or_endless_passphrase_encrypts_nothing(tmp_path: Path, passphrase: bytes) -> None:
    """And no file is written."""
    with pytest.raises(InvalidInput, match="passphrase"):
        key_files.write_encrypted(tmp_path / "node.key", bytes(32), passphrase, entropy, CHEAP)
    assert list(tmp_path.iterdir()) == []


def test_an_encrypted_file_never_changes_its_form(tmp_path: Path) -> None:
    """Frozen: the same seed, passphrase, salt and nonce give these bytes, so that old files open for ever."""
    encrypted(tmp_path / "node.key")
    assert (
        hashlib.sha256((tmp_path / "node.key").read_bytes()).hexdigest()
        == "15d922f07725e0bbaa9a09f76d5780414961211f0e078224416384dd4a38807f"
    )
