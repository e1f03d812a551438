"""What the books are asked for one answer: hold the most that it can cost, settle what was delivered. Pure.

Every request has a key made of the answer's id, so that whoever asks twice, before or after a crash, learns what
happened and changes nothing. The settlement's key is the one that the receipt names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blyan.ledger.sql import Outcome
from blyan.ledger.transfers import Hold, Leg, Post, Settle, Void
from blyan.payments.prices import Bill, Tariff, bill, shown_amount
from blyan.primitives import limits
from blyan.primitives.amount import asset, shown
from blyan.primitives.errors import Fault, InsufficientFunds, Unavailable

# An answer is over, or is ended, some time before its hold is: what was delivered can be settled then.
delivery_seconds_max: Final = int(limits.request_seconds_max) + 180
hold_seconds: Final = delivery_seconds_max + 120


@dataclass(frozen=True, slots=True)
class Books:
    """The accounts of the books that a charge touches."""

    payer: str
    income: str
    rounding: str


@dataclass(frozen=True, slots=True)
class Most:
    """Tokens that an answer can come to at most."""

    prompt_tokens: int
    completion_tokens: int


def hold(identity: str, books: Books, tariff: Tariff, most: Most) -> Hold | None:
    """The promise of the most that the answer can cost; None where that is nothing."""
    amount = bill(tariff.price, most.prompt_tokens, most.completion_tokens).paid
    if not amount:
        return None
    return Hold(f"hold {identity}", Leg(books.payer, books.income, amount), hold_seconds, tariff.model)


def settlement(identity: str, record: int, cost: Bill, model: str) -> Settle:
    """What was delivered is paid, the rest of the hold is released."""
    return Settle(f"receipt {identity}", record, cost.paid, model)


def rounding(identity: str, books: Books, cost: Bill) -> Post | None:
    """What the payer paid above the income, out of the income; None where it came out even."""
    if not cost.rounding:
        return None
    return Post(f"rounding {identity}", (Leg(books.income, books.rounding, cost.rounding),))


def release(identity: str, record: int) -> Void:
    """Nothing was delivered."""
    return Void(f"void {identity}", record)


def want_held(outcome: Outcome, request: Hold, available: int, code: str) -> int:
    """The number of the hold's record; `InsufficientFunds` says what is missing, `Unavailable` for other refusals."""
    if outcome.number is not None:
        return outcome.number
    assert outcome.refusal is not None, "either taken or refused"
    if outcome.refusal.code != "insufficient_funds":
        raise Unavailable(f"books: expected them to hold {request.leg.amount}, found: {outcome.refusal.message}")
    raise insufficient(request.leg.amount, available, code)


def insufficient(wanted: int, available: int, code: str) -> Fault:
    """What is missing for an answer that may cost `wanted`."""
    scale = asset(code).scale
    missing = wanted - available
    return InsufficientFunds(
        f"balance: expected {shown(wanted, scale)} {code}, the most that this answer can cost, found "
        f"{shown(available, scale)} {code} available; {shown(missing, scale)} {code} are missing",
        detail={
            "asset": code,
            "required": shown(wanted, scale),
            "available": shown(available, scale),
            "missing": shown(missing, scale),
        },
        hint="ask for fewer tokens (max_tokens), or top the account up",
    )


def cost_shown(cost: Bill, code: str) -> dict[str, str]:
    """`usage.cost`."""
    return shown_amount(cost.paid, code)
