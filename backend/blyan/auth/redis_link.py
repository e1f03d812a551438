"""A connection to Redis: bounded in time, its failures turned into `Unavailable`, the package imported when it is used.

Scripts run as one step in Redis, so that no two nodes that share it come between. All keys have one hash tag: in a
cluster they lie on one server, as scripts need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from blyan.primitives import limits
from blyan.primitives.errors import Unavailable

prefix: Final = "blyan:{accounts}:"


class RedisLink:
    """One pool of connections. `Unavailable` from the constructor if the package is not there."""

    def __init__(self, url: str) -> None:
        try:
            import redis.asyncio
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError:
            raise Unavailable(
                "accounts.redis_url: expected the package redis, found none", hint='pip install "blyan[redis]"'
            ) from None
        seconds = limits.redis_seconds_max
        self._client: Any = redis.asyncio.Redis.from_url(  # pyright: ignore[reportUnknownMemberType] - untyped options
            url,
            socket_timeout=seconds,
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
        return await self._answered(known(keys=[prefix + key for key in keys], args=list(arguments)))

    async def get(self, key: str) -> str | None:
        """The text at a key."""
        return await self._answered(self._client.get(prefix + key))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _answered(self, asked: Any) -> Any:
        try:
            return await asked
        except (self._error, OSError, TimeoutError) as reason:  # nothing of the reason: it may hold the password
            raise Unavailable(
                f"Redis: expected an answer in {limits.redis_seconds_max:g} s, found {type(reason).__name__}",
                hint="see accounts.redis_url",
            ) from None
