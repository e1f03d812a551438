"""How often what gave bad numbers is tried again: so seldom that little is lost by it, and never not at all. Pure.

What was measured to be slow is not used, and so never measured again, though it may be better by now: somebody was busy
then, or computed by plain code until the jitted one was ready (`steppers`), which takes several times as long; and an
answer or two say little of what others would take. It is tried for such a share of answers that, if nothing has
changed, a small share of the time of all is lost by that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias, TypeVar

Doubt: TypeAlias = Literal["cold", "few", "stale"]  # by plain code, or not at all; by few answers; not lately
_Tried = TypeVar("_Tried")

share_max: Final = 0.25  # of answers, by one that may be as quick as the best
_cold_s: Final = 5.0  # after which what plain code took is in doubt: jitted code may be ready
_stale_s: Final = 60.0  # after which anything is
_few: Final = 4  # answers that tell little
_losses: Final[dict[Doubt, float]] = {"cold": 0.05, "few": 0.05, "stale": 0.02}  # of the time of answers, at most


def doubt(idle_s: float, *, jitted: bool, answers: int = _few) -> Doubt | None:
    """What is to be thought of times that so many answers gave, the last of them so many seconds ago."""
    if not jitted and idle_s > _cold_s:
        return "cold"
    if answers < _few:
        return "few"
    return "stale" if idle_s > _stale_s else None


def share(why: Doubt | None, times: float) -> float:
    """Of how many answers it is tried that should take so many times as long as the best."""
    if why is None:
        return 0.0
    return min(share_max, _losses[why] / max(times - 1, 1e-9))


def drawn(options: Sequence[tuple[_Tried, float]], at: float) -> _Tried | None:
    """Which of these is tried, each for its share, by a number in [0, 1); None: none this time."""
    for each, own in options:
        if at < own:
            return each
        at -= own
    return None
