"""Nodes with accounts and browsers that sign in there, for tests over HTTP."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient
from eth_account.signers.local import LocalAccount

from blyan.node.node import Sources
from blyan.primitives.clock import system_entropy, system_monotonic, system_seconds
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, serving_with
from wallets import sign

ORIGIN = "http://127.0.0.1:8645"
PROMPT = {"model": "random", "prompt": "abc", "max_tokens": 2}
SOURCES = Sources(system_seconds, system_monotonic, system_entropy)


class Browser:
    """One browser: its cookies, and what browsers say of their own accord."""

    def __init__(self, client: TestClient, origin: str = ORIGIN) -> None:
        self.client, self.origin = client, origin
        self.cookies: dict[str, str] = {}
        self.set: list[str] = []

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> ClientResponse:
        sent = {"Origin": self.origin, "Sec-Fetch-Site": "same-origin"} if method != "GET" else {}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        response = await self.client.request(
            method, path, json=body, headers={name: value for name, value in sent.items() if value}
        )
        await response.read()
        for line in response.headers.getall("Set-Cookie", []):
            self.set.append(line)
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies.pop(name, None)
            if value not in ("", '""'):
                self.cookies[name] = value
        self.client.session.cookie_jar.clear()
        return response

    async def message(self, address: str, chain_id: int = 1) -> str:
        response = await self.ask("POST", "/auth/nonce", {"address": address, "chain_id": chain_id})
        assert response.status == 200, await response.text()
        return (await response.json())["message"]

    async def sign_in(self, key: LocalAccount) -> dict[str, Any]:
        message = await self.message(key.address)
        response = await self.ask("POST", "/auth/verify", {"message": message, "signature": sign(key, message)})
        assert response.status == 200, await response.text()
        return await response.json()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("accounts")
    save_random_checkpoint(folder / "hf", vocab_size=260, max_position_embeddings=64)
    save_byte_tokenizer(folder / "hf")
    import_into(folder / "data", folder / "hf", "random")
    return folder / "data"


class Nodes:
    """Starts nodes for one test, each on a data directory of its own."""

    def __init__(self, stack: AsyncExitStack, installed: Path, folder: Path) -> None:
        self._stack, self._installed, self._folder, self._count = stack, installed, folder, 0

    async def start(
        self,
        *,
        quotas: dict[str, object] | None = None,
        http: dict[str, object] | None = None,
        ledger: dict[str, object] | None = None,
        folder: Path | None = None,
        **accounts,
    ):
        """A node on a fresh data directory, or once more on `folder`; its client knows it as `data_dir`."""
        if folder is None:
            self._count += 1
            folder = self._folder / str(self._count)
            await asyncio.to_thread(shutil.copytree, self._installed, folder)
        sections = {"accounts": {"origin": ORIGIN, **accounts}}
        sections |= {"quotas": quotas or {}, "http": http or {}, "ledger": ledger or {}}
        client = await self._stack.enter_async_context(serving_with(SOURCES, folder, **sections))
        client.data_dir = folder  # type: ignore[attr-defined]
        return client


@asynccontextmanager
async def _nodes(installed: Path, folder: Path) -> AsyncIterator[Nodes]:
    async with AsyncExitStack() as stack:
        yield Nodes(stack, installed, folder)


@pytest.fixture
async def nodes(installed: Path, tmp_path: Path) -> AsyncIterator[Nodes]:
    async with _nodes(installed, tmp_path) as found:
        yield found


async def code_of(response: ClientResponse) -> tuple[int, str]:
    error = (await response.json())["error"]
    return response.status, error["code"] if isinstance(error, dict) else error
