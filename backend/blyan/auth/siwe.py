"""EIP-4361 in a strict form: the node writes the whole message, and takes back that message alone.

The package `siwe` parses. This wrapper makes every expected value mandatory, refuses what does not come out of its
parts byte for byte again, and checks the signature: first by recovering the key (EIP-191), then, where a caller for
contracts is given, by asking the wallet's contract (`auth/wallet_call`). Messages of others (with resources, another
statement, a later beginning) are refused, although the EIP allows them: nobody here writes any.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NewType, TypeAlias

from blyan.auth.origin import Origin
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, Unauthenticated

Address = NewType("Address", str)  # EIP-55: `0x` and 40 hex digits, the case of which is a checksum

# Asks the contract at an address of a chain whether a signature of these 32 bytes is its own.
ContractCheck: TypeAlias = Callable[[int, Address, bytes, bytes], Awaitable[bool]]

statement: Final = "Sign in to this Blyan node. This sends no transaction and costs nothing."
_hex_address: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_hex_bytes: Final = re.compile(r"0x([0-9a-fA-F]{2})*")
_key_signature_bytes: Final = 65
_lines_max: Final = 16
_versions: Final = frozenset({0, 1, 27, 28})  # of a recoverable signature


@dataclass(frozen=True, slots=True)
class SignInMessage:
    """Everything that a message says; the rest of its text never varies."""

    origin: Origin
    address: Address
    chain_id: int
    nonce: str
    issued_at: int  # Unix seconds
    expires_at: int

    @property
    def text(self) -> str:
        """The message that the wallet signs."""
        return (
            f"{self.origin.authority} wants you to sign in with your Ethereum account:\n"
            f"{self.address}\n\n{statement}\n\n"
            f"URI: {self.origin.text}\nVersion: 1\nChain ID: {self.chain_id}\nNonce: {self.nonce}\n"
            f"Issued At: {_rfc3339(self.issued_at)}\nExpiration Time: {_rfc3339(self.expires_at)}"
        )


def parse_address(text: object, what: str) -> Address:
    """An Ethereum address; in mixed case the case must be its EIP-55 checksum. `InvalidInput` names `what`."""
    if not isinstance(text, str) or not _hex_address.fullmatch(text):
        raise InvalidInput(f"{what}: expected 0x and 40 hex digits, found {str(text)[:80]!r}")
    from eth_utils.address import to_checksum_address  # comes with the extra `accounts`

    right = to_checksum_address(text)
    if text not in (right, text.lower()):
        raise InvalidInput(
            f"{what}: expected {right} by its checksum (EIP-55), found {text}", hint="a digit may be mistyped"
        )
    return Address(right)


def parse_signature(text: object) -> bytes:
    """The bytes of a signature in hex; `InvalidInput` for what is none or longer than any wallet's."""
    if not isinstance(text, str):
        raise InvalidInput(f"signature: expected 0x and hex digits, found {type(text).__name__}")
    if len(text) > 2 + 2 * limits.wallet_signature_bytes_max:
        raise InvalidInput(
            f"signature: expected at most {limits.wallet_signature_bytes_max} bytes, found {len(text)} characters"
        )
    if not _hex_bytes.fullmatch(text):
        raise InvalidInput("signature: expected 0x and an even number of hex digits, found something else")
    return bytes.fromhex(text[2:])


def parse_message(text: str, origin: Origin) -> SignInMessage:
    """What a message says. `Unauthenticated` unless it is one that this node writes, byte for byte.

    Says nothing about whether it was written here, when, and whether anybody signed it.
    """
    if len(text) > limits.sign_in_message_chars_max:
        most = limits.sign_in_message_chars_max
        raise Unauthenticated(f"message: expected at most {most} characters, found {len(text)}")
    parsed = _parsed(text)
    _want("domain", origin.authority, parsed.domain)
    _want("URI", origin.text, parsed.uri)
    _want("version", "1", str(parsed.version))
    _want("statement", statement, parsed.statement)
    for name in ("scheme", "not_before", "request_id", "resources"):
        _want(name.replace("_", " "), None, getattr(parsed, name))
    if parsed.expiration_time is None:
        raise Unauthenticated("expiration time: expected one, found none")
    found = SignInMessage(
        origin,
        Address(parsed.address),
        parsed.chain_id,
        parsed.nonce,
        _seconds("issued at", parsed.issued_at),
        _seconds("expiration time", parsed.expiration_time),
    )
    if found.text != text or parsed.prepare_message() != text:
        raise Unauthenticated("message: expected it as this node wrote it, byte for byte, found it encoded otherwise")
    return found


async def verify(
    message: SignInMessage, signature: bytes, *, nonce: str, now: int, contracts: ContractCheck | None
) -> bool:
    """Whether the signature stands (then True if a contract said so, False if a key did); else `Unauthenticated`.

    The faults of `contracts` pass through: they say that nobody knows, not that the signature is wrong.
    """
    if not message.issued_at <= now + limits.clock_skew_seconds_max:
        raise Unauthenticated(f"message: expected it issued before now, found {_rfc3339(message.issued_at)}")
    if not now < message.expires_at:
        raise Unauthenticated(
            f"message: expected it before {_rfc3339(message.expires_at)}, found it {now - message.expires_at} s late",
            hint="ask for a new one and sign that",
        )
    if _key_signed(message, signature, nonce, now):
        return False
    if contracts is None:
        raise Unauthenticated(
            f"signature: expected one of the key of {message.address}, found another",
            hint="wallets that are contracts need accounts.rpc_urls on this node",
        )
    if not await contracts(message.chain_id, message.address, _hash(message.text), signature):
        raise Unauthenticated(
            f"signature: expected one that {message.address} answers for on chain {message.chain_id}, found another"
        )
    return True


def load() -> None:
    """Import what checks messages, which takes a second: at the start, not in the first person's sign-in."""
    _siwe()


def _key_signed(message: SignInMessage, signature: bytes, nonce: str, now: int) -> bool:
    if len(signature) != _key_signature_bytes or signature[-1] not in _versions:
        return False
    from eth_keys.exceptions import BadSignature
    from eth_utils.exceptions import ValidationError

    siwe = _siwe()
    try:
        _stated(message).verify(
            "0x" + signature.hex(),
            domain=message.origin.authority,
            nonce=nonce,
            timestamp=dt.datetime.fromtimestamp(now, tz=dt.UTC),
        )
    except siwe.NonceMismatch:
        raise Unauthenticated("nonce: expected the one that was given for this message, found another") from None
    except (siwe.InvalidSignature, BadSignature, ValidationError):
        return False
    return True


def _hash(text: str) -> bytes:
    """The 32 bytes that a wallet signs (EIP-191, version 0x45)."""
    from eth_utils.crypto import keccak

    raw = text.encode()
    return keccak(b"\x19Ethereum Signed Message:\n" + str(len(raw)).encode() + raw)


def _parsed(text: str) -> Any:
    siwe = _siwe()
    if text.count("\n") > _lines_max or max(map(len, text.split("\n"))) > limits.origin_chars_max:
        raise Unauthenticated("message: expected few and short lines by EIP-4361, found something else")
    try:
        # not by ABNF: that parser keeps every text it ever saw, some 100 KiB for each, and takes 50 times as long
        return siwe.SiweMessage.from_message(text, abnf=False)
    except (ValueError, AttributeError):  # pydantic's error is a ValueError; a missing part is no attribute
        raise Unauthenticated("message: expected one by EIP-4361, found something else") from None


def _stated(message: SignInMessage) -> Any:
    """The message as siwe has it, without reading its text again."""
    return _siwe().SiweMessage(
        domain=message.origin.authority,
        address=message.address,
        statement=statement,
        uri=message.origin.text,
        version="1",
        chain_id=message.chain_id,
        nonce=message.nonce,
        issued_at=_rfc3339(message.issued_at),
        expiration_time=_rfc3339(message.expires_at),
    )


@functools.cache
def _siwe() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its grammar defines some rules twice
        import siwe  # pyright: ignore[reportMissingTypeStubs]
    return siwe


def _want(name: str, expected: str | None, found: object) -> None:
    if found != expected:
        raise Unauthenticated(f"{name}: expected {expected or 'none'}, found {str(found)[:80]!r}")


def _rfc3339(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(name: str, text: str) -> int:
    try:
        return int(dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC).timestamp())
    except ValueError:
        raise Unauthenticated(f"{name}: expected it as 2026-01-31T12:00:00Z, found {text[:40]!r}") from None
