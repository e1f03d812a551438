"""Blobs to anybody: `GET|HEAD /blobs/{payload_id}` with `Range`, and `/blobs/{payload_id}/index`."""

from __future__ import annotations

from aiohttp import web

from blyan.api.state import node_of
from blyan.network.blob_serving import send_blob, send_index


async def blob(request: web.Request) -> web.StreamResponse:
    """The bytes of a payload, or the one range of them that was asked for."""
    return await send_blob(request, node_of(request).ground.store)


async def index(request: web.Request) -> web.Response:
    """The tile index of a payload."""
    return await send_index(request, node_of(request).ground.store)
