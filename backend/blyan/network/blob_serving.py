"""Blobs as static files, for whoever may ask: a payload with `Range`, and its tile index.

A payload id names its bytes for ever, so answers may be cached for ever and the id is the ETag (RFC 9110). Only
verified bytes leave: a blob is hashed before its first byte is sent, unless its file is the one that was hashed before,
and what is sent is read through that very mapping. A corrupt one is answered with its name. Whoever receives a subtile
checks it against the index (docs/spec/tile-root.md).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from aiohttp import web

from blyan.network.serving_rate import served_bytes
from blyan.primitives import limits
from blyan.primitives.errors import IntegrityFault, Unavailable
from blyan.primitives.ids import PayloadId, payload_id
from blyan.storage.blob_check import read_index
from blyan.storage.blob_store import BlobStore
from blyan.storage.partial import index_suffix
from blyan.storage.tile import index_of

_immutable: Final = "public, max-age=31536000, immutable"
Turn: TypeAlias = Callable[[int], Awaitable[None]]
_one_range: Final = re.compile(r"bytes=(?P<first>[0-9]{0,16})-(?P<last>[0-9]{0,16})")
_chunk_bytes: Final = limits.MIB
_send_seconds_max: Final = 60.0  # for one chunk: a reader that stands still gives its place up


async def send_blob(request: web.Request, store: BlobStore, turn: Turn | None = None) -> web.StreamResponse:
    """The bytes of the payload that the path names, or the one range of them that was asked for.

    `turn` waits until so many bytes may leave.
    """
    payload = payload_id(request.match_info["payload_id"])
    found = await asyncio.to_thread(store.open, payload)
    length = len(found.mapping)
    headers = _headers(found.payload)
    if headers["ETag"] in [tag.strip() for tag in request.headers.get("If-None-Match", "").split(",")]:
        return web.Response(status=304, headers=headers)
    begin, end, status = 0, length, 200
    wanted = _range(request.headers.get("Range", ""), length)
    if wanted is not None and request.headers.get("If-Range", headers["ETag"]) == headers["ETag"]:
        begin, end = wanted
        if begin >= end:
            return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{length}"})
        status = 206
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{length}"
    response = web.StreamResponse(status=status, headers=headers)
    response.content_type = "application/octet-stream"
    response.content_length = end - begin
    await response.prepare(request)
    if request.method != "HEAD":
        await _send(response, memoryview(found.mapping)[begin:end], turn)
    await response.write_eof()
    return response


async def send_index(request: web.Request, store: BlobStore) -> web.Response:
    """The tile index of the payload that the path names, 32 bytes for each 256 KiB of it, checked against the id."""
    payload = payload_id(request.match_info["payload_id"])
    raw = await asyncio.to_thread(_index, store, payload)
    headers = {"Cache-Control": _immutable, "ETag": f'"{payload}.tiles"'}
    return web.Response(body=raw, content_type="application/octet-stream", headers=headers)


def _index(store: BlobStore, payload: PayloadId) -> bytes:
    length = store.size(payload)
    path = store.path(payload)
    path = path.with_name(path.name + index_suffix)
    try:
        return read_index(path, payload, length).encode()
    except (OSError, ValueError, IntegrityFault):  # derived: made again from the bytes, if those are whole
        return index_of(memoryview(store.open(payload).mapping)).encode()


def _range(text: str, length: int) -> tuple[int, int] | None:
    """Begin and end of `bytes=A-B`, `A-` or `-N` within the payload, an empty one if it is malformed or lies outside.

    None for no range or one in other units, which RFC 9110 wants ignored. Several ranges in one request are refused.
    """
    if not text.startswith("bytes="):
        return None
    match = _one_range.fullmatch(text)
    if match is None or match["first"] == match["last"] == "":
        return length, length
    if not match["first"]:
        return max(0, length - int(match["last"])), length
    return int(match["first"]), min(int(match["last"]) + 1, length) if match["last"] else length


async def _send(response: web.StreamResponse, view: memoryview, turn: Turn | None) -> None:
    chunk_bytes = _chunk_bytes if turn is None else served_bytes
    for at in range(0, len(view), chunk_bytes):
        if turn is not None:
            await turn(min(chunk_bytes, len(view) - at))
        try:
            # read in a thread: a page that is not in memory would hold up every other answer
            chunk = await asyncio.to_thread(bytes, view[at : at + chunk_bytes])
            async with asyncio.timeout(_send_seconds_max):
                await response.write(chunk)
        except TimeoutError:
            raise Unavailable(
                f"blob: expected its reader to take {chunk_bytes} bytes, found it standing still"
            ) from None


def _headers(payload: PayloadId) -> dict[str, str]:
    return {"ETag": f'"{payload}"', "Accept-Ranges": "bytes", "Cache-Control": _immutable}
