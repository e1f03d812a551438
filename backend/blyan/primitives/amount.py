"""Money is an integer of an asset's smallest unit; a decimal point exists only where people read and write.

Every amount and every sum that the books keep lies within ±2^62, so that no sum of two leaves a 64-bit column. What
would is an error, never a rounded or wrapped number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput

_decimal: Final = re.compile(r"(-?)([0-9]{1,20})(?:\.([0-9]{1,20}))?")


@dataclass(frozen=True, slots=True)
class Asset:
    """Something that is counted: `scale` digits stand behind the decimal point."""

    code: str
    scale: int


BLY: Final = Asset("BLY", 8)
USD: Final = Asset("USD", 8)  # micro-cents
assets: Final = {each.code: each for each in (BLY, USD)}


def asset(code: str) -> Asset:
    """The asset of this code; `InvalidInput` if there is none."""
    if code not in assets:
        raise InvalidInput(f"asset: expected one of {', '.join(assets)}, found {code[:16]!r}")
    return assets[code]


def positive(value: int, what: str) -> int:
    """`value`, if it is an amount that can be moved: 1 to 2^62 smallest units; `InvalidInput` names `what`."""
    if type(value) is not int or not 0 < value <= limits.amount_max:
        raise InvalidInput(f"{what}: expected 1 to {limits.amount_max} smallest units, found {value!r}")
    return value


def parse(text: str, scale: int) -> int:
    """Smallest units of a decimal text; `InvalidInput` for more digits than the scale has, or beyond ±2^62."""
    found = _decimal.fullmatch(text)
    if found is None or len(found[3] or "") > scale:
        raise InvalidInput(f"amount: expected a decimal number with at most {scale} digits, found {text[:48]!r}")
    value = int(found[2]) * 10**scale + int((found[3] or "").ljust(scale, "0") or "0")
    if value > limits.amount_max:
        raise InvalidInput(f"amount: expected at most {shown(limits.amount_max, scale)}, found {text}")
    return -value if found[1] else value


def shown(value: int, scale: int) -> str:
    """Smallest units as a decimal text, without zeros at its end."""
    whole, part = divmod(abs(value), 10**scale)
    digits = f"{part:0{scale}}".rstrip("0") if scale else ""
    return ("-" if value < 0 else "") + str(whole) + (f".{digits}" if digits else "")
