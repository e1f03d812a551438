"""API keys: what programs show in place of a session. Made of 256 random bits, shown once, kept as a digest.

A key is `sk-blyan-ID-SECRET`: the id finds it and may be shown, the secret proves it. It belongs to the account that
made it, may do what its scopes say and nothing else, and never makes further keys.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

from blyan.auth.tokens import digest_of, new_secret
from blyan.primitives import limits
from blyan.primitives.clock import Entropy, UnixSeconds
from blyan.primitives.errors import InvalidInput, NotFound, Unauthenticated

# what a key may do: ask models, read its account, change which models there are (operators' keys alone)
scopes: Final = ("inference", "account", "models")
_id_bytes: Final = 8
_form: Final = re.compile(r"sk-blyan-([0-9a-f]{16})-([A-Za-z0-9_-]{43})")
_day: Final = 86_400


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key."""

    id: str  # 16 hex digits
    digest: str  # of its secret
    account: str
    name: str
    scopes: tuple[str, ...]  # in the order of `scopes`
    created_at: int  # Unix seconds, these and the next
    expires_at: int | None
    used_at: int | None  # the day, not the moment: keys are not there to watch their owners

    def alive(self, now: int) -> bool:
        """Whether it holds."""
        return self.expires_at is None or now < self.expires_at


@dataclass(frozen=True, slots=True)
class Wish:
    """A key that somebody wants."""

    name: str
    scopes: tuple[str, ...]
    expires_at: int | None


class ApiKeys(Protocol):
    """Where keys are kept. Every method may raise `Unavailable`."""

    async def put_key(self, key: ApiKey, now: int) -> None:
        """Keep a new one; `InvalidInput` if its account has too many that hold."""
        ...

    async def key(self, key_id: str) -> ApiKey | None:
        """The one of that id."""
        ...

    async def keys_of(self, account: str) -> Sequence[ApiKey]:
        """All of an account, oldest first."""
        ...

    async def used_key(self, key_id: str, used_at: int) -> None:
        """Write when it was used."""
        ...

    async def delete_key(self, account: str, key_id: str) -> bool:
        """Delete one of an account; whether it was there."""
        ...


class KeyRing:
    """Makes, checks, lists and deletes keys."""

    def __init__(self, store: ApiKeys, *, now: UnixSeconds, entropy: Entropy) -> None:
        self._store, self._now, self._entropy = store, now, entropy

    async def make(self, account: str, wish: Wish) -> tuple[ApiKey, str]:
        """A new key, and its text, which nobody can show again."""
        now = self._now()
        if wish.expires_at is not None and not now < wish.expires_at <= now + limits.api_key_seconds_max:
            raise InvalidInput(
                f"expires_at: expected Unix seconds from {now + 1} to {now + limits.api_key_seconds_max}, found "
                f"{wish.expires_at}"
            )
        key_id, secret = self._entropy(_id_bytes).hex(), new_secret(self._entropy)
        digest = digest_of("api-key", secret)
        key = ApiKey(key_id, digest, account, wish.name, wish.scopes, now, wish.expires_at, None)
        await self._store.put_key(key, now)
        return key, f"sk-blyan-{key_id}-{secret}"

    async def check(self, text: str) -> ApiKey:
        """The key that this text is; `Unauthenticated` if it is none that holds."""
        found = _form.fullmatch(text)
        if found is None:
            raise Unauthenticated(
                "API key: expected one of this node, found something else", hint="they begin with sk-blyan-"
            )
        now, key = self._now(), await self._store.key(found[1])
        if key is None or not hmac.compare_digest(key.digest, digest_of("api-key", found[2])):
            raise Unauthenticated("API key: expected one that this node knows, found none of its keys")
        if not key.alive(now):
            raise Unauthenticated(f"API key {key.id}: expected one that holds, found it expired", hint="make a new one")
        today = now - now % _day
        if key.used_at != today:
            await self._store.used_key(key.id, today)
        return key

    async def all(self, account: str) -> Sequence[ApiKey]:
        """The keys of an account, oldest first."""
        return await self._store.keys_of(account)

    async def delete(self, account: str, key_id: object) -> None:
        """Delete a key: it holds no more at once. `NotFound` if the account has none of that id."""
        if not isinstance(key_id, str) or not await self._store.delete_key(account, key_id):
            raise NotFound(f"API key: expected one of this account, found none called {str(key_id)[:40]!r}")


def parse_wish(body: Mapping[str, object]) -> Wish:
    """What a request for a key says; `InvalidInput` names the field that does not fit."""
    name = body.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= limits.api_key_name_chars_max or not name.isprintable():
        most = limits.api_key_name_chars_max
        raise InvalidInput(f"name: expected 1 to {most} characters that can be printed, found {str(name)[:80]!r}")
    asked = body.get("scopes", ["inference"])
    listed: list[object] = cast("list[object]", asked) if isinstance(asked, list) else []
    said = str(cast("object", asked))[:80]
    if not listed or not all(each in scopes for each in listed[: len(scopes) + 1]):
        raise InvalidInput(f"scopes: expected some of {', '.join(scopes)}, found {said}")
    if len(listed) > len(set(listed)):
        raise InvalidInput(f"scopes: expected each once, found {said}")
    expires_at = body.get("expires_at")
    if expires_at is not None and type(expires_at) is not int:
        raise InvalidInput(f"expires_at: expected Unix seconds, found {str(expires_at)[:40]!r}")
    return Wish(name, tuple(each for each in scopes if each in listed), expires_at)
