"""Amounts are integers; decimal text goes both ways without loss, or is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blyan.primitives import amount, limits
from blyan.primitives.errors import InvalidInput


@given(st.integers(-limits.amount_max, limits.amount_max), st.integers(0, 18))
def test_what_is_shown_is_read_as_the_same(value: int, scale: int) -> None:
    assert amount.parse(amount.shown(value, scale), scale) == value


@pytest.mark.parametrize(
    ("text", "value"), [("1", 100), ("1.5", 150), ("-0.01", -1), ("0.10", 10), ("007", 700), ("-0", 0)]
)
def test_decimal_text_is_smallest_units(text: str, value: int) -> None:
    assert amount.parse(text, 2) == value


@pytest.mark.parametrize(
    "text", ["", "1.", ".5", "1e3", "+1", " 1", "1.001", "0x1", "1,5", "١", "9" * 21, "99999999999999999999", "nan"]
)
def test_text_that_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="amount"):
        amount.parse(text, 2)


def test_an_unknown_asset_is_refused() -> None:
    assert amount.asset("BLY") is amount.BLY
    with pytest.raises(InvalidInput, match="DOGE"):
        amount.asset("DOGE")
