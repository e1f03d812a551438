"""Connections that come while the event loop is busy: all are taken, none is turned away or waits for a second SYN."""

import asyncio
import contextlib
import socket
import time

from aiohttp import web

from blyan.api.door import listen

MANY = 400


async def test_hundreds_of_connections_at_once_are_taken() -> None:
    """They connect while the loop does nothing; those that the kernel does not queue would wait a second and more."""
    app = web.Application()
    runner = web.AppRunner(app)
    await runner.setup()
    listening, port = await listen(runner, "127.0.0.1", 0, lambda: "request")
    try:
        with contextlib.ExitStack() as stack:
            began = time.monotonic()
            for _ in range(MANY):  # blocking, in the loop's own thread
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            assert time.monotonic() - began < 0.9
            assert runner.server is not None
            async with asyncio.timeout(10):
                while len(runner.server.connections) < MANY:  # noqa: ASYNC110 - what is waited for tells nobody
                    await asyncio.sleep(0.01)
    finally:
        listening.close()
        await runner.cleanup()
