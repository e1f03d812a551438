"""Distinct id types, so that a payload id is never passed where an entry id is meant.

All four are 64 lower-case hex digits in text form; parse them at the edge with `parse_digest`.
"""

from __future__ import annotations

import re
from typing import NewType

from blyan.primitives.errors import InvalidInput

Digest = NewType("Digest", bytes)  # 32 bytes, RFC 6962 SHA-256 tree hash
PayloadId = NewType("PayloadId", str)  # 64 hex digits, names a blob (docs/spec/digests.md)
EntryId = NewType("EntryId", str)  # 64 hex digits, RFC 6962 leaf hash of a chain entry
PublicKey = NewType("PublicKey", str)  # 64 hex digits, Ed25519

_hex64 = re.compile(r"[0-9a-f]{64}")


def parse_hex64(text: object, what: str) -> str:
    """Return `text` if it is 64 lower-case hex digits; `InvalidInput` names `what` otherwise."""
    if not isinstance(text, str) or not _hex64.fullmatch(text):
        raise InvalidInput(f"{what}: expected 64 lower-case hex digits, found {str(text)[:80]!r}")
    return text


def payload_id(text: object) -> PayloadId:
    """Parse a payload id from text."""
    return PayloadId(parse_hex64(text, "payload id"))


def entry_id(text: object) -> EntryId:
    """Parse an entry id from text."""
    return EntryId(parse_hex64(text, "entry id"))


def public_key(text: object) -> PublicKey:
    """Parse an Ed25519 public key from text."""
    return PublicKey(parse_hex64(text, "public key"))
