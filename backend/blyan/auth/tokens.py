"""Secrets that callers carry: made of 256 random bits, shown once, kept as a digest.

A digest without salt or stretching is enough, because nobody guesses 256 random bits; and it can be looked up.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final, Literal, TypeAlias

from blyan.primitives.clock import Entropy

Purpose: TypeAlias = Literal["sign-in", "session", "api-key"]  # a secret of one kind is none of another
_secret_bytes: Final = 32
_secret: Final = re.compile(r"[A-Za-z0-9_-]{43}")


def new_secret(entropy: Entropy) -> str:
    """43 characters of base64url."""
    return base64.urlsafe_b64encode(entropy(_secret_bytes)).decode().rstrip("=")


def is_secret(text: str) -> bool:
    """Whether it has the form of a secret, before anybody looks it up."""
    return _secret.fullmatch(text) is not None


def digest_of(purpose: Purpose, secret: str) -> str:
    """64 hex digits, by which a secret is found again."""
    return hashlib.sha256(f"blyan {purpose}\n{secret}".encode()).hexdigest()
