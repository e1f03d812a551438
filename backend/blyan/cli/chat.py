"""`blyan chat`: talk to a model, through the node that runs on the data directory or, if none does, in this process."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import aiohttp

from blyan.cli.output import Output
from blyan.node import data_directory
from blyan.node.config import read_config
from blyan.primitives import limits
from blyan.primitives.errors import Fault, IntegrityFault, InvalidInput, NotFound, PeerFault, Unavailable


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
            question = options.prompt if one_question else await asyncio.to_thread(_ask)
            if not question:
                return 0
            messages.append({"role": "user", "content": question})
            answer = ""
            async for piece in _stream(session, url, model, messages):
                sys.stdout.write(piece)
                sys.stdout.flush()
                answer += piece
            sys.stdout.write("\n")
            messages.append({"role": "assistant", "content": answer})
            if one_question:
                return 0


def _ask() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""


@asynccontextmanager
async def _node_url(options: argparse.Namespace) -> AsyncGenerator[str, None]:
    """The given node, the one that runs on the data directory, or one that lives as long as this command."""
    if options.node is not None:
        if not options.node.startswith(("http://", "https://")):
            raise InvalidInput(f"--node: expected an http URL, found {options.node!r}")
        yield options.node.rstrip("/")
        return
    holder = data_directory.lock_holder(options.data_dir)
    if holder is not None and holder.get("url"):
        yield str(holder["url"])
        return
    from blyan.api.serve import served  # torch takes a second; a running node spares it

    config = read_config(options.data_dir, {"http": {"listen": "127.0.0.1:0"}, "storage": {"verify_at_start": False}})
    async with served(config) as (_, url):
        yield url


async def _first_model(session: aiohttp.ClientSession, url: str) -> str:
    try:
        async with session.get(f"{url}/v1/models") as response:
            body = await response.json()
    except (aiohttp.ClientError, ValueError) as reason:
        raise PeerFault(f"node {url}: expected a list of models, found {reason}") from None
    if not body.get("data"):
        raise NotFound(f"node {url}: expected at least one model, found none")
    return body["data"][0]["id"]


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
                if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                    continue
                event = json.loads(line.removeprefix(b"data: "))
                if "error" in event:
                    raise _fault_of(event)
                for choice in event["choices"]:
                    yield choice["delta"].get("content") or ""
    except (aiohttp.ClientError, TimeoutError, ValueError) as reason:
        raise PeerFault(f"node {url}: expected an answer, found {type(reason).__name__} {reason}") from None


def _fault_of(body: Any) -> Fault:
    """The node's error as the fault it was there, so that the exit code says the same."""
    error: dict[str, Any] = cast("dict[str, Any]", body).get("error", {}) if isinstance(body, dict) else {}
    message, hint = str(error.get("message", "no message")), error.get("hint")
    kinds: dict[str, type[Fault]] = {
        "block_corrupt": IntegrityFault,
        "integrity_failure": IntegrityFault,
        "not_found": NotFound,
        "queue_full": Unavailable,
        "unavailable": Unavailable,
        "invalid_input": InvalidInput,
        "context_length_exceeded": InvalidInput,
    }
    return kinds.get(str(error.get("code")), PeerFault)(message, hint=hint)
