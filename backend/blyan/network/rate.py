"""A token bucket: how long to wait so that no more than so many bytes pass in a second."""

from __future__ import annotations

from typing import Final

_burst_seconds: Final = 0.1  # what may pass at once after a pause


class TokenBucket:
    """Bytes that may pass; 0 bytes a second is without limit. What was taken too early is waited for afterwards."""

    def __init__(self, bytes_per_second: int, now: float) -> None:
        self._rate = bytes_per_second
        self._free_at = now  # when all that was taken has been paid

    def take(self, count: int, now: float) -> float:
        """Take `count` bytes; the seconds to wait before going on."""
        if self._rate <= 0:
            return 0.0
        self._free_at = max(self._free_at, now - _burst_seconds) + count / self._rate
        return max(0.0, self._free_at - now)

    def give_back(self, count: int) -> None:
        """`count` bytes that were taken do not pass after all."""
        if self._rate > 0:
            self._free_at -= count / self._rate
