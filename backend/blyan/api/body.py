"""Reading a JSON body within limits: its bytes, the time that they take, and how deep it goes."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import orjson
from aiohttp import web

from blyan.api.traffic import traffic_key
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, PayloadTooLarge, RequestTimeout

raw_key: Final = web.RequestKey("raw", bytes)  # the body as it came, unpacked; a receipt has its digest
held_key: Final = web.RequestKey("held", int)  # bytes of it that `Traffic` counts until the request has ended


async def json_object(request: web.Request, *, bytes_max: int = limits.request_body_bytes_max) -> dict[str, Any]:
    """The body as a JSON object.

    `PayloadTooLarge` before more than `bytes_max` are held, unpacked ones if it is compressed; `QueueFull` where all
    requests hold too many; `RequestTimeout` if it is not whole in `body_seconds_max`; `InvalidInput` for anything that
    is no object, or nested too deep.
    """
    raw = request[raw_key] = await read_body(request, bytes_max=bytes_max)
    try:
        value: object = orjson.loads(raw)
    except orjson.JSONDecodeError as reason:
        raise InvalidInput(f"body: expected JSON, found {reason}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"body: expected a JSON object, found {type(value).__name__}")
    _want_flat(cast("dict[str, Any]", value))
    return cast("dict[str, Any]", value)


async def read_body(request: web.Request, *, bytes_max: int) -> bytes:
    """The bytes of a body; the faults of `json_object`."""
    traffic = request.app[traffic_key]
    if request.content_length is not None and request.content_length > bytes_max:
        raise PayloadTooLarge(f"body: expected at most {bytes_max} bytes, found {request.content_length}")
    taken = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds_max):
            async for chunk in request.content.iter_any():
                traffic.hold(len(chunk))
                request[held_key] = request.get(held_key, 0) + len(chunk)
                taken += chunk
                if len(taken) > bytes_max:
                    raise PayloadTooLarge(f"body: expected at most {bytes_max} bytes, found more")
    except web.RequestPayloadError as reason:
        # or the server reads what is left of it, and logs the same again with every line of its own code
        request.content.feed_eof()
        request.protocol.close()  # after the answer: where the next request begins, nobody knows
        raise InvalidInput(f"body: expected one as its headers say, found {reason}") from None
    except TimeoutError:
        raise RequestTimeout(
            f"body: expected it whole within {limits.body_seconds_max:g} s, found {len(taken)} bytes"
        ) from None
    return bytes(taken)


def _want_flat(value: dict[str, Any]) -> None:
    level: list[object] = [value]
    for _ in range(limits.body_depth_max):
        deeper: list[object] = []
        for each in level:
            inner = cast("dict[str, object]", each).values() if isinstance(each, dict) else cast("list[object]", each)
            deeper += [found for found in inner if isinstance(found, dict | list)]
        if not deeper:
            return
        level = deeper
    raise InvalidInput(f"body: expected at most {limits.body_depth_max} levels of lists and objects, found more")
