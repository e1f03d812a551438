"""Which nodes this one may ask: an address and the key that must have signed what they promise, by configuration."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from blyan.primitives.errors import InvalidInput
from blyan.primitives.ids import PublicKey, public_key


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node: where it answers, and the sequencer of the chains that it serves."""

    url: str  # http://HOST:PORT, without a path
    sequencer: PublicKey


def parse_peer(text: str, what: str = "models.peers") -> Peer:
    """`http://HOST:PORT#SEQUENCER`, the key in 64 hex digits; `InvalidInput` says what it is instead."""
    expected = f"{what}: expected http://HOST:PORT#KEY with a key of 64 hex digits, found {text[:200]!r}"
    try:
        parts = urlsplit(text)
        port_is_one = parts.port is None or parts.port > 0
        key = public_key(parts.fragment)
    except (ValueError, InvalidInput):
        raise InvalidInput(expected, hint="the peer's `blyan chain status` names its sequencer") from None
    fine = parts.scheme in ("http", "https") and parts.hostname and port_is_one and "@" not in parts.netloc
    if not fine or parts.path not in ("", "/") or parts.query:
        raise InvalidInput(expected, hint="the peer's `blyan chain status` names its sequencer")
    return Peer(f"{parts.scheme}://{parts.netloc}", key)
