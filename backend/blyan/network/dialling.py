"""Dialling a peer: TLS whose certificate is known or learnt, our proofs, its proofs, and then a link."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import aiohttp
import orjson

from blyan.network.door import blobs_path, challenge_path, link_path, proofs_header
from blyan.network.handshake import (
    Caller,
    Challenge,
    Swarm,
    agreed_version,
    check_proofs,
    nonce_bytes,
    parse_challenge,
    proofs,
    transcript,
)
from blyan.network.identity import Identity, client_context
from blyan.network.link import Handler, Link
from blyan.primitives import limits
from blyan.primitives.clock import Entropy, Monotonic
from blyan.primitives.errors import Denied, MalformedMessage, PeerFault
from blyan.primitives.ids import PublicKey, public_key
from blyan.wire.fields import as_dict
from blyan.wire.framing import decode
from blyan.wire.peer import Summary

_challenge_bytes_max: Final = 1_024
_relayed: Final = "relay:"

# The keys of a relay and of a node behind it → an address here, under which that node's peer port is while it is open.
Through: TypeAlias = Callable[[PublicKey, PublicKey], AbstractAsyncContextManager[str]]


def relayed_url(relay: PublicKey) -> str:
    """The address of a node that is reached through another one."""
    return _relayed + relay


def blobs_url(url: str) -> str:
    """Where the peer port at `wss://HOST:PORT` serves blobs to whoever shows a token."""
    return url.replace("wss://", "https://", 1) + blobs_path


@dataclass(frozen=True, slots=True)
class Expected:
    """Whom a dialler wants to reach: what is None is learnt."""

    node: str | None = None
    certificate: str | None = None


@dataclass(slots=True, eq=False)
class Dialler:
    """A context: how this process calls others. For the network's loop."""

    identity: Identity
    swarm: Swarm
    handlers: dict[str, Handler]
    monotonic: Monotonic
    entropy: Entropy
    through: Through | None = None
    _session: aiohttp.ClientSession = field(init=False)

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, ssl=client_context())
        self._session = aiohttp.ClientSession(connector=connector, trust_env=False, auto_decompress=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, reason: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def dial(self, url: str, expected: Expected, ours: Summary) -> Link:
        """A link to `wss://HOST:PORT` or `relay:NODE`, not read yet; `PeerFault` or `Denied` says why there is none."""
        try:
            async with asyncio.timeout(limits.link_handshake_seconds_max):
                if url.startswith(_relayed):
                    return await self._dial_through(url, expected, ours)
                return await self._dial(url, url.replace("wss://", "https://", 1), expected, ours)
        except (aiohttp.ClientError, OSError, TimeoutError) as reason:
            why = f"{type(reason).__name__} {reason}".rstrip()
            raise PeerFault(f"peer {url}: expected a link, found {why}", detail={"peer": url}) from None

    async def _dial_through(self, url: str, expected: Expected, ours: Summary) -> Link:
        """The same through a relay, to the node that is expected: whatever the relay does is a fault of the way."""
        if self.through is None or expected.node is None:
            raise PeerFault(f"peer {url}: expected a node that is known and a way to its relay, found none")
        async with self.through(public_key(url.removeprefix(_relayed)), PublicKey(expected.node)) as local:
            try:
                return await self._dial(url, local, expected, ours)
            except Denied as reason:
                raise PeerFault(f"peer {expected.node[:12]} through a relay: {reason.message}") from None

    async def _dial(self, said_url: str, url: str, expected: Expected, ours: Summary) -> Link:
        challenge = await self._challenged(url)
        if expected.node not in (None, challenge.node) or expected.certificate not in (None, challenge.certificate):
            raise PeerFault(f"peer {url}: expected node {expected.node}, found {challenge.node} or another process")
        version = agreed_version(challenge.versions)
        key = self.identity.key
        caller = Caller(key.public, self.identity.boot, self.entropy(nonce_bytes).hex(), version)
        said = transcript(challenge, caller)
        shown = {
            **caller.fields(),
            "challenge": challenge.nonce,
            **proofs(key, self.swarm, "peer-caller", said, ours),
        }
        socket = await self._session.ws_connect(
            url + link_path,
            ssl=aiohttp.Fingerprint(bytes.fromhex(challenge.certificate)),
            headers={proofs_header: base64.b64encode(orjson.dumps(shown)).decode("ascii")},
            max_msg_size=limits.link_frame_bytes_max,
            compress=0,
        )
        try:
            frame = await socket.receive()
            fields: dict[str, Any] = dict(decode(frame.data).fields) if isinstance(frame.data, bytes) else {}
            peer = check_proofs(challenge, self.swarm, "peer-answerer", said, fields)
        except BaseException as reason:
            await socket.close()
            if isinstance(reason, MalformedMessage):
                raise PeerFault(f"peer {url}: expected a welcome, found {reason.message}") from None
            raise
        return Link(socket, peer, self.handlers, self.monotonic, dialled=True, url=said_url)

    async def _challenged(self, url: str) -> Challenge:
        # The link has a connection of its own, which is held to the certificate: this one is of no more use.
        headers = {"Connection": "close"}
        async with self._session.get(url + challenge_path, allow_redirects=False, headers=headers) as response:
            raw = await response.content.read(_challenge_bytes_max)
            if response.status != 200:
                raise PeerFault(f"peer {url}: expected a challenge, found status {response.status}")
        try:
            return parse_challenge(as_dict(orjson.loads(raw)) or {})
        except orjson.JSONDecodeError:
            raise PeerFault(f"peer {url}: expected a challenge, found no JSON") from None
