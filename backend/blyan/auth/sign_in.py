"""Signing in, from the first question to a session; signing out; and whose session a secret stands for.

Write order: (1) the sign-in is kept, then its message given out; (2) the sign-in is taken away, then the signature
checked; (3) the session that the browser had before is ended, then the new one kept. A crash between any two leaves
nobody signed in who did not sign.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final, Protocol

from blyan.auth.nonces import SignIn, SignIns, message_digest, new_nonce
from blyan.auth.origin import Origin
from blyan.auth.sessions import Session, SessionLimits, Sessions
from blyan.auth.siwe import ContractCheck, SignInMessage, parse_address, parse_message, parse_signature, verify
from blyan.auth.tokens import digest_of, is_secret, new_secret
from blyan.primitives import limits
from blyan.primitives.clock import Entropy, UnixSeconds
from blyan.primitives.errors import InvalidInput, Unauthenticated

_hint: Final = "ask for a new message and sign that"


class SignInStore(SignIns, Sessions, Protocol):
    """Where both are kept."""

    async def close(self) -> None:
        """Let go of what is held."""
        ...


@dataclass(frozen=True, slots=True)
class Begun:
    """A message to be signed, and the secret that the browser shows with the signature."""

    message: SignInMessage
    secret: str


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A new session, and the secret that stands for it."""

    session: Session
    secret: str


class Door:
    """Where people with wallets come in."""

    def __init__(
        self,
        origin: Origin,
        chains: tuple[int, ...],
        store: SignInStore,
        *,
        bounds: SessionLimits,
        contracts: ContractCheck | None,
        now: UnixSeconds,
        entropy: Entropy,
    ) -> None:
        self.origin, self.chains = origin, chains
        self._store, self._bounds, self._contracts = store, bounds, contracts
        self._now, self._entropy = now, entropy

    async def begin(self, address: object, chain_id: object) -> Begun:
        """Write a message for this address and chain; `InvalidInput` for what cannot sign in here."""
        who, now = parse_address(address, "address"), self._now()
        if type(chain_id) is not int or chain_id not in self.chains:
            expected = ", ".join(map(str, self.chains))
            raise InvalidInput(f"chain_id: expected one of {expected}, found {str(chain_id)[:40]!r}")
        nonce, secret = new_nonce(self._entropy), new_secret(self._entropy)
        message = SignInMessage(self.origin, who, chain_id, nonce, now, now + limits.sign_in_seconds_max)
        browser = digest_of("sign-in", secret)
        await self._store.put_sign_in(SignIn(nonce, message_digest(message.text), browser, message.expires_at), now)
        return Begun(message, secret)

    async def finish(self, text: object, signature: object, *, browser: str | None, before: str | None) -> SignedIn:
        """Make a session of a signed message: `browser` is the secret of `begin`, `before` that of an older session.

        `Unauthenticated` for everything that does not prove who it is, `Unavailable` where nobody can know now.
        """
        if not isinstance(text, str):
            raise InvalidInput(f"message: expected text, found {type(text).__name__}")
        signed, now = parse_signature(signature), self._now()
        message = parse_message(text, self.origin)
        kept = await self._store.take_sign_in(message.nonce)
        if kept is None or kept.expires_at <= now:
            raise Unauthenticated("nonce: expected one that waits for its signature, found it used or late", hint=_hint)
        if browser is None or not hmac.compare_digest(kept.browser, digest_of("sign-in", browser)):
            raise Unauthenticated("sign-in: expected it to end in the browser where it began", hint=_hint)
        if not hmac.compare_digest(kept.message, message_digest(text)):
            raise Unauthenticated("message: expected the one that was given with its nonce, found another", hint=_hint)
        if message.chain_id not in self.chains:  # the configuration changed meanwhile, in another process
            raise Unauthenticated(f"chain: expected one of {self.chains}, found {message.chain_id}")
        by_contract = await verify(message, signed, nonce=kept.nonce, now=now, contracts=self._contracts)
        await self.sign_out(before)
        secret = new_secret(self._entropy)
        session = Session(
            digest=digest_of("session", secret),
            account=account_of(message, by_contract=by_contract),
            address=message.address,
            chain_id=message.chain_id,
            created_at=now,
            idle_until=now + self._bounds.idle_seconds,
            ends_at=now + self._bounds.absolute_seconds,
        )
        await self._store.put_session(session, now)
        return SignedIn(session, secret)

    async def session(self, secret: str) -> Session | None:
        """The session that a secret stands for, if it holds; using it keeps it from being idle."""
        if not is_secret(secret):
            return None
        now = self._now()
        found = await self._store.session(digest_of("session", secret), now)
        if found is None or not found.alive(now):
            return None
        used = found.used(now, self._bounds)
        if used is not None:
            await self._store.extend_session(used, now)
        return used or found

    async def sign_out(self, secret: str | None) -> None:
        """End the session that a secret stands for, if there is one."""
        if secret is not None and is_secret(secret):
            await self._store.end_session(digest_of("session", secret))

    async def sign_out_everywhere(self, account: str) -> None:
        """End all sessions of an account."""
        await self._store.end_sessions(account)


def account_of(message: SignInMessage, *, by_contract: bool) -> str:
    """Whose account it is: the address of a key, or a contract's as CAIP-10, with its chain.

    One key holds an address on every chain. A contract does not: somebody else may put another at the same address of
    another chain.
    """
    return f"eip155:{message.chain_id}:{message.address}" if by_contract else message.address
