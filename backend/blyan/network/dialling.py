"""Dialling a peer: TLS whose certificate is known or learnt, our proofs, its proofs, and then a link."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import orjson

from blyan.network.connection import Connection, NoAnswer, NoHttp
from blyan.network.door import blobs_path, challenge_path, link_path, proofs_header
from blyan.network.frames import FrameSocket
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
    """How this process calls others. For the network's loop."""

    identity: Identity
    swarm: Swarm
    handlers: dict[str, Handler]
    monotonic: Monotonic
    entropy: Entropy
    through: Through | None = None
    context: SSLContext = field(default_factory=client_context)

    async def dial(self, url: str, expected: Expected, ours: Summary) -> Link:
        """A link to `wss://HOST:PORT` or `relay:NODE`, not read yet; `PeerFault` or `Denied` says why there is none."""
        try:
            async with asyncio.timeout(limits.link_handshake_seconds_max):
                if url.startswith(_relayed):
                    return await self._dial_through(url, expected, ours)
                return await self._dial(url, url.replace("wss://", "https://", 1), expected, ours)
        except TimeoutError:
            found = f"silence for {limits.link_handshake_seconds_max:g} s"
        except OSError as reason:
            found = f"{type(reason).__name__} {reason}".rstrip()
        except (NoAnswer, NoHttp) as reason:
            found = str(reason)
        raise PeerFault(f"peer {url}: expected a link, found {found}", detail={"peer": url}) from None

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
        parts = urlsplit(url)
        connection = await Connection.open(parts, self.context, "", limits.link_handshake_seconds_max)
        try:
            challenge = await _challenged(connection, parts.netloc, url)
            if expected.node not in (None, challenge.node) or expected.certificate not in (None, challenge.certificate):
                found = f"{challenge.node} or another process"
                raise PeerFault(f"peer {url}: expected node {expected.node}, found {found}")
            if connection.certificate != challenge.certificate:  # somebody in between
                raise PeerFault(f"peer {url}: expected the certificate that it names, found another")
            socket, peer = await self._proved(connection, parts.netloc, url, challenge, ours)
        except BaseException:
            connection.close()
            raise
        return Link(socket, peer, self.handlers, self.monotonic, dialled=True, url=said_url)

    async def _proved(
        self, connection: Connection, host: str, url: str, challenge: Challenge, ours: Summary
    ) -> tuple[FrameSocket, Summary]:
        """Our proofs there and theirs here, on the connection whose certificate both are about."""
        key = self.identity.key
        version = agreed_version(challenge.versions)
        caller = Caller(key.public, self.identity.boot, self.entropy(nonce_bytes).hex(), version)
        said = transcript(challenge, caller)
        shown = {
            **caller.fields(),
            "challenge": challenge.nonce,
            **proofs(key, self.swarm, "peer-caller", said, ours),
        }
        fields = {proofs_header: base64.b64encode(orjson.dumps(shown)).decode("ascii")}
        socket = await connection.upgraded(host, link_path, fields, self.entropy(16), limits.link_handshake_bytes_max)
        try:
            welcome = dict(decode(await socket.one()).fields)
            peer = check_proofs(challenge, self.swarm, "peer-answerer", said, welcome)
        except MalformedMessage as reason:
            raise PeerFault(f"peer {url}: expected a welcome, found {reason.message}") from None
        socket.allow(limits.link_frame_bytes_max)  # no other frame was looked at before: `one` holds them up
        return socket, peer


async def _challenged(connection: Connection, host: str, url: str) -> Challenge:
    head = await connection.get(host, challenge_path, None)
    if head.status != 200 or head.length > _challenge_bytes_max:
        raise PeerFault(f"peer {url}: expected a challenge, found status {head.status} and {head.length} bytes")
    raw = bytearray(head.length)
    await connection.read(memoryview(raw), _nobody)
    try:
        return parse_challenge(as_dict(orjson.loads(raw)) or {})
    except orjson.JSONDecodeError:
        raise PeerFault(f"peer {url}: expected a challenge, found no JSON") from None


def _nobody(_count: int) -> None:
    """Nobody counts."""
