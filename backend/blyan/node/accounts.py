"""Accounts of a running node, constructed from its configuration: the door for wallets, API keys, quotas, roles.

A node without `accounts.origin` has none of this: it is free and open for whoever reaches its loopback address.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from blyan.auth import siwe
from blyan.auth.api_keys import ApiKeys, KeyRing
from blyan.auth.origin import Origin
from blyan.auth.quotas import Charge, MemoryQuotas, Quotas, subject
from blyan.auth.sign_in import Door, SignInStore
from blyan.auth.siwe import Address, ContractCheck
from blyan.auth.sqlite_store import SqliteStore, file_name
from blyan.auth.wallet_call import question, says_yes
from blyan.network.evm import eth_call
from blyan.node.accounts_config import AccountsConfig
from blyan.node.config import NodeConfig
from blyan.primitives.clock import Entropy, Monotonic, UnixSeconds
from blyan.primitives.errors import RateLimited, Unauthenticated, Unavailable

Role: TypeAlias = Literal["user", "operator"]

_log = logging.getLogger(__name__)


class Accounts:
    """Everything about who asks. Construct in the node's start, use and close in its event loop."""

    def __init__(
        self,
        config: AccountsConfig,
        folder: Path,
        *,
        now: UnixSeconds,
        monotonic: Monotonic,
        entropy: Entropy,
    ) -> None:
        assert config.where is not None, "asked before"
        try:
            siwe.load()
        except ImportError:
            raise Unavailable(
                "accounts: expected the packages that check signatures of wallets, found them missing",
                hint='pip install "blyan[accounts]", or take accounts.origin out of node.toml',
            ) from None
        self.origin: Origin = config.where
        self._operators = config.operator_accounts
        self._rows = SqliteStore(folder / file_name, now)
        store, self.quotas = _shared(config.redis_url, self._rows, monotonic)
        self._store: SignInStore = store
        keys: ApiKeys = self._rows
        self.keys = KeyRing(keys, now=now, entropy=entropy)
        self.door = Door(
            config.where,
            config.chains,
            store,
            bounds=config.session_limits,
            contracts=_contract_check(config) if config.rpc else None,
            now=now,
            entropy=entropy,
        )

    def role(self, account: str) -> Role:
        """What an account may be now: who is taken out of the configuration is an operator no more."""
        return "operator" if account.lower() in self._operators else "user"

    async def charge(self, charges: Sequence[Charge]) -> None:
        """Bear the charges; `RateLimited` says when to come again if a quota does not allow them."""
        seconds = await self.quotas.take(charges) if charges else 0.0
        if seconds:
            raise RateLimited(
                f"quota: expected fewer requests or tokens in a minute, found it used up for {seconds:.1f} s",
                detail={"retry_after_seconds": max(1, int(seconds) + 1)},
                hint="come again after that time",
            )

    async def close(self) -> None:
        """Close files and connections."""
        await self.quotas.close()
        if self._store is not self._rows:
            await self._store.close()
        await self._rows.close()


def open_accounts(config: NodeConfig, *, now: UnixSeconds, monotonic: Monotonic, entropy: Entropy) -> Accounts | None:
    """The accounts of a node, None where none are configured; the log says which it is."""
    if config.accounts.where is None:
        _log.info("no accounts: free and open for whoever reaches %s", config.http.listen)
        return None
    _log.info("accounts: people sign in at %s", config.accounts.origin)
    return Accounts(config.accounts, config.data_dir, now=now, monotonic=monotonic, entropy=entropy)


def charge(kind: str, name: str, per_minute: int, cost: int = 1) -> list[Charge]:
    """One charge, none where the quota is without limit or nothing is to be borne."""
    return [Charge(subject(kind, name), per_minute, cost)] if per_minute and cost > 0 else []


def _shared(url: str, rows: SqliteStore, monotonic: Monotonic) -> tuple[SignInStore, Quotas]:
    """Sign-ins, sessions and quotas: this node's own, or those of all nodes that share a Redis."""
    alone = MemoryQuotas(monotonic)
    if not url:
        return rows, alone
    from blyan.auth.redis_quotas import RedisQuotas
    from blyan.auth.redis_store import RedisStore
    from blyan.storage.redis_link import RedisLink  # with the package that it needs

    link = RedisLink(url, "accounts", "accounts.redis_url")
    return RedisStore(link), RedisQuotas(link, alone, monotonic)


def _contract_check(config: AccountsConfig) -> ContractCheck:
    async def check(chain_id: int, wallet: Address, digest: bytes, signature: bytes) -> bool:
        url = config.rpc.get(chain_id)
        if url is None:
            raise Unauthenticated(
                f"signature: expected one of the key of {wallet}, found another",
                hint=f"wallets that are contracts need an RPC of chain {chain_id} in accounts.rpc_urls",
            )
        return says_yes(await eth_call(url, question(wallet, digest, signature)), chain_id)

    return check
