"""Quotas that several nodes share: the counts of `auth/quotas` in Redis, by its clock, each grant one script.

While Redis is gone every node counts alone: a limit that nobody can check must not become an outage.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from blyan.auth.quotas import Charge, Quotas
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import Unavailable
from blyan.storage.redis_link import RedisLink

_log = logging.getLogger(__name__)
_pause_seconds: Final = 5.0  # for which a Redis that did not answer is not asked again

# KEYS are subjects, ARGV the steps of their charges. The same rule as `quotas.wait_us`, to which a test holds it.
_take: Final = """
local time = redis.call('TIME')
local now, minute, wait = time[1] * 1000000 + time[2], 60000000, 0
local arrivals = {}
for i, key in ipairs(KEYS) do
  arrivals[i] = math.max(tonumber(redis.call('GET', key) or '0'), now)
  local step, owed = tonumber(ARGV[i]), arrivals[i] - now
  if step <= minute then owed = owed + step - minute end
  wait = math.max(wait, owed)
end
if wait > 0 then return wait end
for i, key in ipairs(KEYS) do
  local arrival = arrivals[i] + tonumber(ARGV[i])
  redis.call('SET', key, string.format('%.0f', arrival), 'PX', math.ceil((arrival - now) / 1000) + 1)
end
return 0
"""
_give_back: Final = """
for i, key in ipairs(KEYS) do
  local arrival = tonumber(redis.call('GET', key) or '0')
  if arrival > 0 then redis.call('SET', key, string.format('%.0f', arrival - tonumber(ARGV[i])), 'KEEPTTL') end
end
"""


class RedisQuotas:
    """As `quotas.Quotas`; `alone` counts while Redis does not answer."""

    def __init__(self, link: RedisLink, alone: Quotas, monotonic: Monotonic) -> None:
        self._link, self._alone, self._monotonic = link, alone, monotonic
        self._gone_until = 0.0

    async def take(self, charges: Sequence[Charge]) -> float:
        """As `Quotas` says."""
        if self._monotonic() >= self._gone_until:
            try:
                return await self._run(_take, charges) / 1e6
            except Unavailable as reason:
                self._gone_until = self._monotonic() + _pause_seconds
                _log.warning("quotas: this node counts alone: %s", reason.message)
        return await self._alone.take(charges)

    async def give_back(self, charges: Sequence[Charge]) -> None:
        """As `Quotas` says."""
        if self._monotonic() < self._gone_until:
            await self._alone.give_back(charges)
            return
        with suppress(Unavailable):  # time gives it back too
            await self._run(_give_back, charges)

    async def close(self) -> None:
        """Close the link."""
        await self._link.close()

    async def _run(self, script: str, charges: Sequence[Charge]) -> int:
        keys = [f"quota:{charge.subject}" for charge in charges]
        return await self._link.run(script, keys, [charge.step_us for charge in charges]) or 0
