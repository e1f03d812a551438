"""What every request passes, seen from the socket: names of this node, origins, and one response per request."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from blyan.api.middleware import add_security_headers, faults_as_json, known_host_and_origin
from blyan.api.state import node_key
from blyan.node.config import NodeConfig
from blyan.node.http_config import HttpConfig
from blyan.primitives.errors import Unavailable

Ask = Callable[[bytes], "asyncio.Future[bytes]"]


async def answer(_: web.Request) -> web.Response:
    return web.Response(text="answered")


async def broken_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"the beginning")
    raise Unavailable("too late for a status")


@asynccontextmanager
async def door(**http: object) -> AsyncIterator[Ask]:
    """A server with the middleware alone; sends raw bytes and returns all that comes until the end."""
    app = web.Application(middlewares=[faults_as_json, known_host_and_origin])
    app[node_key] = SimpleNamespace(config=NodeConfig(Path(), HttpConfig(**http)))
    app.on_response_prepare.append(add_security_headers)
    app.router.add_route("*", "/", answer)
    app.router.add_get("/broken-off", broken_off)
    async with TestServer(app) as server:

        async def ask(raw: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(raw)
            async with asyncio.timeout(5):
                received = await reader.read()
            writer.close()
            return received

        yield ask


def status(received: bytes) -> int:
    return int(received.split(b" ", 2)[1])


def request(host: str, *headers: str, method: str = "GET", path: str = "/") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", "Content-Length: 0", *headers, "", ""]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    ("host", "http", "code"),
    [
        ("127.0.0.1:1", {}, 200),
        ("LocalHost", {}, 200),
        ("[::1]:1", {}, 200),
        ("evil.example:1", {}, 403),
        ("127.0.0.2:1", {}, 403),
        ("127.0.0.2:1", {"listen": "127.0.0.2:0"}, 200),
        ("blyan.EXAMPLE:1", {"allowed_hosts": ("Blyan.Example",)}, 200),
    ],
)
async def test_a_node_answers_to_its_names_and_no_other(host: str, http: dict[str, object], code: int) -> None:
    """Loopback names, the host it listens on, and those that were configured, in any case of letters."""
    async with door(**http) as ask:
        assert status(await ask(request(host))) == code


async def test_a_request_without_host_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where this machine's own name, which aiohttp would take instead, is a loopback name."""
    monkeypatch.setattr(socket, "getfqdn", lambda *_: "localhost")
    async with door() as ask:
        assert status(await ask(b"GET / HTTP/1.0\r\n\r\n")) == 403


@pytest.mark.parametrize(
    ("origin", "code"),
    [("http://127.0.0.1:1", 200), ("http://127.0.0.1:2", 403), ("null", 403), ("http://[::1", 403), ("", 403)],
)
async def test_only_the_own_page_may_post(origin: str, code: int) -> None:
    """Another port, an opaque origin and one that is no URL are denied."""
    async with door() as ask:
        received = await ask(request("127.0.0.1:1", f"Origin: {origin}", method="POST"))
        assert status(received) == code


async def test_a_fault_after_the_response_began_cuts_it_off(caplog: pytest.LogCaptureFixture) -> None:
    """No second status line, no regular end that would pass for a whole answer; the log has the code, no message."""
    async with door() as ask:
        received = await ask(request("127.0.0.1", path="/broken-off"))
    assert received.count(b"HTTP/1.1") == 1
    assert received.endswith(b"the beginning\r\n")
    assert "cut off: unavailable" in caplog.text
    assert "too late for a status" not in caplog.text
