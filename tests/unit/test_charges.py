"""What the books are asked for one answer, and what their refusals become."""

import pytest

from blyan.chain.parameters import Price
from blyan.ledger.accounts import Refusal
from blyan.ledger.sql import Outcome
from blyan.ledger.transfers import Hold, Leg, Post, Settle, Void
from blyan.payments.charges import Books, Most, cost_shown, hold, release, rounding, settlement, want_held
from blyan.payments.charges import hold_seconds as seconds
from blyan.payments.prices import Bill, Tariff
from blyan.primitives.errors import InsufficientFunds, Unavailable
from blyan.primitives.ids import EntryId

BOOKS = Books("user:0x1", "income:inference", "rounding")
TARIFF = Tariff("random", Price("USD", 1_500_000, 2_250_000), EntryId("0" * 64))
HOLD = Hold("hold 1", Leg(BOOKS.payer, BOOKS.income, 16), seconds, "random")


def test_the_most_is_held_rounded_up() -> None:
    assert hold("1", BOOKS, TARIFF, Most(3, 5)) == HOLD


def test_nothing_is_held_where_nothing_can_be_charged() -> None:
    assert hold("1", BOOKS, TARIFF, Most(0, 0)) is None
    assert hold("1", BOOKS, Tariff("random", Price("USD", 0, 9), TARIFF.entry), Most(60, 0)) is None


def test_each_request_has_a_key_of_the_answer() -> None:
    cost = Bill(paid=16, income=15)
    assert settlement("1", 7, cost, "random") == Settle("receipt 1", 7, 16, "random")
    assert release("1", 7) == Void("void 1", 7)
    assert rounding("1", BOOKS, cost) == Post("rounding 1", (Leg(BOOKS.income, BOOKS.rounding, 1),))
    assert rounding("1", BOOKS, Bill(15, 15)) is None
    assert cost_shown(cost, "USD") == {"amount": "0.00000016", "asset": "USD"}


def test_a_hold_that_was_taken_is_a_number_zero_included() -> None:
    assert want_held(Outcome("hold 1", 0, 5, "hold"), HOLD, 0, "USD") == 0


def test_too_little_money_says_what_is_missing() -> None:
    refused = Outcome("hold 1", refusal=Refusal("insufficient_funds", "less"))
    with pytest.raises(InsufficientFunds) as caught:
        want_held(refused, HOLD, 15, "USD")
    assert caught.value.detail["missing"] == "0.00000001"


def test_any_other_refusal_is_not_the_callers_fault() -> None:
    refused = Outcome("hold 1", refusal=Refusal("account_closed", "account income:inference: closed"))
    with pytest.raises(Unavailable, match="expected them to hold 16, found: account income:inference: closed"):
        want_held(refused, HOLD, 100, "USD")
