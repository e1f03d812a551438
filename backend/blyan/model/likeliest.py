"""The best of one position's scores, without sorting the vocabulary.

Nothing here depends on how many threads there are: numpy has one.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Scores: TypeAlias = NDArray[np.float32]  # [vocab]

_group: Final = 64  # tokens of which only the best is looked at first
_few: Final = 256  # tokens whose order is found soonest the plain way


def are_finite(scores: Scores) -> bool:
    """Whether all scores are numbers."""
    return bool(np.isfinite(scores).all())


def best_first(scores: Scores, count: int) -> NDArray[np.int64]:
    """At least the `count` best tokens, or all there are, best first; equal ones by rising id, none left out.

    More than asked for where it costs less to keep them, so what follows the returned ones is worse than all of them.
    """
    groups = len(scores) // _group
    if count > groups // 2:
        if count >= len(scores):
            return order(scores, np.arange(len(scores)))
        return order(scores, np.flatnonzero(scores >= np.partition(scores, len(scores) - count)[-count]))
    # Group g is the tokens g, g + groups, g + 2 groups …: the best of `count` groups reach the bound, and only where a
    # group's best does can others of it.
    grouped = scores[: groups * _group].reshape(_group, groups)
    bests = grouped.max(axis=0)
    bound = np.partition(bests, groups - count)[-count]
    reaching = np.flatnonzero(bests >= bound)
    rows, columns = divmod(np.flatnonzero(grouped.take(reaching, axis=1) >= bound), len(reaching))
    rest = np.flatnonzero(scores[groups * _group :] >= bound) + groups * _group
    return order(scores, np.concatenate((rows * groups + reaching[columns], rest)))


def order(scores: Scores, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Some tokens, given by rising id, best first, equal ones by rising id."""
    if len(tokens) > _few:  # one sort of integers: falling scores, whose bits are made to rise with them, then ids
        bits = (np.float32(0) - scores[tokens]).view(np.int32)
        bits ^= (bits >> 31) & 0x7FFF_FFFF
        return np.sort(bits.astype(np.int64) << 32 | tokens) & 0xFFFF_FFFF
    return tokens[np.argsort(-scores[tokens], kind="stable")]
