"""What can be asked of the books: requests as values, each with its idempotency key and the hash of what it says.

Pure. A value that exists is valid by itself; whether the books can take it is decided by `ledger/rules`. Legs move one
asset from one account to another, so a transfer is balanced by construction (I2). The key of a request is public, as
is everything in a record: whoever takes keys from strangers puts the stranger's name in front of them.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from blyan.ledger.accounts import Terms, account_name
from blyan.primitives import canonical, limits
from blyan.primitives.amount import positive
from blyan.primitives.errors import InvalidInput

# Neither may need an escape in JSON. Keys that begin with "=" are the ledger's own.
_key: Final = re.compile(r"[A-Za-z0-9][ !#-\[\]-~]{0,199}")
_note: Final = re.compile(r"[ !#-\[\]-~]{0,200}")


@dataclass(frozen=True, slots=True)
class Leg:
    """`amount` smallest units from the account `debit` to the account `credit`, both of one asset."""

    debit: str
    credit: str
    amount: int

    def __post_init__(self) -> None:
        account_name(self.debit, "debit")
        account_name(self.credit, "credit")
        positive(self.amount, "amount")
        if self.debit == self.credit:
            raise InvalidInput(f"leg: expected two accounts, found {self.debit} twice")


@dataclass(frozen=True, slots=True)
class Open:
    """Open an account; to open it again with the same terms changes nothing."""

    terms: Terms

    @property
    def key(self) -> str:
        """The ledger's own."""
        return f"=open {self.terms.name}"


@dataclass(frozen=True, slots=True)
class Close:
    """Close an account that has nothing and promises nothing; it takes nothing from then on (I10)."""

    name: str

    def __post_init__(self) -> None:
        account_name(self.name, "account")

    @property
    def key(self) -> str:
        """The ledger's own."""
        return f"=close {self.name}"


@dataclass(frozen=True, slots=True)
class Post:
    """Move money now: all legs or none, applied in order, with the limits held after each."""

    key: str
    legs: tuple[Leg, ...]
    note: str = ""

    def __post_init__(self) -> None:
        _check_words(self.key, self.note)
        if not 0 < len(self.legs) <= limits.legs_max:
            raise InvalidInput(f"legs: expected 1 to {limits.legs_max}, found {len(self.legs)}")


@dataclass(frozen=True, slots=True)
class Hold:
    """Promise money: it counts as spent until the hold is settled or voided, or `seconds` have passed."""

    key: str
    leg: Leg
    seconds: int
    note: str = ""

    def __post_init__(self) -> None:
        _check_words(self.key, self.note)
        if type(self.seconds) is not int or not 0 < self.seconds <= limits.hold_seconds_max:
            raise InvalidInput(f"seconds: expected 1 to {limits.hold_seconds_max}, found {self.seconds!r}")


@dataclass(frozen=True, slots=True)
class Settle:
    """Move up to what record `hold` promised, and release the rest."""

    key: str
    hold: int
    amount: int
    note: str = ""

    def __post_init__(self) -> None:
        _check_words(self.key, self.note)
        _check_number(self.hold, "hold")
        positive(self.amount, "amount")


@dataclass(frozen=True, slots=True)
class Void:
    """Release all that record `hold` promised."""

    key: str
    hold: int
    note: str = ""

    def __post_init__(self) -> None:
        _check_words(self.key, self.note)
        _check_number(self.hold, "hold")


@dataclass(frozen=True, slots=True)
class Expire:
    """Release what record `hold` promised, because its time is over."""

    hold: int

    def __post_init__(self) -> None:
        _check_number(self.hold, "hold")

    @property
    def key(self) -> str:
        """The ledger's own."""
        return f"=expire {self.hold}"


@dataclass(frozen=True, slots=True)
class Reverse:
    """Move back what a post or settlement moved: the one way to correct it."""

    key: str
    record: int
    note: str = ""

    def __post_init__(self) -> None:
        _check_words(self.key, self.note)
        _check_number(self.record, "record")


Request: TypeAlias = Open | Close | Post | Hold | Settle | Void | Expire | Reverse


def request_hash(request: Request) -> bytes:
    """SHA-256, 32 bytes, over the canonical encoding of what the request says, its key included."""
    return hashlib.sha256(canonical.encode(_value(request))).digest()


def note_of(request: Request) -> str:
    """What the caller wrote to it."""
    return "" if isinstance(request, Open | Close | Expire) else request.note


def accounts_named(request: Request) -> list[str]:
    """The accounts that the request itself names."""
    match request:
        case Open(terms):
            return [terms.name]
        case Close(name):
            return [name]
        case Post():
            return [name for leg in request.legs for name in (leg.debit, leg.credit)]
        case Hold():
            return [request.leg.debit, request.leg.credit]
        case _:
            return []


def record_named(request: Request) -> int | None:
    """The earlier record that the request is about."""
    match request:
        case Settle() | Void() | Expire():
            return request.hold
        case Reverse():
            return request.record
        case _:
            return None


def _value(request: Request) -> list[canonical.Canonical]:
    match request:
        case Open(terms):
            return ["open", terms.name, terms.asset, str(terms.floor), str(terms.ceiling)]
        case Close(name):
            return ["close", name]
        case Post(key, legs, note):
            return ["post", key, [[leg.debit, leg.credit, str(leg.amount)] for leg in legs], note]
        case Hold(key, leg, seconds, note):
            return ["hold", key, leg.debit, leg.credit, str(leg.amount), seconds, note]
        case Settle(key, hold, amount, note):
            return ["settle", key, hold, str(amount), note]
        case Void(key, hold, note):
            return ["void", key, hold, note]
        case Expire(hold):
            return ["expire", hold]
        case Reverse(key, record, note):
            return ["reverse", key, record, note]


def _check_words(key: str, note: str) -> None:
    if type(key) is not str or _key.fullmatch(key) is None:
        raise InvalidInput(f"key: expected 1 to 200 printable ASCII characters, found {str(key)[:80]!r}")
    if type(note) is not str or _note.fullmatch(note) is None:
        raise InvalidInput(f"note: expected at most 200 printable ASCII characters, found {str(note)[:80]!r}")


def _check_number(value: int, what: str) -> None:
    if type(value) is not int or not 0 <= value <= limits.canonical_integer_max:
        raise InvalidInput(f"{what}: expected the number of a record, found {value!r}")
