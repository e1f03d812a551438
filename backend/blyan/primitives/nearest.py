"""Did you mean …? One measure of closeness for settings, commands, options and names of models."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice
from typing import Final

_found_chars_max: Final = 128  # what is longer was never meant to be one of ours
_known_max: Final = 4_096


def nearest(found: str, known: Iterable[str]) -> str | None:
    """The known name that is most like what was found, whatever its case; None if none is close."""
    if len(found) > _found_chars_max:
        return None
    by_fold = {name.casefold(): name for name in islice(known, _known_max)}
    close = difflib.get_close_matches(found.casefold(), by_fold, n=1)
    return by_fold[close[0]] if close else None


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """` (did you mean 'listen'?)`, to end a message with; empty if nothing is close."""
    close = nearest(found, known)
    return f" (did you mean {close!r}?)" if close is not None else ""
