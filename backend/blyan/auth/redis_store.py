"""Sign-ins and sessions in Redis, for several nodes behind one origin.

A sign-in is one key that expires, taken by GETDEL. A session is one key that expires when it would be idle, and a
member of its account's sorted set, by which the oldest are found. What Redis forgets (a restart without persistence)
is a sign-out, never a sign-in.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import Any, Final, cast

import orjson

from blyan.auth.nonces import SignIn
from blyan.auth.sessions import Session
from blyan.primitives import limits
from blyan.primitives.errors import IntegrityFault, Overloaded
from blyan.storage.redis_link import RedisLink

# The sign-ins under way stand in a sorted set by their end, so that they can be counted without a walk over all keys.
_put_sign_in: Final = """
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[3])
local waiting = redis.call('ZCARD', KEYS[2])
if waiting >= tonumber(ARGV[5]) then return waiting end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[4])
redis.call('ZADD', KEYS[2], ARGV[2], KEYS[1])
redis.call('EXPIRE', KEYS[2], ARGV[4])
return 0
"""
_take_sign_in: Final = """
redis.call('ZREM', KEYS[2], KEYS[1])
return redis.call('GETDEL', KEYS[1])
"""
_put_session: Final = """
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[3])
local surplus = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[5]) + 1
if surplus > 0 then
  for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, surplus - 1)) do redis.call('DEL', ARGV[7] .. name) end
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, surplus - 1)
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[6])
redis.call('EXPIRE', KEYS[2], ARGV[8])
return 0
"""
_extend_session: Final = "redis.call('SET', KEYS[1], ARGV[1], 'XX', 'EX', ARGV[2])"
_end_session: Final = """
local found = redis.call('GETDEL', KEYS[1])
if found then redis.call('ZREM', ARGV[2] .. cjson.decode(found)[2], ARGV[1]) end
"""
_end_sessions: Final = """
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('DEL', ARGV[1] .. name) end
redis.call('DEL', KEYS[1])
"""
_sessions: Final = "session:"
_of_account: Final = "sessions-of:"
_open: Final = "sign-ins"


class RedisStore:
    """Every method may raise `Unavailable`: while Redis is gone nobody can know who is signed in."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def close(self) -> None:
        """As `sign_in.SignInStore` says; whoever made the link closes it."""

    async def put_sign_in(self, sign_in: SignIn, now: int) -> None:
        """As `nonces.SignIns` says."""
        waiting = await self._link.run(
            _put_sign_in,
            [f"sign-in:{sign_in.nonce}", _open],
            [
                orjson.dumps(astuple(sign_in)).decode(),
                sign_in.expires_at,
                now,
                max(1, sign_in.expires_at - now),
                limits.sign_ins_open_max,
            ],
        )
        if waiting:
            raise Overloaded(f"sign-ins: expected fewer than {limits.sign_ins_open_max} under way, found {waiting}")

    async def take_sign_in(self, nonce: str) -> SignIn | None:
        """As `nonces.SignIns` says."""
        found = await self._link.run(_take_sign_in, [f"sign-in:{nonce}", _open], [])
        return None if found is None else SignIn(*_row(found, 4))

    async def put_session(self, session: Session, now: int) -> None:
        """As `sessions.Sessions` says."""
        row = orjson.dumps(astuple(session)).decode()
        longest = session.ends_at - session.created_at
        # members are older than any that still holds can be, and go, if they began so long ago
        await self._link.run(
            _put_session,
            [_sessions + session.digest, _of_account + session.account],
            [
                row,
                session.idle_until - now,
                now - longest,
                session.created_at,
                limits.sessions_account_max,
                session.digest,
                self._link.prefix + _sessions,
                longest,
            ],
        )

    async def session(self, digest: str, now: int) -> Session | None:
        """As `sessions.Sessions` says."""
        found = await self._link.get(_sessions + digest)
        session = None if found is None else Session(*_row(found, 7))
        return session if session is not None and session.alive(now) else None

    async def extend_session(self, session: Session, now: int) -> None:
        """As `sessions.Sessions` says."""
        row = orjson.dumps(astuple(session)).decode()
        await self._link.run(_extend_session, [_sessions + session.digest], [row, session.idle_until - now])

    async def end_session(self, digest: str) -> None:
        """As `sessions.Sessions` says."""
        await self._link.run(_end_session, [_sessions + digest], [digest, self._link.prefix + _of_account])

    async def end_sessions(self, account: str) -> None:
        """As `sessions.Sessions` says."""
        await self._link.run(_end_sessions, [_of_account + account], [self._link.prefix + _sessions])


def _row(text: str, length: int) -> list[Any]:
    """What was kept; `IntegrityFault` for what this version did not write."""
    try:
        value: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, list) or len(cast("list[Any]", value)) != length:
        raise IntegrityFault("Redis: expected a row of this version, found something else")
    return cast("list[Any]", value)
