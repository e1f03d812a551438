"""Guessing the next tokens by looking the last ones up in prompt and answer (prompt lookup, Saxena 2023).

Cheap and often right where an answer repeats what stands before it: quotations, code, JSON, lists. A stream whose
guesses are refused guesses less, and later tries again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_longest: Final = 3  # tokens that are looked up
_shortest: Final = 2
_share_min: Final = 0.3  # of guesses that must have been right lately
_memory: Final = 0.8  # weight of what was before, at each verification
_pause: Final = 32  # tokens without guesses after they went wrong
_prompt_max: Final = 8_192  # tokens at the prompt's end that are looked through


class Drafter:
    """Guesses for one answer."""

    def __init__(self, prompt: Sequence[int], most: int) -> None:
        self._tokens = list(prompt[-_prompt_max:])
        self._most = most
        self._share = 1.0  # of guesses that were right, lately
        self._resting = 0
        self._ends: dict[tuple[int, ...], int] = {}  # n-gram → how many tokens stand up to the end of its last place
        self._indexed = 0
        self.offered = 0
        self.accepted = 0

    def take(self, token: int) -> None:
        """A token was chosen."""
        self._tokens.append(token)
        self._resting = max(0, self._resting - 1)

    def verified(self, *, offered: int, accepted: int) -> None:
        """So many of the guesses that were computed were right."""
        if not offered:
            return
        self.offered += offered
        self.accepted += accepted
        self._share = _memory * self._share + (1 - _memory) * accepted / offered
        if self._share < _share_min:
            self._resting, self._share = _pause, (1 + _share_min) / 2

    def guess(self, room: int) -> tuple[int, ...]:
        """Up to `room` tokens that may come next, perhaps none."""
        self._index()
        if self._resting or room < 1:
            return ()
        tokens = self._tokens
        for length in range(_longest, _shortest - 1, -1):
            at = self._ends.get(tuple(tokens[-length:]))
            if at is not None and len(tokens) > length:
                count, since = min(room, self._most), len(tokens) - at
                return tuple(tokens[at + place % since] for place in range(count))  # as a loop, if it is a short one
        return ()

    def _index(self) -> None:
        """Note where n-grams end, all but those that end with the last token: nothing follows them yet."""
        tokens = self._tokens
        for end in range(self._indexed + 1, len(tokens)):
            for length in range(_shortest, min(_longest, end) + 1):
                self._ends[tuple(tokens[end - length : end])] = end
        self._indexed = max(self._indexed, len(tokens) - 1)
