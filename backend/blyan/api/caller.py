"""Who asks, as far as the guard has found out: carried with the request and by a context variable to what it starts."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from aiohttp import web

from blyan.auth.api_keys import ApiKey
from blyan.auth.proxies import charged_address
from blyan.auth.quotas import Charge
from blyan.auth.sessions import Session
from blyan.node.accounts import Role, charge
from blyan.node.accounts_config import QuotasConfig
from blyan.primitives.errors import Unauthenticated

# what a route needs: nothing, a scope of `auth/api_keys`, or a session in a browser
Access: TypeAlias = Literal["public", "inference", "account", "models", "session"]


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller. Without accounts everybody is `open`; with them, whoever has shown nothing has no account."""

    address: str  # see auth/proxies
    open: bool = False
    account: str | None = None
    role: Role = "user"
    session: Session | None = None
    key: ApiKey | None = None

    def may(self, access: Access) -> bool:
        """Whether a route that needs this is for the caller."""
        if self.open or access == "public":
            return True
        if access == "models" and self.role != "operator":
            return False
        if self.key is not None:
            return access in self.key.scopes
        return self.session is not None

    def request_charges(self, quotas: QuotasConfig) -> Sequence[Charge]:
        """What one request costs this caller."""
        found = charge("address requests", charged_address(self.address), quotas.address_requests)
        if self.account is not None:
            found += charge("account requests", self.account, quotas.account_requests)
        if self.key is not None:
            found += charge("key requests", self.key.id, quotas.key_requests)
        return found

    def token_charges(self, quotas: QuotasConfig, tokens: int) -> Sequence[Charge]:
        """What so many tokens cost this caller."""
        found: list[Charge] = []
        if self.account is not None:
            found += charge("account tokens", self.account, quotas.account_tokens, tokens)
        if self.key is not None:
            found += charge("key tokens", self.key.id, quotas.key_tokens, tokens)
        return found


caller_key: Final = web.RequestKey("caller", Caller)
_current: Final[ContextVar[Caller | None]] = ContextVar("blyan_caller", default=None)


def note_caller(request: web.Request, caller: Caller) -> None:
    """Remember who sent a request, for it and for what runs for it."""
    request[caller_key] = caller
    _current.set(caller)


def current_caller() -> Caller | None:
    """Who sent the request that this code works for; None outside of any that was let in."""
    return _current.get()


def account_of(request: web.Request) -> str:
    """The account that the caller has shown; `Unauthenticated` without one."""
    account = request[caller_key].account
    if account is None:
        raise Unauthenticated("account: expected a session or an API key, found neither")
    return account
