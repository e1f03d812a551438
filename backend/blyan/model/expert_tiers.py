"""Which experts stay in memory: a policy of use counts that decay, without a byte, a file or a clock in it.

Three tiers. *Hot*: in memory of our own, within the budget. *Warm*: mapped, in the page cache as long as the kernel
leaves it there, and as many bytes again as the budget at most. *Cold*: on the disk only, streamed when called.

Every use adds one to an expert's score, and scores halve every `half_life` uses of any expert. Where there is room an
expert becomes hot at its first use. Where there is none, it takes the place of the coldest hot ones only if it saves
more reading than they do by a quarter, so that experts used alike do not keep throwing each other out. An expert used
once in a long while stays cold: it becomes warm at its second use within about a half-life, by the same comparison.
What is known beforehand of the share of all uses that an expert will have is a score that it begins with.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from blyan.primitives.ids import PayloadId

Tier: TypeAlias = Literal["hot", "warm", "cold"]

tiers: Final[tuple[Tier, ...]] = ("hot", "warm", "cold")
_margin: Final = 1.25  # by how much a newcomer must save more than what it replaces
_warm_from: Final = 1.5  # decayed uses: more than one of them
_believed: Final = 0.5  # of what is said beforehand
_rescale_at: Final = 1e100


@dataclass(frozen=True, slots=True)
class Placement:
    """What one use of an expert means."""

    before: Tier  # where the call found it
    now: Tier
    cooled: tuple[PayloadId, ...] = ()  # hot ones that are cold now
    unmapped: tuple[PayloadId, ...] = ()  # warm ones that are not any more


class ExpertTiers:
    """Scores, and who is where. Deterministic; not thread-safe."""

    def __init__(self, hot_bytes_max: int, warm_bytes_max: int, half_life: int) -> None:
        self._tiers = {"hot": _Tier(hot_bytes_max), "warm": _Tier(warm_bytes_max)}
        self._scores: dict[PayloadId, float] = {}  # in units of `_use`
        self._use = 1.0  # what a use adds now: it grows instead of all scores shrinking
        self.set_half_life(half_life)

    def set_half_life(self, uses: int) -> None:
        """After how many uses of any expert a use counts half."""
        self._growth = 2.0 ** (1.0 / uses)
        self._score_of_all = uses / math.log(2)  # of an expert that has all uses, in the end

    def expect(self, shares: Mapping[PayloadId, float]) -> None:
        """So large a share of all uses each is said to have: its score is at least half of what that comes to.

        Nothing is placed anew before it is used, and what is used more than it was said loses nothing.
        """
        for key, share in shares.items():
            said = _believed * share * self._score_of_all * self._use
            if said > self._scores.get(key, 0.0):
                self._scores[key] = said

    def use(self, key: PayloadId, size: int, busy: Collection[PayloadId] = ()) -> Placement:
        """Count one use of the expert `key` of `size` bytes and place it; those that are `busy` stay where they are."""
        self._use *= self._growth
        if self._use > _rescale_at:
            self._rescale()
        score = self._scores[key] = self._scores.get(key, 0.0) + self._use
        hot, warm = self._tiers["hot"], self._tiers["warm"]
        before = self.tier(key)
        if before == "hot" or key in busy:
            return Placement(before, before)
        cooled = hot.room_for(size, score, self._scores, busy)
        if cooled is not None:
            hot.add(key, size, score)
            unmapped = (key,) if warm.remove(key) else ()
            return Placement(before, "hot", cooled, unmapped)
        if before == "warm" or score < _warm_from * self._use:
            return Placement(before, before)
        unmapped = warm.room_for(size, score, self._scores, busy)
        if unmapped is None:
            return Placement("cold", "cold")
        warm.add(key, size, score)
        return Placement("cold", "warm", (), unmapped)

    def tier(self, key: PayloadId) -> Tier:
        """Where an expert is."""
        return "hot" if key in self._tiers["hot"] else "warm" if key in self._tiers["warm"] else "cold"

    def bytes_in(self, tier: Literal["hot", "warm"]) -> int:
        """Bytes of all experts of a tier."""
        return self._tiers[tier].used

    def count_in(self, tier: Literal["hot", "warm"]) -> int:
        """How many experts are in a tier."""
        return len(self._tiers[tier])

    def forget(self, key: PayloadId) -> None:
        """Know nothing of an expert any more: it is gone, or was found damaged."""
        self._scores.pop(key, None)
        for tier in self._tiers.values():
            tier.remove(key)

    def _rescale(self) -> None:
        """Divide all scores by the present unit, and drop those that came to nothing."""
        scores = {key: score / self._use for key, score in self._scores.items()}
        self._scores = {key: score for key, score in scores.items() if score > 1e-6 or self.tier(key) != "cold"}
        self._use = 1.0
        for tier in self._tiers.values():
            tier.rank_anew(self._scores)


class _Tier:
    """The experts of one tier, and the coldest of them quickly."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._sizes: dict[PayloadId, int] = {}
        # (score when it was put here, expert). Scores only grow, so one at the top that grew since is put back; one
        # that is not the expert's latest is dropped when it comes to the top.
        self._coldest: list[tuple[float, PayloadId]] = []
        self._latest: dict[PayloadId, float] = {}
        self.used = 0  # bytes

    def __contains__(self, key: PayloadId) -> bool:
        return key in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, key: PayloadId, size: int, score: float) -> None:
        self._sizes[key] = size
        self.used += size
        self._push(score, key)

    def remove(self, key: PayloadId) -> bool:
        self._latest.pop(key, None)
        size = self._sizes.pop(key, None)
        self.used -= size or 0
        return size is not None

    def rank_anew(self, scores: dict[PayloadId, float]) -> None:
        self._coldest = [(scores[key], key) for key in self._sizes]
        heapq.heapify(self._coldest)
        self._latest = {key: score for score, key in self._coldest}

    def room_for(
        self, size: int, score: float, scores: dict[PayloadId, float], busy: Collection[PayloadId]
    ) -> tuple[PayloadId, ...] | None:
        """Make room by removing the coldest; None, and nothing removed, if they are worth more or it never fits."""
        if size > self._bytes_max:
            return None
        leaving: list[tuple[float, PayloadId]] = []
        kept: list[tuple[float, PayloadId]] = []  # busy ones
        room, saved, worth = self._bytes_max - self.used, score * size, 0.0  # uses × bytes: what need not be read
        while room < size:
            coldest = self._pop_coldest(scores)
            if coldest is None:
                break
            if coldest[1] in busy:
                kept.append(coldest)
                continue
            leaving.append(coldest)
            worth += coldest[0] * self._sizes[coldest[1]] * _margin
            if saved <= worth:
                break
            room += self._sizes[coldest[1]]
        fits = room >= size
        for entry in [*kept, *([] if fits else leaving)]:
            self._push(*entry)
        if not fits:
            return None
        for _, key in leaving:
            self.remove(key)
        return tuple(key for _, key in leaving)

    def _pop_coldest(self, scores: dict[PayloadId, float]) -> tuple[float, PayloadId] | None:
        """Take the coldest entry off the heap, with its score as it is now."""
        while self._coldest:
            then, key = heapq.heappop(self._coldest)
            if self._latest.get(key) != then:
                continue
            now = scores[key]
            if now > then:
                self._push(now, key)
                continue
            return now, key
        return None

    def _push(self, score: float, key: PayloadId) -> None:
        self._latest[key] = score
        heapq.heappush(self._coldest, (score, key))
