"""Prices and quotes: what tokens cost to the smallest unit, and whose price a text is."""

import base64
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blyan.chain.parameters import Parameter, Price, parse_price
from blyan.payments.charges import Books, Most, hold, rounding, settlement
from blyan.payments.prices import Tariff, bill, price_of_texts, shown_price, tariff, tariffs
from blyan.payments.quotes import Quote, honoured, read
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, QuoteExpired
from blyan.primitives.ids import EntryId
from blyan.primitives.keys import Key

KEY, OTHER = Key.from_seed(bytes(range(32))), Key.from_seed(bytes([7] * 32))
ENTRY = EntryId("ab" * 32)
units = st.integers(0, limits.price_units_max)
tokens = st.integers(0, 1 << 21)


@given(units, units, tokens, tokens)
def test_a_bill_is_exact_and_rounded_once(prompt: int, completion: int, read_: int, written: int) -> None:
    """Up for the payer, down for the income, and never apart by more than one unit."""
    exact = Fraction(read_ * prompt + written * completion, 1_000_000)
    found = bill(Price("USD", prompt, completion), read_, written)
    assert found.income <= exact <= found.paid
    assert (found.paid - exact < 1, exact - found.income < 1) == (True, True)
    assert found.rounding == (exact.denominator > 1)


@given(units, units, st.lists(st.tuples(tokens, tokens), min_size=1, max_size=5))
def test_what_is_held_covers_whatever_part_is_delivered(prompt: int, completion: int, parts) -> None:
    """More tokens never cost less, so that no settlement exceeds its hold."""
    price = Price("USD", prompt, completion)
    most = bill(price, max(part[0] for part in parts), max(part[1] for part in parts))
    assert all(bill(price, *part).paid <= most.paid for part in parts)


def test_a_price_is_read_as_decimals_of_its_asset() -> None:
    """To eight digits of USD; what could not be kept is refused with the field's name."""
    price = price_of_texts("USD", "0.15", "0.00000001")
    assert price == Price("USD", 15_000_000, 1) == parse_price(price.encode())
    assert shown_price(price) == {"prompt_per_million": "0.15", "completion_per_million": "0.00000001"}
    for prompt, completion, what in (
        ("0.123456789", "1", "prompt"), ("1", "-1", "completion"), ("1", "", "completion"), ("1e3", "1", "prompt"),
        ("10000001", "1", "prompt"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match=f"price of {what} tokens"):
            price_of_texts("USD", prompt, completion)
    with pytest.raises(InvalidInput, match=r"expected 0 to 10000000 USD for a million, found -1$"):
        price_of_texts("USD", "-1", "0")
    assert price_of_texts("USD", "0", "0").free


def test_the_newest_price_of_a_model_is_its_tariff() -> None:
    """Other parameters and other models are none of its."""
    said = {
        ("price", "m"): Parameter("price", "m", "USD 1 2", ENTRY, 7),
        ("price", "a"): Parameter("price", "a", "USD 3 4", ENTRY, 7),
        ("other", "m"): Parameter("other", "m", "x", ENTRY, 7),
    }
    assert tariff(said, "m") == Tariff("m", Price("USD", 1, 2), ENTRY)
    assert tariff(said, "b") is None
    assert [each.model for each in tariffs(said)] == ["a", "m"]


def test_what_the_books_are_asked_has_keys_of_the_answer() -> None:
    """One hold, one settlement whose key the receipt names, and a rounding only where there is one."""
    books, found = Books("user:a", "income", "rounding"), Tariff("m", Price("USD", 1_500_000, 0), ENTRY)
    asked = hold("1" * 32, books, found, Most(3, 9))
    assert asked is not None
    assert (asked.key, asked.leg.amount) == (f"hold {'1' * 32}", 5)
    cost = bill(found.price, 3, 0)
    assert settlement("1" * 32, 4, cost, "m").key == f"receipt {'1' * 32}"
    booked = rounding("1" * 32, books, cost)
    assert booked is not None
    assert (booked.legs[0].debit, booked.legs[0].credit, booked.legs[0].amount) == ("income", "rounding", 1)
    assert rounding("1" * 32, books, bill(found.price, 2, 0)) is None
    assert hold("1" * 32, books, Tariff("m", Price("USD", 0, 0), ENTRY), Most(3, 9)) is None


def test_a_quote_comes_back_as_it_was_given_and_nobody_else_can_give_one() -> None:
    """Every changed byte is refused, and a quote that another key signed."""
    given_ = Quote("0xabc", Tariff("m:v1", Price("USD", 15_000_000, 60_000_000), ENTRY), 1_700_000_900)
    text = given_.signed(KEY)
    assert len(text) <= limits.quote_chars_max
    assert read(text, KEY.public) == given_
    with pytest.raises(InvalidInput, match="expected one that this node gave"):
        read(given_.signed(OTHER), KEY.public)
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 1
        with pytest.raises(InvalidInput, match="expected one that this node gave"):
            read(base64.urlsafe_b64encode(changed).decode().rstrip("="), KEY.public)
    for wrong in ("", "x", text + "A", text[:-4], "é" * 40, "A" * (limits.quote_chars_max + 1)):
        with pytest.raises(InvalidInput, match="expected one that this node gave"):
            read(wrong, KEY.public)


def test_a_quote_is_for_its_account_and_model_until_its_time() -> None:
    """The last second counts, the one after it does not."""
    found = Quote("0xabc", Tariff("m", Price("USD", 1, 2), ENTRY), 100)
    assert honoured(found, "0xabc", "m", 99) == found.tariff
    with pytest.raises(QuoteExpired):
        honoured(found, "0xabc", "m", 100)
    with pytest.raises(InvalidInput, match="account 0xabc, found 0xdef"):
        honoured(found, "0xdef", "m", 99)
    with pytest.raises(InvalidInput, match="model m, found n"):
        honoured(found, "0xabc", "n", 99)
