"""Sign-ins under way: a message was given out, its signature has not come yet.

The nonce is good once, for five minutes, for the browser that asked (its cookie), and for exactly the message that it
was given in. Whoever takes it has it alone: stores take atomically, before any signature is looked at.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Protocol

from blyan.primitives.clock import Entropy

_nonce_bytes: Final = 16


@dataclass(frozen=True, slots=True)
class SignIn:
    """What is remembered of a message that was given out."""

    nonce: str  # 32 hex digits
    message: str  # SHA-256 of its text, 64 hex digits
    browser: str  # digest of the secret in the cookie of who asked
    expires_at: int  # Unix seconds


class SignIns(Protocol):
    """Where sign-ins under way are kept. Every method may raise `Unavailable`."""

    async def put_sign_in(self, sign_in: SignIn, now: int) -> None:
        """Keep one until it expires; `Overloaded` if too many wait."""
        ...

    async def take_sign_in(self, nonce: str) -> SignIn | None:
        """Take one away, for one caller alone however many ask at once; None if it is not there."""
        ...


def new_nonce(entropy: Entropy) -> str:
    """128 random bits as 32 hex digits, which EIP-4361 takes for a nonce."""
    return entropy(_nonce_bytes).hex()


def message_digest(text: str) -> str:
    """By which a message is recognised, 64 hex digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
