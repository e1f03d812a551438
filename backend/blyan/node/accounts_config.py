"""The sections of the configuration that say who may sign in, and how much they may ask."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final
from urllib.parse import urlsplit

from blyan.auth.origin import Origin, parse_origin
from blyan.auth.sessions import SessionLimits
from blyan.primitives import limits
from blyan.primitives.amount import USD, parse
from blyan.primitives.errors import InvalidInput

_chain_id_max: Final = limits.canonical_integer_max  # of EIP-2294 about half of that
_ethereum: Final = 1
_operator: Final = re.compile(r"0x[0-9a-fA-F]{40}|eip155:[1-9][0-9]{0,15}:0x[0-9a-fA-F]{40}")


@dataclass(frozen=True, slots=True)
class AccountsConfig:
    """Sign-in with a wallet. Without an origin there are no accounts, and the node is free for who reaches it."""

    origin: str = ""  # where the page is, such as https://chat.example.org; empty: no accounts
    chain_ids: tuple[str, ...] = ()  # EVM chains that a wallet may be on; none named: Ethereum
    rpc_urls: tuple[str, ...] = ()  # CHAIN=URL: who is asked about wallets that are contracts
    operators: tuple[str, ...] = ()  # accounts that may change which models there are
    redis_url: str = ""  # sessions and quotas that several nodes share; empty: this node's own
    allowance: str = "0"  # USD that every account is given once, to try the node with
    allowance_per_day: str = "0"  # USD that all newcomers of a day (UTC) are given together
    session_idle_minutes: int = 12 * 60  # unused, a session ends
    session_hours: int = 7 * 24  # then it ends anyway

    def __post_init__(self) -> None:
        _ = self.newcomers, self.where, self.chains, self.rpc, self.session_limits, self.operator_accounts
        if self.redis_url and urlsplit(self.redis_url).scheme not in ("redis", "rediss", "unix"):
            raise InvalidInput("accounts.redis_url: expected redis://, rediss:// or unix://, found something else")

    @property
    def newcomers(self) -> tuple[int, int]:
        """What one account is given, and all of a day, in smallest units of USD; `InvalidInput` names the key."""
        found: list[int] = []
        for key, text in (("allowance", self.allowance), ("allowance_per_day", self.allowance_per_day)):
            try:
                found.append(parse(text, USD.scale))
            except InvalidInput as reason:
                raise InvalidInput(f"accounts.{key}: {reason.message}") from None
            if found[-1] < 0:
                raise InvalidInput(f"accounts.{key}: expected 0 or more, found {text}")
        if found[0] > found[1]:
            raise InvalidInput(
                f"accounts.allowance: expected at most accounts.allowance_per_day, {self.allowance_per_day}, "
                f"found {self.allowance}"
            )
        return found[0], found[1]

    @property
    def where(self) -> Origin | None:
        """The origin that people sign in at, None without accounts."""
        return parse_origin(self.origin, "accounts.origin") if self.origin else None

    @property
    def chains(self) -> tuple[int, ...]:
        """The chains that a wallet may be on."""
        if len(self.chain_ids) > limits.chains_max:
            most = limits.chains_max
            raise InvalidInput(f"accounts.chain_ids: expected at most {most}, found {len(self.chain_ids)}")
        return tuple(_chain(each, "accounts.chain_ids") for each in self.chain_ids) or (_ethereum,)

    @property
    def rpc(self) -> Mapping[int, str]:
        """Chain → the URL that answers for it."""
        found: dict[int, str] = {}
        for each in self.rpc_urls:
            chain, separator, url = each.partition("=")
            number = _chain(chain, "accounts.rpc_urls") if separator else 0
            if urlsplit(url).scheme not in ("http", "https") or number not in self.chains or number in found:
                raise InvalidInput(
                    "accounts.rpc_urls: expected CHAIN=URL once for each chain of accounts.chain_ids at most, found "
                    f"{chain[:20]!r}"
                )
            found[number] = url
        return found

    @property
    def session_limits(self) -> SessionLimits:
        """How long sessions last."""
        return SessionLimits(self.session_idle_minutes * 60, self.session_hours * 3_600)

    @property
    def operator_accounts(self) -> frozenset[str]:
        """The operators' accounts in lower case."""
        for each in self.operators:
            if not _operator.fullmatch(each):
                raise InvalidInput(
                    f"accounts.operators: expected 0x and 40 hex digits, found {each[:80]!r}",
                    hint="of a wallet that is a contract: eip155:CHAIN:0x…",
                )
        return frozenset(each.lower() for each in self.operators)


@dataclass(frozen=True, slots=True)
class QuotasConfig:
    """How much may be asked in a minute, and at once; 0 is without limit. They hold where there are accounts."""

    address_sign_ins: int = 20
    address_requests: int = 600
    account_requests: int = 600
    account_tokens: int = 500_000
    key_requests: int = 600
    key_tokens: int = 500_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value: int = getattr(self, field.name)
            if value > limits.quota_per_minute_max:
                most = limits.quota_per_minute_max
                raise InvalidInput(f"quotas.{field.name}: expected 0 to {most}, found {value}")


def _chain(text: str, key: str) -> int:
    number = int(text) if text.isdecimal() and len(text) <= 16 else 0
    if not 0 < number <= _chain_id_max or str(number) != text:
        raise InvalidInput(f"{key}: expected the number of a chain (EIP-155), found {text[:20]!r}")
    return number
