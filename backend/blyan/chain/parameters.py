"""Parameters: values that the meta chain sets, each from its entry on; the newest of a name and subject counts.

Each name has a grammar of its own, held by `validity`, so that what stands on the chain is understood by everybody who
follows it. So far there is one: `price`, of a model. See docs/spec/chain-entry.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from blyan.primitives import limits
from blyan.primitives.amount import asset
from blyan.primitives.errors import InvalidInput
from blyan.primitives.ids import EntryId

price_name: Final = "price"
_price: Final = re.compile(r"([A-Z]{3,8}) (0|[1-9][0-9]{0,15}) (0|[1-9][0-9]{0,15})")


@dataclass(frozen=True, slots=True)
class Parameter:
    """What an entry set: the newest value of (name, subject)."""

    name: str
    subject: str
    value: str
    entry: EntryId
    time: int


@dataclass(frozen=True, slots=True)
class Price:
    """Smallest units of an asset for a million tokens of prompt, and for a million of the answer."""

    asset: str
    prompt: int
    completion: int

    def __post_init__(self) -> None:
        asset(self.asset)
        for what, value in (("prompt", self.prompt), ("completion", self.completion)):
            if type(value) is not int or not 0 <= value <= limits.price_units_max:
                raise InvalidInput(
                    f"price of {what} tokens: expected 0 to {limits.price_units_max} smallest units for a million, "
                    f"found {value!r}"
                )

    @property
    def free(self) -> bool:
        """Whether nothing costs anything."""
        return not self.prompt and not self.completion

    def encode(self) -> str:
        """As the value of a parameter: asset, prompt and completion with a space between two."""
        return f"{self.asset} {self.prompt} {self.completion}"


def parse_price(value: str) -> Price:
    """Read what `Price.encode` wrote; `InvalidInput` for anything else."""
    found = _price.fullmatch(value)
    if found is None:
        raise InvalidInput(f"price: expected ASSET PROMPT COMPLETION, found {value[:80]!r}")
    return Price(found[1], int(found[2]), int(found[3]))
