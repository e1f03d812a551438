"""Charging for one request as a whole: hold the most that it can cost, count what is delivered, settle at its end.

What counts as delivered is what was sent: a prompt once any of its answers has begun, and the tokens whose events went
out. Whoever leaves pays for that and no more; who got nothing pays nothing. Nothing of this happens on a node without
accounts, or for a model without a price.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, cast

from aiohttp import web

from blyan.api.body import raw_key
from blyan.api.caller import current_caller
from blyan.inference.receipt import Choice, ToolCall, digest_of, output_bytes, salt_bytes
from blyan.inference.session import Delta, Event, Finished, GenerationRequest, answer_tokens_max
from blyan.model.loading import LoadedModel
from blyan.node.charges import Charges, Delivered, Held
from blyan.node.node import Node
from blyan.node.tracing import current_trace
from blyan.payments import quotes
from blyan.payments.charges import Most, cost_shown, delivery_seconds_max
from blyan.payments.prices import Bill, Tariff, bill, shown_amount, tariff
from blyan.primitives import limits
from blyan.primitives.amount import USD
from blyan.primitives.errors import InvalidInput, Unavailable
from blyan.primitives.ids import PublicKey

Usage: TypeAlias = Mapping[str, Any]  # `cost` and perhaps `receipt` on a node with accounts; perhaps `computed`
_end_wait_seconds: Final = 1.0  # for the books, before an error is sent: less than a node that ends waits for it
_free = {"cost": shown_amount(0, USD.code)}


@dataclass(slots=True)
class _Part:
    """One answer, as far as it was delivered."""

    prompt: int  # number of its prompt
    echoed: int = 0  # tokens of the prompt that come back before the first of the answer
    begun: bool = False
    seen: bool = False  # something of it was sent, be it without text
    tokens: int = 0
    content: list[str] = field(default_factory=list[str])
    reasoning: list[str] = field(default_factory=list[str])
    calls: list[ToolCall] = field(default_factory=list[ToolCall])

    def choice(self) -> Choice:
        """Its pieces joined."""
        return Choice("".join(self.content), "".join(self.reasoning), tuple(self.calls))


class Meter:
    """Counts what one request delivers. This one costs nothing; `usage` is what the last chunk says then."""

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        self.cut: Usage = {}  # what an error says that ended the answer: what was charged until then, tokens too

    @property
    def charges(self) -> bool:
        """Whether the end of the answer waits for the books."""
        return False

    def delivered(self, index: int, *events: Event) -> None:
        """These events of an answer were sent, or are what is sent next."""

    def opened(self, index: int) -> None:
        """The beginning of an answer was sent, without anything of it."""

    def said(self, index: int, choice: Mapping[str, Any]) -> None:
        """This choice of the OpenAI dialect, whole or a piece, is a part of what is delivered."""

    def told(self, index: int, content: str, reasoning: str = "", calls: Sequence[ToolCall] = ()) -> None:
        """The same in any other dialect."""

    def read(self, index: int) -> None:
        """A text is embedded, and its vector is what is sent next."""

    async def settle(self) -> Usage:
        """Charge for what was delivered: what the last chunk says of it, and of who computed it."""
        return {**self._usage, **_computed_shown()}

    async def end(self) -> None:
        """A fault ended the answer: charge for what was delivered until then."""


class PaidMeter(Meter):
    """One whose tokens cost something."""

    def __init__(
        self, node: Node, model: LoadedModel, charges: Charges, held: Held, raw: bytes, prompts: Sequence[int]
    ) -> None:
        super().__init__({})
        self._node, self._model, self._charges, self._held, self._raw = node, model, charges, held, raw
        self._prompts = prompts  # tokens of each
        self._parts: dict[int, _Part] = {}
        self._ended = False

    @property
    def charges(self) -> bool:
        """It does."""
        return True

    def expect(self, index: int, prompt: int, echoed: int) -> None:
        """An answer to this prompt is coming."""
        self._parts[index] = _Part(prompt, echoed)

    def delivered(self, index: int, *events: Event) -> None:
        """Count them."""
        part = self._parts[index]
        for event in events:
            if isinstance(event, Delta):
                part.begun = True
                part.tokens += len(event.tokens)
            elif isinstance(event, Finished):
                part.begun, part.tokens = True, event.completion_tokens + part.echoed

    def opened(self, index: int) -> None:
        """It stands in what the caller has."""
        self._parts[index].seen = True

    def said(self, index: int, choice: Mapping[str, Any]) -> None:
        """Keep its text for the digest."""
        part = self._parts[index]
        part.seen = True
        if "text" in choice:
            part.content.append(choice["text"])
            return
        piece = cast("Mapping[str, Any]", choice["delta"] if "delta" in choice else choice["message"])
        part.content.append(piece.get("content") or "")
        part.reasoning.append(piece.get("reasoning_content") or "")
        for call in cast("Sequence[Mapping[str, Any]]", piece.get("tool_calls", ())):
            function: Mapping[str, str] = call["function"]
            part.calls.append(ToolCall(function["name"], function["arguments"], call["id"]))

    def told(self, index: int, content: str, reasoning: str = "", calls: Sequence[ToolCall] = ()) -> None:
        """Keep them for the digest."""
        part = self._parts[index]
        part.seen = True
        part.content.append(content)
        part.reasoning.append(reasoning)
        part.calls += calls

    def read(self, index: int) -> None:
        """Its prompt counts."""
        self._parts[index].begun = True

    async def settle(self) -> Usage:
        """Charge, and name the receipt if there is one."""
        self._ended = True
        cost, delivered, salt = self._reckoned()
        kept = await self._charges.settle(self._held, cost, delivered)
        receipt = {"receipt": {"id": self._held.id, "salt": salt.hex()}} if kept else {}
        return {"cost": cost_shown(cost, self._held.tariff.price.asset), **receipt, **_computed_shown()}

    async def end(self) -> None:
        """Whoever got a part pays for it, and is told, unless the books take too long."""
        if self._ended or not any(part.begun for part in self._parts.values()):
            return
        _, delivered, _ = self._reckoned()
        prompt, completion = delivered.prompt_tokens, delivered.completion_tokens
        tokens = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        with suppress(TimeoutError):  # it is settled all the same
            async with asyncio.timeout(_end_wait_seconds):
                self.cut = {**tokens, **await self.settle()}

    def leave(self) -> None:
        """The request is over: what is not settled yet is settled, or released, without anybody waiting."""
        if self._ended:
            return
        self._ended = True
        if not any(part.begun for part in self._parts.values()):
            self._charges.void(self._held)
            return
        cost, delivered, _ = self._reckoned()
        self._charges.settle_later(self._held, cost, delivered)

    def _reckoned(self) -> tuple[Bill, Delivered, bytes]:
        parts = [self._parts[index] for index in sorted(self._parts)]
        read = {part.prompt for part in parts if part.begun}
        prompt_tokens = sum(self._prompts[number] for number in read)
        completion_tokens = sum(max(0, part.tokens - part.echoed) for part in parts)
        salt = self._node.sources.entropy(salt_bytes)
        output = output_bytes([part.choice() for part in parts if part.seen])  # others stand nowhere
        delivered = Delivered(
            self._model.name,
            self._model.manifest_id,
            prompt_tokens,
            completion_tokens,
            digest_of("request", salt, self._raw),
            digest_of("output", salt, output),
            *computed(),
        )
        return bill(self._held.tariff.price, prompt_tokens, completion_tokens), delivered, salt


def computed() -> tuple[str, Mapping[PublicKey, int | None]]:
    """By which plan the answers of this request were computed, and by which other nodes; `mixed` if they differ."""
    trace = current_trace()
    courses = [] if trace is None else trace.courses
    others: dict[PublicKey, int | None] = {}
    for course in courses:
        for node, count in course.worked().items():
            known = others.get(node, 0)
            others[node] = None if count is None or known is None else known + count
    used = list(dict.fromkeys(course.plan for course in courses))
    return ("local" if not used else used[0] if len(used) == 1 else "mixed"), others


def _computed_shown() -> Usage:
    """The same as callers see it; nothing where this node alone computed all."""
    plan, others = computed()
    nodes = list(others)[: limits.receipt_nodes_max]
    return {} if plan == "local" else {"computed": {"plan": plan, "nodes": nodes}}


@asynccontextmanager
async def metered(
    request: web.Request,
    node: Node,
    model: LoadedModel,
    wanted: Sequence[GenerationRequest],
    *,
    choices: int = 1,
    quote: str | None = None,
) -> AsyncGenerator[Meter]:
    """Charge for answers, `choices` to each prompt one after the other, while the context lasts.

    `InsufficientFunds`, `QuoteExpired`, or `Unavailable` where the books do not answer, before anything is computed;
    `Unavailable` in the midst if the caller has not taken the answer before the hold is over.
    """
    most = Most(sum(len(one.prompt) for one in wanted[::choices]), sum(answer_tokens_max(model, one) for one in wanted))
    async with _held(request, node, model, [len(one.prompt) for one in wanted[::choices]], most, quote) as meter:
        if isinstance(meter, PaidMeter):
            for index, one in enumerate(wanted):
                meter.expect(index, index // choices, len(one.prompt) if one.echo else 0)
        yield meter


@asynccontextmanager
async def metered_reading(
    request: web.Request, node: Node, model: LoadedModel, inputs: Sequence[Sequence[int]], quote: str | None
) -> AsyncGenerator[Meter]:
    """The same for embeddings, which read and write nothing."""
    lengths = [len(tokens) for tokens in inputs]
    async with _held(request, node, model, lengths, Most(sum(lengths), 0), quote) as meter:
        if isinstance(meter, PaidMeter):
            for index in range(len(inputs)):
                meter.expect(index, index, 0)
        yield meter


@asynccontextmanager
async def _held(
    request: web.Request, node: Node, model: LoadedModel, prompts: Sequence[int], most: Most, quote: str | None
) -> AsyncGenerator[Meter]:
    caller, charges = current_caller(), node.charges
    if charges is None or caller is None or caller.account is None:
        yield Meter({})
        return
    found = tariff_for(node, caller.account, model.name, quote)
    if found is None or found.price.free:
        yield Meter(_free)
        return
    held = await charges.hold(caller.account, found, most)
    meter = PaidMeter(node, model, charges, held, request[raw_key], prompts)
    try:
        async with asyncio.timeout(delivery_seconds_max):
            yield meter
    except TimeoutError:
        await meter.end()
        raise Unavailable(
            f"answer: expected the caller to take it within {delivery_seconds_max} s, found it still waiting"
        ) from None
    except ConnectionError:  # nobody is there to be told
        raise
    except Exception:
        await meter.end()
        raise
    finally:
        meter.leave()


def tariff_for(node: Node, account: str, model: str, quote: str | None) -> Tariff | None:
    """The price that counts for a request: a quote's, else that of the meta chain; None where there is none."""
    if quote is not None:
        try:
            return quotes.honoured(quotes.read(quote, node.ground.key.public), account, model, node.sources.now())
        except InvalidInput as reason:
            reason.detail = {**reason.detail, "param": "blyan"}
            raise
    found = tariff(node.ground.chains.state.parameters, model)
    if found is not None and found.price.asset != USD.code and not found.price.free:
        raise Unavailable(
            f"price of {model}: expected one in {USD.code}, which accounts here have, found {found.price.asset}"
        )
    return found
