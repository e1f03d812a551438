"""Checkpoints: a signed promise about the first `size` entries of one chain.

C2SP tlog-checkpoint inside a C2SP signed note with one Ed25519 signature: https://c2sp.org/tlog-checkpoint,
https://c2sp.org/signed-note. Any transparency-log witness reads them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from blyan.primitives import limits
from blyan.primitives.errors import IntegrityFault, InvalidInput
from blyan.primitives.ids import Digest, PublicKey
from blyan.primitives.keys import Key, verify_note

_algorithm_ed25519 = b"\x01"
_decimal = re.compile(r"0|[1-9]\d{0,12}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`root` is the RFC 6962 tree hash over the first `size` entries of the log named `origin`."""

    origin: str
    size: int
    root: Digest

    def text(self) -> bytes:
        """The note's text, which the signature covers."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode('ascii')}\n".encode("ascii")


def origin_of(network: str, chain: str) -> str:
    """The origin line, and the name of the key that signs it."""
    return f"blyan/{network}/{chain}"


def sign_checkpoint(checkpoint: Checkpoint, key: Key) -> bytes:
    """The signed note as a file."""
    blob = _key_id(checkpoint.origin, key.public) + key.sign_note(checkpoint.text())
    return checkpoint.text() + f"\n— {checkpoint.origin} {base64.b64encode(blob).decode('ascii')}\n".encode()


def parse_checkpoint(raw: bytes, origin: str, author: PublicKey) -> Checkpoint:
    """Read a signed checkpoint; `IntegrityFault` unless `author` signed it for `origin`."""
    try:
        return _parse(raw, origin, author)
    except (InvalidInput, UnicodeDecodeError, binascii.Error) as reason:
        raise IntegrityFault(f"checkpoint of {origin}: {reason}") from None


def _parse(raw: bytes, origin: str, author: PublicKey) -> Checkpoint:
    if len(raw) > limits.checkpoint_bytes_max:
        raise InvalidInput(f"expected at most {limits.checkpoint_bytes_max} bytes, found {len(raw)}")
    text, separator, signatures = raw.decode("utf-8").partition("\n\n")
    lines = text.split("\n")
    if not separator or len(lines) != 3 or lines[0] != origin or not _decimal.fullmatch(lines[1]):
        raise InvalidInput(f"expected three lines: {origin}, size, root; found {text[:120]!r}")
    root = base64.b64decode(lines[2], validate=True)
    if len(root) != 32 or base64.b64encode(root).decode("ascii") != lines[2]:
        raise InvalidInput(f"expected a root of 32 bytes, found {lines[2][:60]!r}")
    checkpoint = Checkpoint(origin, int(lines[1]), Digest(root))
    if checkpoint.size > limits.chain_size_max:
        raise InvalidInput(f"expected at most {limits.chain_size_max} entries, found {checkpoint.size}")
    wanted = (origin, _key_id(origin, author))
    lines = signatures.split("\n")
    if lines.pop() != "":
        raise InvalidInput("expected a line feed at the end, found none")
    # every line is read before one is believed: witnesses may add theirs, nobody may add anything else
    signed = {(name, blob[:4]): blob[4:] for name, blob in map(_parse_signature, lines)}
    if wanted not in signed:
        raise InvalidInput(f"expected a signature by {author}, found none")
    verify_note(author, checkpoint.text(), signed[wanted])
    return checkpoint


def _parse_signature(line: str) -> tuple[str, bytes]:
    match = re.fullmatch(r"— (\S+) ([A-Za-z0-9+/=]+)", line)
    blob = base64.b64decode(match[2], validate=True) if match else b""
    if match is None or len(blob) < 5 or base64.b64encode(blob).decode("ascii") != match[2]:
        raise InvalidInput(f"expected signature lines, found {line[:120]!r}")
    return match[1], blob


def _key_id(name: str, author: PublicKey) -> bytes:
    hashed = hashlib.sha256(name.encode() + b"\n" + _algorithm_ed25519 + bytes.fromhex(author))
    return hashed.digest()[:4]
