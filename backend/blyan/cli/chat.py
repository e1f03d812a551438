"""`blyan chat`: talk to a model, through the node that runs on the data directory or, if none does, in this process.

stdout is the answers alone, one line of stdin is one turn. Ctrl-C cancels the conversation wherever it waits.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp

from blyan.cli.output import Output, printable
from blyan.cli.passphrase import passphrase_of
from blyan.node import data_directory
from blyan.node.config import read_config
from blyan.primitives import limits
from blyan.primitives.errors import Fault, InvalidInput, NotFound, PeerFault, UsageMistake, kind_of


def add_commands(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Register `chat`."""
    chat = verbs.add_parser("chat", parents=[common], help="talk to a model")
    chat.add_argument("prompt", metavar="PROMPT", nargs="?", help="one question; without it, a conversation")
    chat.add_argument(
        "--node", metavar="URL", help="default: the node of the data directory, started here if none runs"
    )
    chat.add_argument("--model", metavar="NAME", help="default: the node's first model")
    chat.set_defaults(run=_chat)


def _chat(options: argparse.Namespace, output: Output) -> int:
    return asyncio.run(_converse(options, output))


async def _converse(options: argparse.Namespace, output: Output) -> int:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(_node_url(options))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        model = options.model or await _first_model(session, url)
        messages: list[dict[str, str]] = []
        one_question = options.prompt is not None
        if not one_question and sys.stdin.isatty():
            output.note(f"{model} at {url}; an empty line or Ctrl-D ends")
        while True:
            question = options.prompt if one_question else await _ask()
            if not question:
                return 0
            messages.append({"role": "user", "content": question})
            answer = ""
            async for piece in _stream(session, url, model, messages):
                sys.stdout.write(printable(piece))
                sys.stdout.flush()
                answer += piece
            sys.stdout.write("\n")
            messages.append({"role": "assistant", "content": answer})
            if one_question:
                return 0


async def _ask() -> str:
    """The next line of stdin; "" at its end."""
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    loop = asyncio.get_running_loop()
    line: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        # without a buffer, whose lock this thread would still hold while the interpreter ends
        try:
            with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as stdin:
                found = stdin.readline(limits.request_body_bytes_max)
        except OSError:  # a terminal that went away
            found = b""
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody asks any more
            loop.call_soon_threadsafe(_tell, line, found)

    # A daemon, because nothing can end a read of a terminal: one of asyncio's threads would hold up Ctrl-C until Enter.
    threading.Thread(target=read, daemon=True).start()
    try:
        return (await line).decode().strip()
    except UnicodeDecodeError as reason:
        raise InvalidInput(f"question: expected UTF-8 text, found {reason.reason} at byte {reason.start}") from None


def _tell(line: asyncio.Future[bytes], found: bytes) -> None:
    if not line.done():
        line.set_result(found)


@asynccontextmanager
async def _node_url(options: argparse.Namespace) -> AsyncGenerator[str, None]:
    """The given node, the one that runs on the data directory, or one that lives as long as this command."""
    if options.node is not None:
        if not options.node.startswith(("http://", "https://")):
            raise UsageMistake(f"--node: expected an http URL, found {options.node!r}")
        yield options.node.rstrip("/")
        return
    holder = data_directory.lock_holder(options.data_dir)
    if holder is not None and holder.get("url"):
        yield str(holder["url"])
        return
    from blyan.api.serve import served  # torch takes a second; a running node spares it

    config = read_config(options.data_dir, {"http": {"listen": "127.0.0.1:0"}, "storage": {"verify_at_start": False}})
    async with served(config, passphrase_of(config)) as (_, url):
        yield url


async def _first_model(session: aiohttp.ClientSession, url: str) -> str:
    try:
        async with session.get(f"{url}/v1/models") as response:
            body = await response.json()
    except (aiohttp.ClientError, ValueError) as reason:
        raise PeerFault(f"node {url}: expected a list of models, found {reason}") from None
    match body:
        case {"data": []}:
            raise NotFound(f"node {url}: expected at least one model, found none")
        case {"data": [{"id": str(name)}, *_]}:
            return name
        case _:
            raise PeerFault(f"node {url}: expected a list of models, found {str(body)[:200]}")


async def _stream(
    session: aiohttp.ClientSession, url: str, model: str, messages: list[dict[str, str]]
) -> AsyncIterator[str]:
    body = {"model": model, "messages": messages, "stream": True}
    timeout = aiohttp.ClientTimeout(total=limits.request_seconds_max, connect=10)
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body, timeout=timeout) as response:
            if response.status != 200:
                raise _fault_of(await response.json(content_type=None))
            async for line in response.content:
                if line.strip() == b"data: [DONE]":
                    return
                if line.startswith(b"data: "):
                    yield _piece(json.loads(line.removeprefix(b"data: ")))
    except (aiohttp.ClientError, TimeoutError, ValueError) as reason:
        raise PeerFault(f"node {url}: expected an answer, found {type(reason).__name__} {reason}") from None
    raise PeerFault(f"node {url}: expected the end of the answer, found the end of the connection")


def _piece(event: Any) -> str:
    """The text of one streamed event; the fault that it reports, or `PeerFault` if it is no event."""
    match event:
        case {"error": _}:
            raise _fault_of(event)
        case {"choices": []}:  # usage
            return ""
        case {"choices": [{"delta": {"content": str(text)}}]}:
            return text
        case {"choices": [{"delta": {"content": None}}]}:
            return ""
        case {"choices": [{"delta": {}}]}:
            return ""
        case _:
            raise PeerFault(f"answer: expected a chat completion chunk, found {str(event)[:200]}")


def _fault_of(body: Any) -> Fault:
    """The node's error as the fault it was there, so that the exit code says the same."""
    match body:
        case {"error": {"message": str(message), **error}}:
            hint = str(error["hint"]) if error.get("hint") else None
        case _:
            return PeerFault(f"answer: expected an error body, found {str(body)[:200]}")
    kind = kind_of(str(error.get("code")))
    return (PeerFault if kind is Fault else kind)(message, hint=hint)
