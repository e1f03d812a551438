"""Summaries by a Redis Stream that the nodes of a swarm share: news in one question, however many nodes there are.

A look is one script on the server: it adds this node's summary, and gives what came since the last look, of which
nothing larger than a summary leaves Redis. What comes is believed as far as gossip is: parsed, its signature checked,
of this swarm, its life counted from when Redis got it, by the clock of Redis. Whoever can write there can hide news,
never forge it; gossip goes on beside, rarely while Redis answers, and as ever from the moment that it does not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import IntegrityFault, MalformedMessage, Unavailable
from blyan.primitives.ids import PublicKey
from blyan.storage.redis_link import RedisLink
from blyan.wire.peer import Summary, parse_passed_on

_log = logging.getLogger(__name__)
_look_seconds: Final = 0.5
_behind_seconds: Final = 0.05  # between looks while there is more than one of them takes
_away_seconds: Final = 1.0  # between two tries to reach a Redis that does not answer
_again_seconds: Final = limits.summary_seconds_max / 4  # a summary of which only the load changed is said so often

# KEYS: the stream. ARGV: our summary or "", the entry that was seen last or "", entries, bytes of each, milliseconds
# that a summary lives, entries that the stream keeps.
_look: Final = r"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] ~= '' then
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[6], '*', 'summary', ARGV[1])
  redis.call('PEXPIRE', KEYS[1], 2 * ARGV[5])
end
local last, from = ARGV[2], '(' .. ARGV[2]
if last == '' or tonumber(string.match(last, '^%d+')) > now + 1000 then  -- else a clock that was put back hides news
  from = string.format('%.0f', math.max(0, now - ARGV[5]))
end
local entries, found = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', ARGV[3]), {}
for _, entry in ipairs(entries) do
  last = entry[1]
  local raw = entry[2][2]
  if #raw <= tonumber(ARGV[4]) and not string.find(raw, '[^\32-\126]') then
    found[#found + 1] = string.format('%.0f', math.max(0, now - tonumber(string.match(last, '^%d+'))))
    found[#found + 1] = raw
  end
end
return {last, #entries, found}
"""


@dataclass(slots=True)
class StreamCounters:
    """What happened since the start."""

    sent: int = 0
    read: int = 0  # of other nodes, as they should be
    refused: int = 0  # entries that were none, or of another swarm


@dataclass(slots=True, eq=False)
class RedisGossip:
    """`run` in the network's loop until it is cancelled.

    `ours` is this node's summary, `take` is given others' with their age in seconds, `changed` whether Redis answers.
    """

    link: RedisLink
    swarm: str  # its tag
    ours: Callable[[], Summary]
    take: Callable[[Summary, float], None]
    changed: Callable[[bool], None]
    monotonic: Monotonic
    draw: Callable[[], float]
    up: bool = False
    why_not: str = "not asked yet"
    counters: StreamCounters = field(default_factory=StreamCounters)
    _last: str = ""  # entry that was read
    _said: Summary | None = None  # there, by this process
    _said_at: float = 0.0

    async def run(self) -> None:
        """Look again and again."""
        try:
            while True:
                try:
                    count = await self._looked()
                    pause = _behind_seconds if count == limits.gossip_summaries_max else _look_seconds
                    self._turn(True, "")
                except Unavailable as reason:
                    self._last, self._said, pause = "", None, _away_seconds  # it may come back without what it had
                    self._turn(False, reason.message)
                await asyncio.sleep(pause * (0.75 + 0.5 * self.draw()))
        finally:
            self._turn(False, "not asked any more")
            await self.link.close()

    def _turn(self, up: bool, why_not: str) -> None:
        self.why_not = why_not
        if up is self.up:
            return
        self.up = up
        if up:
            _log.info("news of nodes comes by Redis, and gossip is rare")
        else:
            _log.warning("news of nodes comes by gossip alone: %s", why_not)
        self.changed(up)

    async def _looked(self) -> int:
        """Say what is to be said and take what came; how many entries that was."""
        ours = self.ours()
        news = self._is_news(ours)
        arguments = (
            ours.signed.decode("ascii") if news else "",
            self._last,
            limits.gossip_summaries_max,
            limits.summary_bytes_max,
            int(limits.summary_seconds_max * 1000),
            limits.summary_stream_max,
        )
        answer = cast("list[Any]", await self.link.run(_look, [f"summaries:{self.swarm}"], arguments))
        if news:
            self._said, self._said_at = ours, self.monotonic()
            self.counters.sent += 1
        self._last, count, found = str(answer[0]), int(answer[1]), cast("list[str]", answer[2])
        self.counters.refused += count - len(found) // 2
        for age, raw in zip(found[::2], found[1::2], strict=True):
            self._read(raw, int(age) / 1000, ours.node)
        return count

    def _is_news(self, ours: Summary) -> bool:
        """Whether it says more than the one that is there, or that one is old."""
        said = self._said
        return said is None or _claims(said) != _claims(ours) or self.monotonic() > self._said_at + _again_seconds

    def _read(self, raw: str, age: float, own: PublicKey) -> None:
        try:
            summary = parse_passed_on(raw.encode("ascii"))
            if summary is None:
                return
            if summary.swarm != self.swarm:
                raise MalformedMessage("summary: expected one of this swarm, found another's")
        except (MalformedMessage, IntegrityFault) as reason:
            self.counters.refused += 1
            _log.debug("an entry in Redis is no summary: %s", reason.message)
            return
        if summary.node != own:
            self.counters.read += 1
            self.take(summary, age)


def _claims(summary: Summary) -> Summary:
    """What is news when it changes."""
    return replace(summary, sequence=0, queue=0, busy=0, signed=b"")
