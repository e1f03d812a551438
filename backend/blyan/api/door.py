"""One connection of the API: its limits, and our own words where aiohttp would answer before any route is known."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from blyan.api.errors import error_response
from blyan.api.middleware import harden
from blyan.primitives import limits
from blyan.primitives.errors import Fault, InternalError, InvalidInput, PayloadTooLarge

_accepted_at_once: Final = 8  # connections on one turn of the loop
_connection_limits: Final[dict[str, Any]] = {
    "max_line_size": limits.header_line_bytes_max,
    "max_field_size": limits.header_line_bytes_max,
    "max_headers": limits.headers_max,
    "keepalive_timeout": limits.idle_connection_seconds_max,
    "access_log": None,
}


class Door(web.RequestHandler):
    """Speaks HTTP on one connection. What it cannot read is answered in our error shape, and the connection ends."""

    def __init__(self, server: web.Server, loop: asyncio.AbstractEventLoop, request_id: Callable[[], str]):
        super().__init__(server, loop=loop, **_connection_limits)
        self._server = server
        self._request_id = request_id

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or cut it at once if there are too many."""
        super().connection_made(transport)
        if len(self._server.connections) > limits.connections_max:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no request; `ConnectionError` if one has begun."""
        del message  # it quotes the bytes
        if request.writer.output_size > 0:
            raise ConnectionError("a response that has begun cannot become an error")
        fault, status = _refused(exc, status)
        response = error_response(fault, status=status)
        response.headers["X-Request-Id"] = self._request_id()
        harden(response)
        response.force_close()
        return response


async def listen(
    runner: web.AppRunner, host: str, port: int, request_id: Callable[[], str]
) -> tuple[asyncio.Server, int]:
    """Doors on a socket for a runner that was set up, and the port that was taken."""
    server, loop = runner.server, asyncio.get_running_loop()
    assert server is not None, "set up"
    listening = await loop.create_server(lambda: Door(server, loop, request_id), host, port, backlog=_accepted_at_once)
    for each in listening.sockets:  # asyncio has one number for both
        with socket.socket(fileno=os.dup(each.fileno())) as same:
            same.listen(limits.connections_max)
    return listening, listening.sockets[0].getsockname()[1]


async def expected(request: web.Request) -> web.StreamResponse | None:
    """Answer `Expect`: go on for `100-continue`, 417 for anything else (RFC 9110, 10.1.1)."""
    wanted = request.headers.get("Expect", "")
    if wanted.lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
        return None
    fault = InvalidInput(f"Expect: expected 100-continue, found {wanted[:80]!r}")
    return error_response(fault, status=417, path=request.path)


def _refused(reason: BaseException | None, status: int) -> tuple[Fault, int]:
    if isinstance(reason, LineTooLong):
        most = limits.header_line_bytes_max
        return PayloadTooLarge(f"headers: expected lines of at most {most} bytes, found more"), 431
    if isinstance(reason, HttpProcessingError) or status < 500:
        return InvalidInput("request: expected HTTP/1.1, found bytes that do not parse"), 400
    return InternalError(f"internal error: {type(reason).__name__}"), 500
