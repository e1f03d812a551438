"""What `blyan chat` asks of a node: its models, answers piece by piece as they come, and what they cost."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import aiohttp

from blyan.cli.conversation import Conversation
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import Fault, NotFound, PeerFault, Unauthenticated, kind_of
from blyan.wire.fields import as_dict, as_list

connect_seconds: Final = 10.0
_amount: Final = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?")
_asset: Final = re.compile(r"[A-Z]{1,16}")
_receipt: Final = re.compile(r"[0-9a-f]{32}")
_plan: Final = re.compile(r"[a-z_]{1,32}")
_key: Final = re.compile(r"[0-9a-f]{64}")
_salt: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Cost:
    """What an answer cost, as the node says it, and the receipt for it, if there is one."""

    amount: str  # a decimal of the asset
    asset: str
    receipt: str | None = None  # its id
    salt: bytes | None = None  # opens the receipt's digests; the node does not keep it


@dataclass(frozen=True, slots=True)
class Computed:
    """By which plan an answer was computed where the node that was asked did not do it alone, as that node says it."""

    plan: str
    nodes: tuple[str, ...]  # keys of others that generated, or computed layers; not of those that computed experts


@dataclass(slots=True)
class Answer:
    """One answer as far as it has come."""

    text: str = ""
    thought: str = ""  # what the model wrote before it answered
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: Cost | None = None  # None where the node is free
    computed: Computed | None = None  # None where the node that was asked did it alone
    request: bytes = b""  # the body that was sent
    seconds_first: float | None = None  # until its first piece, of a thought too
    seconds: float = 0.0  # until its end
    _began: float = field(default=0.0)

    @property
    def tokens_per_second(self) -> float | None:
        """Of what came after the first token; None where there is too little to tell."""
        if self.seconds_first is None or self.completion_tokens < 2 or self.seconds <= self.seconds_first:
            return None
        return (self.completion_tokens - 1) / (self.seconds - self.seconds_first)


class EventLines:
    """Lines of a stream, however its bytes are cut."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now; `PeerFault` for one that never ends."""
        self._held += data
        *lines, rest = self._held.split(b"\n")
        if len(rest) > limits.streamed_event_bytes_max:
            raise PeerFault(f"answer: expected lines of at most {limits.streamed_event_bytes_max} bytes, found more")
        self._held = rest
        return [bytes(line).removesuffix(b"\r") for line in lines]


class ChatClient:
    """One node, over HTTP."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, now: Monotonic, headers: Mapping[str, str] | None = None
    ) -> None:
        """`headers` say who asks, where somebody signed in."""
        self._session = session
        self._headers = dict(headers or {})
        self.url = url
        self._now = now

    async def models(self) -> list[str]:
        """Names, at least one."""
        timeout = aiohttp.ClientTimeout(total=limits.request_seconds_max, connect=connect_seconds)
        try:
            async with self._session.get(
                f"{self.url}/v1/models", headers=self._headers, timeout=timeout, allow_redirects=False
            ) as response:
                body = await limited_json(response)
                if response.status in (401, 403, 429):
                    raise fault_of(body)
        except (aiohttp.ClientError, TimeoutError, ValueError) as reason:
            raise PeerFault(
                f"node {self.url}: expected a list of models, found {str(reason) or type(reason).__name__}",
                hint="start it there with `blyan up`, or name another one with --node",
            ) from None
        found = as_list((as_dict(body) or {}).get("data"))
        names = [(as_dict(each) or {}).get("id") for each in found or []]
        if found is None or not all(isinstance(name, str) for name in names):
            raise PeerFault(f"node {self.url}: expected a list of models, found {str(body)[:200]}")
        if not names:
            raise NotFound(f"node {self.url}: expected at least one model, found none", hint="run `blyan init`")
        return cast("list[str]", names)

    async def ask(
        self, conversation: Conversation, answer: Answer, on_thought: Callable[[str], None] = lambda _thought: None
    ) -> AsyncGenerator[str, None]:
        """Yield the pieces of the next answer and fill `answer` while they come; a fault is raised where it came.

        What the model thinks before it answers goes to `on_thought`.
        """
        began = self._now()
        timeout = aiohttp.ClientTimeout(total=limits.request_seconds_max, connect=connect_seconds)
        url = f"{self.url}/v1/chat/completions"
        answer.request = json.dumps(conversation.request(), ensure_ascii=False).encode("utf-8", "replace")
        headers = {**self._headers, "Content-Type": "application/json"}
        try:
            async with self._session.post(
                url, data=answer.request, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise fault_of(await limited_json(response))
                lines = EventLines()
                async for data in response.content.iter_any():
                    for line in lines.feed(data):
                        if line == b"data: [DONE]":
                            return
                        if not line.startswith(b"data: "):
                            continue
                        event = json.loads(line.removeprefix(b"data: "))
                        piece, thought = _take(event, answer), _thought(event)
                        answer.seconds = self._now() - began
                        if (piece or thought) and answer.seconds_first is None:
                            answer.seconds_first = answer.seconds
                        if thought:
                            answer.thought += thought
                            on_thought(thought)
                        if piece:
                            answer.text += piece
                            yield piece
        except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError) as reason:
            raise PeerFault(f"node {self.url}: expected an answer, found {type(reason).__name__} {reason}") from None
        raise PeerFault(f"node {self.url}: expected the end of the answer, found the end of the connection")

    async def receipt(self, identity: str) -> bytes:
        """The file of a receipt; the node's fault where it has none, with the code `not_yet` where it is coming."""
        timeout = aiohttp.ClientTimeout(total=limits.peer_seconds_max, connect=connect_seconds)
        url = f"{self.url}/receipts/{identity}"
        try:
            async with self._session.get(
                url, headers=self._headers, timeout=timeout, allow_redirects=False
            ) as response:
                raw = await _limited(response, limits.receipt_file_bytes_max)
                if response.status != 200:
                    raise fault_of(json.loads(raw))
                return raw
        except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError) as reason:
            raise PeerFault(f"node {self.url}: expected a receipt, found {type(reason).__name__} {reason}") from None


async def limited_json(response: aiohttp.ClientResponse) -> Any:
    """A body of bounded length as JSON, None if it is none."""
    return json.loads(await _limited(response, limits.request_body_bytes_max))


async def _limited(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    raw = bytearray()
    async for data in response.content.iter_any():
        raw += data
        if len(raw) > bytes_max:
            raise ValueError(f"more than {bytes_max} bytes")
    return bytes(raw)


def _count(usage: Any, answer: Answer) -> None:
    """Tokens and cost, at the end of an answer or beside the error that ended it."""
    match usage:
        case {"prompt_tokens": int(prompt), "completion_tokens": int(completion), **priced}:
            answer.prompt_tokens, answer.completion_tokens = prompt, completion
            answer.cost, answer.computed = cost_of(priced), _computed_of(priced)
        case _:
            pass


def _take(event: Any, answer: Answer) -> str:
    """The text of one streamed event; the fault that it reports, or `PeerFault` if it is no event."""
    match event:
        case {"error": _, **rest}:
            _count(rest.get("usage"), answer)
            raise fault_of(event)
        case {"choices": [], **rest}:
            _count(rest.get("usage"), answer)
            return ""
        case {"choices": [{"delta": {"content": str(text)}, **choice}]}:
            _finish(choice, answer)
            return text
        case {"choices": [{"delta": {"content": None}, **choice}]}:
            _finish(choice, answer)
            return ""
        case {"choices": [{"delta": {"content": _}}]}:
            raise PeerFault(f"answer: expected a chat completion chunk, found {str(event)[:200]}")
        case {"choices": [{"delta": {}, **choice}]}:
            _finish(choice, answer)
            return ""
        case _:
            raise PeerFault(f"answer: expected a chat completion chunk, found {str(event)[:200]}")


def cost_of(usage: Mapping[str, Any]) -> Cost | None:
    """What `usage` says of money, None where it says nothing that we know."""
    match usage:
        case {"cost": {"amount": str(amount), "asset": str(asset)}, **rest}:
            if not _amount.fullmatch(amount) or not _asset.fullmatch(asset):
                return None
        case _:
            return None
    match rest.get("receipt"):
        case {"id": str(identity), "salt": str(salt)} if _receipt.fullmatch(identity) and _salt.fullmatch(salt):
            return Cost(amount, asset, identity, bytes.fromhex(salt))
        case _:
            return Cost(amount, asset)


def _computed_of(usage: Mapping[str, Any]) -> Computed | None:
    """What `usage` says of who computed it, None where it says nothing that we know."""
    match usage.get("computed"):
        case {"plan": str(plan), "nodes": nodes} if _plan.fullmatch(plan):
            keys = as_list(nodes)
        case _:
            return None
    if keys is None or len(keys) > limits.receipt_nodes_max:
        return None
    known = tuple(key for key in keys if isinstance(key, str) and _key.fullmatch(key))
    return Computed(plan, known) if len(known) == len(keys) else None


def _thought(event: Any) -> str:
    match event:
        case {"choices": [{"delta": {"reasoning_content": str(thought)}}]}:
            return thought
        case _:
            return ""


def _finish(choice: dict[str, Any], answer: Answer) -> None:
    if isinstance(choice.get("finish_reason"), str):
        answer.finish_reason = choice["finish_reason"]


def fault_of(body: Any) -> Fault:
    """The node's error as the fault it was there, so that the exit code says the same."""
    match body:
        case {"error": {"message": str(message), **error}}:
            hint = str(error["hint"]) if error.get("hint") else None
        case _:
            return PeerFault(f"answer: expected an error body, found {str(body)[:200]}")
    kind = kind_of(str(error.get("code")))
    if kind is Unauthenticated:
        hint = "sign in with --wallet, or show an API key with --api-key-file"
    return (PeerFault if kind is Fault else kind)(message, hint=hint)
