"""Sizes of memory as people write them: `8GiB`, `512 MiB`, `100MB`, `4096`."""

from __future__ import annotations

import re
from typing import Final

from blyan.primitives.errors import InvalidInput

_size: Final = re.compile(r"(\d{1,18})(?:\.(\d{1,3}))? ?([kmgt]i?b|b)?", re.IGNORECASE)
_powers: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(what: str, text: str) -> int:
    """Bytes of a size; `InvalidInput` names `what` it should have been."""
    found = _size.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(f"{what}: expected a size such as 8GiB or 512MiB, found {text[:80]!r}")
    whole, fraction, unit = found[1], found[2] or "", (found[3] or "").lower()
    scale = (1024 if "i" in unit else 1000) ** _powers[unit.rstrip("b").rstrip("i")]
    return int(whole + fraction) * scale // 10 ** len(fraction)
