"""An account: what it has, what holds promise away from it and to it, and the limits within which all of that stays.

Pure. A balance is credits less debits. What holds promise away counts as spent and what they promise to it as
received (I4), so that settling or releasing a hold can never break a limit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from blyan.primitives import limits
from blyan.primitives.amount import asset as asset_of
from blyan.primitives.errors import InvalidInput

name_pattern: Final = re.compile(r"[a-z0-9][a-z0-9:._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the books did not take a request; `code` is stable, the sentence is for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Terms:
    """What an account is opened with and keeps: amounts in the asset's smallest units, both limits included."""

    name: str
    asset: str
    floor: int = 0
    ceiling: int = limits.amount_max

    def __post_init__(self) -> None:
        account_name(self.name, "account")
        asset_of(self.asset)
        for what, value in (("floor", self.floor), ("ceiling", self.ceiling)):
            if type(value) is not int or abs(value) > limits.amount_max:
                raise InvalidInput(f"{what}: expected within ±{limits.amount_max}, found {value!r}")
        if not self.floor <= 0 <= self.ceiling:
            raise InvalidInput(f"limits: expected floor ≤ 0 ≤ ceiling, found {self.floor} and {self.ceiling}")


@dataclass(frozen=True, slots=True)
class Account:
    """One account after `version` entries; `number` is that of the record which opened it."""

    number: int
    terms: Terms
    closed: bool = False
    version: int = 0
    balance: int = 0
    held_out: int = 0  # promised away
    held_in: int = 0  # promised to it

    @property
    def available(self) -> int:
        """What can be spent now."""
        return self.balance - self.held_out - self.terms.floor


def account_name(text: str, what: str) -> str:
    """`text`, if it names an account; `InvalidInput` names `what`."""
    if type(text) is not str or name_pattern.fullmatch(text) is None:
        raise InvalidInput(f"{what}: expected {name_pattern.pattern}, found {str(text)[:80]!r}")
    return text


def changed(account: Account, amount: int, held_out: int, held_in: int) -> Account | Refusal:
    """The account one version later, each value changed by so much; a refusal where a limit would break (I4, I8)."""
    after = Account(
        account.number,
        account.terms,
        account.closed,
        account.version + 1,
        account.balance + amount,
        account.held_out + held_out,
        account.held_in + held_in,
    )
    terms = account.terms
    if account.closed:
        return Refusal("account_closed", f"account {terms.name}: expected it open, found it closed")
    if abs(after.balance) > limits.amount_max or max(after.held_out, after.held_in) > limits.amount_max:
        return Refusal("amount_overflow", f"account {terms.name}: expected sums within ±{limits.amount_max}")
    if after.balance - after.held_out < terms.floor:
        return Refusal(
            "insufficient_funds",
            f"account {terms.name}: expected {max(-amount, held_out)} available, found {account.available}",
        )
    if after.balance + after.held_in > terms.ceiling:
        room = terms.ceiling - account.balance - account.held_in
        return Refusal("over_ceiling", f"account {terms.name}: expected room for {max(amount, held_in)}, found {room}")
    return after
