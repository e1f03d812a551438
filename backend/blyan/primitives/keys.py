"""Ed25519 keys through PyNaCl: sign, verify, and the node's key file (0600).

Every signature covers `blyan v1 <kind>` ‖ 0x00 ‖ bytes, so that none serves twice (docs/spec/signatures.md). C2SP
checkpoints are the exception: a signed note's text is itself domain-separated by its origin line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from blyan.primitives.errors import IntegrityFault, InvalidInput
from blyan.primitives.ids import PublicKey, public_key

SignatureKind: TypeAlias = Literal[
    "entry", "joint", "rotation", "receipt", "quote", "summary", "peer-caller", "peer-answerer"
]

seed_bytes = 32


@dataclass(frozen=True, slots=True)
class Key:
    """A signing key. Its repr shows the public half only."""

    public: PublicKey
    _signing: SigningKey = field(repr=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> Key:
        """Make the key of a 32-byte seed."""
        if len(seed) != seed_bytes:
            raise InvalidInput(f"key seed: expected {seed_bytes} bytes, found {len(seed)}")
        signing = SigningKey(seed)
        return cls(PublicKey(bytes(signing.verify_key).hex()), signing)

    def sign(self, kind: SignatureKind, message: bytes) -> bytes:
        """64-byte signature over the domain prefix of `kind` and `message`."""
        return self._signing.sign(_framed(kind, message)).signature

    def sign_note(self, text: bytes) -> bytes:
        """64-byte signature over a C2SP signed note's text, unprefixed as that format requires."""
        return self._signing.sign(text).signature


def verify(author: PublicKey, kind: SignatureKind, message: bytes, signature: bytes) -> None:
    """Raise `IntegrityFault` unless `signature` is `author`'s over `message` for this kind."""
    _verify(author, _framed(kind, message), signature, kind)


def verify_note(author: PublicKey, text: bytes, signature: bytes) -> None:
    """Raise `IntegrityFault` unless `signature` is `author`'s over a signed note's text."""
    _verify(author, text, signature, "note")


def _framed(kind: str, message: bytes) -> bytes:
    return b"blyan v1 " + kind.encode("ascii") + b"\x00" + message


def _verify(author: PublicKey, message: bytes, signature: bytes, kind: str) -> None:
    try:
        VerifyKey(bytes.fromhex(public_key(author))).verify(message, signature)
    except (BadSignatureError, ValueError):
        raise IntegrityFault(f"{kind} signature: expected one by {author}, found one that does not verify") from None
