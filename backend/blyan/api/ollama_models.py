"""Ollama's routes that change which models there are: `/api/create|copy|delete|pull|push` and `/api/blobs/{digest}`.

They change this node's chains, so they are for its operators; where there are no accounts, for who asks by a loopback
name. Work runs in a thread, one change at a time, beside answers under way; who leaves in the middle stops it, and
what was stored stays for the next try.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import orjson
from aiohttp import web

from blyan.api.body import json_object
from blyan.api.errors import json_response, ollama_error
from blyan.api.ollama import faults_as_ollama
from blyan.api.operators import node_to_change
from blyan.network.peers import parse_peer
from blyan.node.creating import create_of_files
from blyan.node.model_changes import copy_model, create_from, remove_model
from blyan.node.node import Node
from blyan.node.pulling import pull_model
from blyan.primitives import limits
from blyan.primitives.errors import (
    Fault,
    InternalError,
    InvalidInput,
    NotFound,
    Unavailable,
    UnsupportedParameter,
)
from blyan.wire.ollama_create import CreateRequest, digest_of, parse_copy, parse_create, parse_delete, parse_pull

Status: TypeAlias = dict[str, Any]
Say: TypeAlias = Callable[[Status], None]  # raises `Unavailable` to stop the work: nobody listens any more

_chunk_bytes: Final = limits.MIB
_chunk_seconds_max: Final = 60.0
_pass_seconds_max: Final = 600.0  # for a body that nobody needs
_success: Final[Status] = {"status": "success"}


@faults_as_ollama
async def create(request: web.Request) -> web.StreamResponse:
    """A model of another model or of uploaded files."""
    node = node_to_change(request)
    asked = parse_create(await json_object(request))
    return await _told(request, node, asked.model, asked.stream, lambda say: _create(node, asked, say))


@faults_as_ollama
async def copy(request: web.Request) -> web.StreamResponse:
    """The same model under another name too."""
    node = node_to_change(request)
    source, destination = parse_copy(await _small(request))

    def work() -> None:
        with node.changing() as ground:
            copy_model(ground, source, destination)

    await _changed(node, destination, work)
    return web.Response()


@faults_as_ollama
async def delete(request: web.Request) -> web.StreamResponse:
    """Retire a model: it is neither listed nor served from now on."""
    node = node_to_change(request)
    name = parse_delete(await _small(request))

    def work() -> None:
        with node.changing() as ground:
            remove_model(ground, name)

    await _changed(node, name, work)
    return web.Response()


async def _changed(node: Node, name: str, work: Callable[[], None]) -> None:
    """Change, then serve what the chain says of this name; to its end, though the caller may leave."""

    async def change() -> None:
        try:
            await asyncio.to_thread(_not_found_as_ollama, work)
        finally:
            node.adopt(name, await asyncio.to_thread(node.loaded, name))

    await asyncio.shield(asyncio.create_task(change()))


@faults_as_ollama
async def pull(request: web.Request) -> web.StreamResponse:
    """A model that a configured directory or peer has, or a peer that the request names."""
    node = node_to_change(request)
    asked = parse_pull(await _small(request))
    peers = [parse_peer(text, "from") for text in asked.sources]

    def work(say: Say) -> None:
        with node.changing() as ground:
            rate = node.config.network.fetch_bytes
            pull_model(ground, node.config.models, asked.model, say, node.sources.now, peers, rate=rate)

    return await _told(request, node, asked.model, asked.stream, work)


@faults_as_ollama
async def push(request: web.Request) -> web.StreamResponse:
    """Refused: there is no registry to publish to."""
    await _small(request)
    raise UnsupportedParameter(
        "push: expected none (there is no registry here that takes models)",
        hint="another node pulls from this one: see models.peers in docs/configuration.md",
    )


@faults_as_ollama
async def has_blob(request: web.Request) -> web.StreamResponse:
    """Whether an uploaded file waits to be used."""
    digest = digest_of(request.match_info["digest"])
    if not await asyncio.to_thread(node_to_change(request).uploads.has, digest):
        raise NotFound(f"blob sha256:{digest}: expected an uploaded one, found none")
    return web.Response()


@faults_as_ollama
async def put_blob(request: web.Request) -> web.StreamResponse:
    """Take a file that a model will be created of; 400 where its bytes are not what its digest says."""
    node = node_to_change(request)
    digest = digest_of(request.match_info["digest"])
    if await asyncio.to_thread(node.uploads.has, digest):
        return await _already_here(request)
    upload = await asyncio.to_thread(node.uploads.begin, digest)
    try:
        while True:
            try:
                async with asyncio.timeout(_chunk_seconds_max):
                    chunk = await request.content.read(_chunk_bytes)
            except TimeoutError:
                raise InvalidInput(f"upload: expected bytes within {_chunk_seconds_max:g} s, found none") from None
            if not chunk:
                break
            await asyncio.to_thread(upload.write, chunk)
        await asyncio.to_thread(upload.finish)
    finally:
        await asyncio.to_thread(upload.__exit__, None, None, None)
    return web.Response(status=201)


async def _small(request: web.Request) -> dict[str, Any]:
    """The body of a request that only names things."""
    return await json_object(request, bytes_max=limits.small_body_bytes_max)


async def _already_here(request: web.Request) -> web.Response:
    """Let the body pass, or the client would find its connection cut; within what an upload may take."""
    passed = 0
    try:
        async with asyncio.timeout(_pass_seconds_max):
            while chunk := await request.content.read(_chunk_bytes):
                passed += len(chunk)
                if passed > limits.upload_bytes_max:
                    raise InvalidInput(f"upload: expected at most {limits.upload_bytes_max} bytes, found more")
    except TimeoutError:
        raise InvalidInput(f"upload: expected its end within {_pass_seconds_max:g} s, found none") from None
    return web.Response()


def _create(node: Node, asked: CreateRequest, say: Say) -> None:
    with node.changing() as ground:
        if asked.recipe.base is not None:
            say({"status": f"using existing model {asked.recipe.base}"})
            create_from(ground, node.renderer, asked.model, asked.recipe)
        else:

            def progress(done: int, total: int) -> None:
                say({"status": "converting model", "total": total, "completed": done})

            sources = node.sources
            create_of_files(ground, node.uploads, node.renderer, asked.model, asked.recipe, progress, sources.monotonic)
        say({"status": "writing manifest"})


async def _told(
    request: web.Request, node: Node, name: str, stream: bool, work: Callable[[Say], None]
) -> web.StreamResponse:
    """Run `work` in a thread, send what it says, then serve the model; without `stream` only how it ended."""
    loop = asyncio.get_running_loop()
    statuses: asyncio.Queue[Status | None] = asyncio.Queue()
    left = threading.Event()

    def say(status: Status) -> None:
        node.want_open()
        if left.is_set():
            raise Unavailable("models: expected somebody to wait for the change, found that the caller left")
        loop.call_soon_threadsafe(statuses.put_nowait, status)

    async def changed() -> None:
        try:
            await asyncio.to_thread(_not_found_as_ollama, lambda: work(say))
            node.adopt(name, await asyncio.to_thread(node.loaded, name))
        finally:
            statuses.put_nowait(None)

    # its own task: a caller that leaves cancels this handler, and not a model that is on the chain already
    change = asyncio.create_task(changed())
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
    try:
        while (status := await statuses.get()) is not None:
            if stream:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(orjson.dumps(status) + b"\n")
        fault = await _fault_of(change)
    except BaseException:
        left.set()
        change.add_done_callback(_retrieve)
        raise
    if not response.prepared:
        if fault is not None:
            raise fault
        if not stream:
            return json_response(_success)
        await response.prepare(request)
    # the code and hint are for our own command line: a stream has no status to say whose fault it was
    last = _success if fault is None else {**ollama_error(fault), "code": fault.code, "hint": fault.hint}
    await response.write(orjson.dumps(last) + b"\n")
    await response.write_eof()
    return response


async def _fault_of(change: asyncio.Task[None]) -> Fault | None:
    try:
        await change
    except Fault as fault:
        return fault
    except OSError as reason:
        return InternalError(f"models: expected the change to reach the disk, found {reason.strerror or reason}")
    return None


def _retrieve(change: asyncio.Task[None]) -> None:
    """Nobody waits for it any more: what it raises is that it was left."""
    if not change.cancelled():
        change.exception()


def _not_found_as_ollama(work: Callable[[], None]) -> None:
    """Clients look for these words."""
    try:
        work()
    except NotFound as fault:
        if (missing := fault.detail.get("model")) is not None:
            raise NotFound(f"model {missing!r} not found", detail=fault.detail, hint=fault.hint) from None
        raise
