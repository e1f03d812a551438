"""Sending a piece of a streamed answer to a reader that may be slow, or stand still.

What the reader has not taken is bounded by the socket's buffers: a write waits until there is room. One that waits too
long ends the connection, and with it the generation, so that a reader that stands still holds no place.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from blyan.primitives import limits

_free_bytes: Final = 32 * limits.KIB  # below half of what asyncio buffers before a write has to wait


class ReaderStalled(ConnectionResetError):
    """The caller did not read for too long; its connection is cut."""


async def send_piece(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Write to a prepared response; `ReaderStalled` if there is no room for `send_seconds_max`."""
    transport = request.transport
    if transport is not None and transport.get_write_buffer_size() + len(data) < _free_bytes:
        await response.write(data)  # cannot wait: a timer for each token would cost more than the token's other work
        return
    try:
        async with asyncio.timeout(limits.send_seconds_max):
            await response.write(data)
    except TimeoutError:
        if transport is not None:
            transport.abort()  # closing would wait for the reader to take the rest
        raise ReaderStalled(f"expected the reader to take {len(data)} bytes, found it standing still") from None
