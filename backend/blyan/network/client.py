"""One question to one peer over its public routes: deadline, limit on the answer, retries, and no redirect followed.

A peer's word is never believed here or by callers: what comes is bytes, which whoever asked checks against a signature
or a digest. A peer that does not answer is asked again, one that answers wrongly is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from blyan.network.peers import Peer
from blyan.primitives import limits
from blyan.primitives.errors import NotFound, PeerFault

_pause_seconds: Final = 0.5  # before the second try, twice as long before each other
_again: Final = frozenset({429, 500, 502, 503, 504})

Pause = Callable[[float], Awaitable[None]]


class PeerClient:
    """A context: connections to one peer, kept for its length."""

    def __init__(self, peer: Peer, *, pause: Pause = asyncio.sleep) -> None:
        self.peer = peer
        self._pause = pause

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=limits.peer_seconds_max, sock_connect=10)
        # answers come as they are: an encoding could make much of little
        self._session = aiohttp.ClientSession(
            timeout=timeout, auto_decompress=False, headers={"Accept-Encoding": "identity"}, trust_env=False
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, reason: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, path: str, bytes_max: int, *, span: tuple[int, int] | None = None, **query: str) -> bytes:
        """The body of an answer of at most `bytes_max`; with `span`, exactly those bytes of it.

        `NotFound` where the peer says 404, `PeerFault` names peer and path for all else that is no such body.
        """
        assert bytes_max <= limits.peer_body_bytes_max, "a body that may be asked for"
        why = ""
        for attempt in range(limits.peer_attempts_max):
            if attempt:
                await self._pause(_pause_seconds * 2 ** (attempt - 1))
            try:
                return await self._once(path, bytes_max, span, query)
            except _TryAgain as reason:
                why = str(reason)
            except (aiohttp.ClientError, TimeoutError, OSError) as reason:
                why = f"{type(reason).__name__} {reason}".rstrip()
        raise self.fault(path, f"expected an answer in {limits.peer_attempts_max} attempts", why)

    def fault(self, path: str, expected: str, found: str) -> PeerFault:
        """What is wrong with an answer of this peer."""
        return PeerFault(f"peer {self.peer.url}{path}: {expected}, found {found}", detail={"peer": self.peer.url})

    async def _once(self, path: str, bytes_max: int, span: tuple[int, int] | None, query: dict[str, str]) -> bytes:
        headers = {} if span is None else {"Range": f"bytes={span[0]}-{span[1] - 1}"}
        expected = 200 if span is None else 206
        kept: dict[str, Any] = {"params": query} if query else {}
        async with self._session.get(self.peer.url + path, headers=headers, allow_redirects=False, **kept) as response:
            if response.status in _again:
                raise _TryAgain(f"status {response.status}")
            if response.status == 404:
                raise NotFound(f"peer {self.peer.url}{path}: expected it there, found nothing")
            if response.status != expected:
                raise self.fault(path, f"expected status {expected}", str(response.status))
            body = bytearray()
            while chunk := await response.content.read(min(bytes_max + 1 - len(body), limits.MIB)):
                body += chunk
                if len(body) > bytes_max:
                    raise self.fault(path, f"expected at most {bytes_max} bytes", "more")
            if span is not None and len(body) != span[1] - span[0]:
                raise self.fault(path, f"expected {span[1] - span[0]} bytes", str(len(body)))
            return bytes(body)


class _TryAgain(Exception):
    """A status that may be another one in a moment."""
