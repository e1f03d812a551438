"""Who is no member, or not who it says it is, gets no frame through a peer port, which answers only a challenge."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import orjson
import pytest

from blyan.network import door
from blyan.network.dialling import Expected
from blyan.network.door import blobs_path, challenge_path, link_path, proofs_header
from blyan.network.handshake import Caller, Challenge, Swarm, parse_challenge, proofs, transcript
from blyan.network.identity import client_context
from blyan.primitives.clock import system_entropy
from blyan.primitives.errors import Denied, PeerFault
from blyan.wire.framing import decode
from relays import Impersonator, RelayNode

OTHER_SWARM = Swarm(bytes(16))


@dataclass
class Attacker:
    """Somebody with a key and all of the protocol, but what a test leaves out."""

    node: RelayNode  # that is attacked
    me: RelayNode  # whose key and summary are shown
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return self.node.url.replace("wss", "https")

    async def challenged(self) -> Challenge:
        async with self.session.get(self.url + challenge_path) as response:
            return parse_challenge(orjson.loads(await response.read()))

    def shown(self, to: Challenge, swarm: Swarm | None = None, **changes: Any) -> dict[str, Any]:
        """Proofs as a member would show them."""
        version = changes.get("version", 1)
        caller = Caller(self.me.key, self.me.identity.boot, system_entropy(32).hex(), version)
        said = transcript(to, caller)
        made = proofs(self.me.identity.key, swarm or self.me.swarm, "peer-caller", said, self.me.summary())
        return {**caller.fields(), "challenge": to.nonce, **made, **changes}

    async def tried(self, shown: object, path: str = link_path) -> bool:
        """Whether a link came up with these proofs; what is answered otherwise must be nothing."""
        header = base64.b64encode(shown if isinstance(shown, bytes) else orjson.dumps(shown)).decode()
        asked = time.monotonic()
        try:
            async with self.session.ws_connect(self.url + path, headers={proofs_header: header}) as socket:
                frame = await socket.receive(timeout=2)
                return isinstance(frame.data, bytes) and "membership" in decode(frame.data).fields
        except aiohttp.WSServerHandshakeError as reason:
            pytest.fail(f"expected no answer, found {reason.status}")
        except aiohttp.ClientError:
            assert time.monotonic() - asked < 2
            return False


@pytest.fixture
async def attacker() -> AsyncIterator[Attacker]:
    async with RelayNode() as node, RelayNode() as me:
        connector = aiohttp.TCPConnector(ssl=False, limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector, max_line_size=1 << 20) as session:
            yield Attacker(node, me, session)
        assert all(link.peer.node == me.key for link in node.links)


async def test_a_member_gets_in(attacker: Attacker) -> None:
    """So that what the others show differs in one thing."""
    assert await attacker.tried(attacker.shown(await attacker.challenged()))


async def test_without_the_code_nobody_gets_in(attacker: Attacker) -> None:
    """No membership, that of another swarm, or one of nonsense."""
    for changes in ({"membership": "00" * 32}, {"membership": ""}, {"membership": None}, {"membership": "é" * 64}):
        assert not await attacker.tried(attacker.shown(await attacker.challenged(), **changes))
    assert not await attacker.tried(attacker.shown(await attacker.challenged(), OTHER_SWARM))
    assert attacker.node.door.refused >= 5


async def test_proofs_serve_once(attacker: Attacker) -> None:
    """A replay of what opened a link opens none."""
    shown = attacker.shown(await attacker.challenged())
    assert await attacker.tried(shown)
    assert not await attacker.tried(shown)


async def test_proofs_for_another_challenge_are_none(attacker: Attacker) -> None:
    """Of this door, under the number of a fresh one; and one that was never given."""
    old, fresh = await attacker.challenged(), await attacker.challenged()
    assert not await attacker.tried(attacker.shown(old, challenge=fresh.nonce))
    assert not await attacker.tried(attacker.shown(replace(fresh, nonce="ab" * 32)))


async def test_a_challenge_does_not_last(attacker: Attacker, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer after the seconds of a handshake is none."""
    monkeypatch.setattr(door.limits, "link_handshake_seconds_max", 0.05)
    shown = attacker.shown(await attacker.challenged())
    await asyncio.sleep(0.2)
    assert not await attacker.tried(shown)


async def test_a_version_that_was_not_offered_opens_nothing(attacker: Attacker) -> None:
    """Neither one that is proved like any other nor one that stands in a challenge which somebody changed."""
    for version in (0, 2, -1, "1", True, None):
        assert not await attacker.tried(attacker.shown(await attacker.challenged(), version=version))
    altered = replace(await attacker.challenged(), versions=(1, 2))
    assert not await attacker.tried(attacker.shown(altered))


async def test_another_nodes_summary_opens_nothing(attacker: Attacker) -> None:
    """Nor another key in the proofs, nor a summary of another process, nor one that is forged."""
    other = RelayNode()
    of_other = other.summary().signed.decode()
    assert not await attacker.tried(attacker.shown(await attacker.challenged(), summary=of_other))
    assert not await attacker.tried(attacker.shown(await attacker.challenged(), node=other.key))
    before = replace(attacker.me.summary(), boot="cd" * 16).sign(attacker.me.identity.key).signed.decode()
    assert not await attacker.tried(attacker.shown(await attacker.challenged(), summary=before))
    ours = attacker.me.summary().signed.decode()
    forged = ours.replace(attacker.me.identity.certificate_hash, "ef" * 32)
    assert forged != ours
    assert not await attacker.tried(attacker.shown(await attacker.challenged(), summary=forged))


async def test_proofs_made_for_a_man_in_the_middle_serve_him_nowhere(attacker: Attacker) -> None:
    """He shows his own certificate as the node's, or passes the node's on under his own TLS."""
    for claims in (True, False):
        async with Impersonator(attacker.node, claims_own_certificate=claims) as middle, RelayNode() as caller:
            with pytest.raises((PeerFault, Denied)):
                await caller.dial(f"wss://127.0.0.1:{middle.port}")
            with pytest.raises((PeerFault, Denied)):
                await caller.dial(f"wss://127.0.0.1:{middle.port}", Expected(attacker.node.key))
            assert not caller.links
    assert not attacker.node.links


@pytest.mark.parametrize(
    "header",
    [b"", b"[]", b"{}", b"nonsense", b"\xff\xfe", b"[" * 9_000, b'{"challenge": ' + b"1" * 4_000 + b"}"],
    ids=lambda header: repr(header[:12]),
)
async def test_headers_that_are_no_proofs_are_answered_with_nothing(attacker: Attacker, header: bytes) -> None:
    """And the door goes on."""
    assert not await attacker.tried(header)
    assert await attacker.tried(attacker.shown(await attacker.challenged()))


async def test_fields_of_every_type_are_answered_with_nothing(attacker: Attacker) -> None:
    """In place of each of the proofs."""
    names = list(attacker.shown(await attacker.challenged()))
    for name in names:
        for value in (None, 7, -1, 1e300, [], {}, "x", True, "0" * 64, [["deep"]]):
            shown = attacker.shown(await attacker.challenged())
            if value != shown[name] and not (name == "version" and value is True):
                assert not await attacker.tried({**shown, name: value}), f"{name}: {value!r}"
    assert await attacker.tried(attacker.shown(await attacker.challenged()))


async def test_headers_beyond_the_limit_end_the_connection(attacker: Attacker) -> None:
    """Sixty-four kilobytes of proofs."""
    with contextlib.suppress(AssertionError, pytest.fail.Exception):  # 400 of the parser, which read no proofs
        assert not await attacker.tried(b"x" * (64 << 10))
    assert not attacker.node.links
    assert await attacker.tried(attacker.shown(await attacker.challenged()))


@pytest.mark.parametrize("path", ["/", "/livez", "/v1/models", blobs_path + "/" + "ab" * 32, link_path, "/peer/v1/x"])
async def test_every_other_path_is_silent(attacker: Attacker, path: str) -> None:
    """Also to plain questions, with any method: the connection ends without a byte."""
    for method in ("GET", "POST", "HEAD", "OPTIONS"):
        with pytest.raises(aiohttp.ClientError) as caught:
            await attacker.session.request(method, attacker.url + path, headers={"Authorization": "Bearer " + "0" * 64})
        assert not isinstance(caught.value, aiohttp.ClientResponseError)


async def test_who_says_nothing_is_let_go(attacker: Attacker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections without TLS, with TLS alone, and with half a header or one byte at a time, end in seconds."""
    monkeypatch.setattr(door.limits, "link_handshake_seconds_max", 1.0)
    async with RelayNode() as node:
        began = time.monotonic()

        async def dripped(writer: asyncio.StreamWriter, say: bytes) -> None:
            for at in range(len(say)):
                writer.write(say[at : at + 1])
                await asyncio.sleep(0.05)

        async def lasted(tls: bool, say: bytes) -> float:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", node.port, ssl=client_context() if tls else None
            )
            drip = asyncio.create_task(dripped(writer, say))
            try:
                async with asyncio.timeout(8):
                    assert await reader.read() == b""
            except ConnectionError:
                pass
            finally:
                drip.cancel()
                writer.transport.abort()
            return time.monotonic() - began

        half = b"GET /peer/v1/challenge HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"y" * 100
        seconds = await asyncio.gather(
            *(lasted(False, each) for each in (b"", b"\x16\x03\x01")),
            *(lasted(True, each) for each in (b"", half[:40], half)),
        )
        assert max(seconds) < 6
