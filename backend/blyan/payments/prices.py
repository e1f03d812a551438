"""What tokens cost: the price that the meta chain sets for a model, and the bill for so many tokens of it. Pure.

A price is in smallest units for a million tokens, so a token may cost less than the smallest unit. All tokens of a
request are multiplied first and the sum is rounded once, up for the payer; the income is the same sum rounded down, and
what lies between is booked to an account of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from blyan.chain.parameters import Parameter, Price, parse_price, price_name
from blyan.primitives import limits
from blyan.primitives.amount import asset, parse, shown
from blyan.primitives.errors import InvalidInput
from blyan.primitives.ids import EntryId

million: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Tariff:
    """The price of a model, and the entry of the meta chain that says so."""

    model: str
    price: Price
    entry: EntryId


@dataclass(frozen=True, slots=True)
class Bill:
    """What so many tokens cost, in smallest units."""

    paid: int  # by whoever asked
    income: int  # of it

    @property
    def rounding(self) -> int:
        """The rest of it: 0, or 1 where the sum is no whole number of smallest units."""
        return self.paid - self.income


def tariff(parameters: Mapping[tuple[str, str], Parameter], model: str) -> Tariff | None:
    """The price that counts for a model; None where none was ever set."""
    found = parameters.get((price_name, model))
    return None if found is None else Tariff(model, parse_price(found.value), found.entry)


def tariffs(parameters: Mapping[tuple[str, str], Parameter]) -> list[Tariff]:
    """All prices, by model."""
    named = (tariff(parameters, subject) for name, subject in sorted(parameters) if name == price_name)
    return [each for each in named if each is not None]


def bill(price: Price, prompt_tokens: int, completion_tokens: int) -> Bill:
    """What these tokens cost together; `InvalidInput` where that is more than the books can hold."""
    assert prompt_tokens >= 0 and completion_tokens >= 0, "tokens are counted"
    parts = prompt_tokens * price.prompt + completion_tokens * price.completion
    paid = -(-parts // million)
    if paid > limits.amount_max:
        raise InvalidInput(f"price: expected a cost of at most {limits.amount_max} smallest units, found {paid}")
    return Bill(paid, parts // million)


def price_of_texts(code: str, prompt: str, completion: str) -> Price:
    """A price from decimal amounts for a million tokens, such as `0.15`; `InvalidInput` names what does not fit."""
    scale = asset(code).scale
    found: list[int] = []
    for what, text in (("prompt", prompt), ("completion", completion)):
        try:
            units = parse(text, scale)
        except InvalidInput as reason:
            raise InvalidInput(f"price of {what} tokens: {reason.message}") from None
        if not 0 <= units <= limits.price_units_max:
            most = shown(limits.price_units_max, scale)
            raise InvalidInput(f"price of {what} tokens: expected 0 to {most} {code} for a million, found {text[:80]}")
        found.append(units)
    return Price(code, *found)


def shown_price(price: Price) -> dict[str, str]:
    """Decimal amounts for a million tokens, as every door shows them."""
    scale = asset(price.asset).scale
    return {
        "prompt_per_million": shown(price.prompt, scale),
        "completion_per_million": shown(price.completion, scale),
    }


def shown_amount(amount: int, code: str) -> dict[str, str]:
    """An amount as every door shows it."""
    return {"amount": shown(amount, asset(code).scale), "asset": code}
