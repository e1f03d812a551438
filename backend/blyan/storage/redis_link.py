"""A connection to Redis: bounded in time, its failures turned into `Unavailable`, the package imported when it is used.

Scripts run as one step in Redis, so that no two nodes that share it come between. The keys of one
space have one hash tag: in a cluster they lie on one server, as scripts need it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from blyan.primitives import limits
from blyan.primitives.errors import Unavailable


class RedisLink:
    """One pool of connections. `Unavailable` from the constructor if the package is not there."""

    def __init__(self, url: str, space: str, setting: str, seconds: float | None = None) -> None:
        """`space`: of its keys; `setting`: which names the URL; `seconds`: for one command, connecting included."""
        try:
            import redis.asyncio
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError:
            raise Unavailable(
                f"{setting}: expected the package redis, found none", hint='pip install "blyan[redis]"'
            ) from None
        self.prefix = f"blyan:{{{space}}}:"
        self._setting = setting
        self._seconds = seconds = limits.redis_seconds_max if seconds is None else seconds
        self._client: Any = redis.asyncio.Redis.from_url(  # pyright: ignore[reportUnknownMemberType] - untyped options
            url,
            # `_answered` bounds the command; `socket_timeout` would too, by `asyncio.wait_for`, which in Python 3.11
            # forgets that a task was cancelled in the turn in which its part is done
            socket_timeout=None,
            socket_connect_timeout=seconds,
            max_connections=limits.redis_connections_max,
            retry=Retry(NoBackoff(), 1),  # once: a connection that Redis closed while idle
            decode_responses=True,
        )
        self._error: type[Exception] = redis.RedisError
        self._scripts: dict[str, Any] = {}

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        """What a Lua script returns."""
        known = self._scripts.get(script)
        if known is None:
            known = self._scripts[script] = self._client.register_script(script)
        return await self._answered(known(keys=[self.prefix + key for key in keys], args=list(arguments)))

    async def get(self, key: str) -> str | None:
        """The text at a key."""
        return await self._answered(self._client.get(self.prefix + key))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _answered(self, asked: Any) -> Any:
        try:
            async with asyncio.timeout(self._seconds):  # the second try included
                return await asked
        except (self._error, OSError, TimeoutError) as reason:  # nothing of the reason: it may hold the password
            raise Unavailable(
                f"Redis: expected an answer in {self._seconds:g} s, found {type(reason).__name__}",
                hint=f"see {self._setting}",
            ) from None
