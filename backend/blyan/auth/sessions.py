"""Sessions: who signed in, until when. A secret in a cookie stands for one; kept is the digest of the secret.

A session ends when it was not used for a while (idle limit), at the latest some days after the sign-in (absolute
limit), or when its owner signs out. A sign-in always makes a new one: an id that was there before is never raised.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How long sessions last, in seconds."""

    idle_seconds: int = 12 * 3_600
    absolute_seconds: int = 7 * 86_400

    def __post_init__(self) -> None:
        if not limits.session_touch_seconds < self.idle_seconds <= self.absolute_seconds:
            raise InvalidInput(
                f"sessions: expected more than {limits.session_touch_seconds} s idle and at least as many in all, "
                f"found {self.idle_seconds} and {self.absolute_seconds}"
            )


@dataclass(frozen=True, slots=True)
class Session:
    """One session."""

    digest: str  # of its secret
    account: str  # see auth/sign_in
    address: str  # EIP-55
    chain_id: int
    created_at: int  # Unix seconds, these and the next
    idle_until: int
    ends_at: int

    def alive(self, now: int) -> bool:
        """Whether it holds."""
        return now < self.idle_until

    def used(self, now: int, bounds: SessionLimits) -> Session | None:
        """The session as it is after a use; None if that need not be written yet."""
        until = min(now + bounds.idle_seconds, self.ends_at)
        return replace(self, idle_until=until) if until - self.idle_until >= limits.session_touch_seconds else None


class Sessions(Protocol):
    """Where sessions are kept. Every method may raise `Unavailable`."""

    async def put_session(self, session: Session, now: int) -> None:
        """Keep a new one; the oldest of its account end if that has too many."""
        ...

    async def session(self, digest: str, now: int) -> Session | None:
        """The one of that digest, if it holds."""
        ...

    async def extend_session(self, session: Session, now: int) -> None:
        """Write its new `idle_until`, unless it has ended meanwhile."""
        ...

    async def end_session(self, digest: str) -> None:
        """Forget one, if it is there."""
        ...

    async def end_sessions(self, account: str) -> None:
        """Forget all of an account."""
        ...
