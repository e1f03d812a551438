"""The Ollama dialect: `/api/tags|ps|version|show|generate|chat|embed|embeddings`, newline-delimited JSON by default.

Errors are `{"error": "text"}`, also as the last line of a stream that has begun. Durations are nanoseconds.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import orjson
from aiohttp import web

from blyan import __version__
from blyan.api.body import json_object
from blyan.api.chat import embedding, fitting, generation, model_named, sampling_of
from blyan.api.errors import error_response, json_response, ollama_error
from blyan.api.metering import Meter, Usage, metered, metered_reading
from blyan.api.model_text import told_of
from blyan.api.ollama_lines import Lines, nanoseconds, time_text
from blyan.api.sending import send_piece
from blyan.api.state import node_of
from blyan.api.turnstile import turn
from blyan.inference.answer_form import AnswerForm, Piece, answer_form, want_thinking
from blyan.inference.embedding import want_embeddable
from blyan.inference.receipt import ToolCall
from blyan.inference.receipt_output import vector_text
from blyan.inference.session import Delta, Event, Failed, Finished, GenerationRequest, answer_tokens_max
from blyan.model.given_template import given_template
from blyan.model.infill import can_infill, infill
from blyan.model.loading import LoadedModel
from blyan.model.thinking import can_think
from blyan.model.tokenizer import Tokenizer
from blyan.model.tools import tool_format_of
from blyan.node.node import Node
from blyan.primitives import limits
from blyan.primitives.errors import Fault, InvalidInput, NotFound
from blyan.primitives.model_name import tagged
from blyan.wire.ollama import EmbedRequest, OllamaRequest, model_name, parse_chat, parse_embed, parse_generate

_last_second: Final = 253_402_300_799  # of the year 9999

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def faults_as_ollama(handler: Handler) -> Handler:
    """Turn a fault before the first line into this dialect's body."""

    @functools.wraps(handler)
    async def wrapped(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Fault as fault:
            return error_response(fault, path=request.path)

    return wrapped


async def version(_request: web.Request) -> web.Response:
    """Ours; clients show it."""
    return json_response({"version": __version__})


async def tags(request: web.Request) -> web.Response:
    """The models that can be asked."""
    node = node_of(request)
    return json_response({"models": [_card(node, model) for model in _loaded(node)]})


async def ps(request: web.Request) -> web.Response:
    """Those that were asked within their keep-alive."""
    node = node_of(request)
    kept = [(model, until) for model in _loaded(node) if (until := node.kept.until(model.name)) is not None]
    cards = [_card(node, model) | {"expires_at": _end_text(until), "size_vram": 0} for model, until in kept]
    return json_response({"models": cards})


@faults_as_ollama
async def show(request: web.Request) -> web.StreamResponse:
    """What one model is."""
    node = node_of(request)
    model = await _model(node, model_name(await body_of(request, limits.small_body_bytes_max)))
    manifest, config = model.manifest, model.manifest.config
    architecture = config.family
    return json_response(
        {
            **told_of(model),
            "modified_at": _card(node, model)["modified_at"],
            "details": _details(model),
            "capabilities": _capabilities(model),
            "model_info": {
                "general.architecture": architecture,
                "general.parameter_count": config.parameters,
                "general.license": manifest.license,
                "general.source": manifest.source,
                f"{architecture}.block_count": config.layers,
                f"{architecture}.context_length": config.context_length,
                f"{architecture}.embedding_length": config.hidden,
                f"{architecture}.attention.head_count": config.heads,
                f"{architecture}.attention.head_count_kv": config.kv_heads,
                f"{architecture}.expert_count": config.experts,
                f"{architecture}.expert_used_count": config.experts_per_token,
                f"{architecture}.vocab_size": config.vocab_size,
            },
        }
    )


@faults_as_ollama
async def generate(request: web.Request) -> web.StreamResponse:
    """Continue a prompt, by default through the chat template."""
    return await _answered(request, parse_generate(await body_of(request)))


@faults_as_ollama
async def chat(request: web.Request) -> web.StreamResponse:
    """Answer a conversation."""
    return await _answered(request, parse_chat(await body_of(request)))


@faults_as_ollama
async def embed(request: web.Request) -> web.StreamResponse:
    """A vector for each text."""
    return await _embedded(request, single=False)


@faults_as_ollama
async def embeddings(request: web.Request) -> web.StreamResponse:
    """The older route: one text, one vector."""
    return await _embedded(request, single=True)


async def _embedded(request: web.Request, *, single: bool) -> web.StreamResponse:
    node = node_of(request)
    began = node.sources.monotonic()
    asked = parse_embed(await body_of(request), single=single)
    model = await _model(node, asked.model)
    with node.kept.using(model, asked.keep):
        vectors, count, cost = await _vectors(request, model, asked)
    usage = {"usage": cost} if cost else {}
    if single:
        return json_response({"embedding": vectors[0] if vectors else [], **usage})
    spent = round((node.sources.monotonic() - began) * nanoseconds)
    return json_response(
        {
            "model": asked.model,
            "embeddings": vectors,
            "total_duration": spent,
            "load_duration": 0,
            "prompt_eval_count": count,
            **usage,
        }
    )


async def _vectors(
    request: web.Request, model: LoadedModel, asked: EmbedRequest
) -> tuple[list[list[float]], int, Usage]:
    """A vector for each text, how many tokens they have together, and what they cost."""
    node = node_of(request)
    tokenizer, longest = _tokenizer_of(model), model.manifest.config.context_length
    vectors: list[list[float]] = []
    inputs: list[list[int]] = []
    count = 0
    for text in asked.texts:
        if asked.truncate:
            tokens = await asyncio.to_thread(tokenizer.encode_start, text, longest)
        else:
            tokens = await asyncio.to_thread(
                functools.partial(tokenizer.encode, text, add_special=True, tokens_max=longest)
            )
        inputs.append(tokens)
    for tokens in inputs:
        want_embeddable(model, tokens)  # the last before the first is computed
    async with metered_reading(request, node, model, inputs, asked.quote) as meter:
        for index, tokens in enumerate(inputs):
            found = await embedding(node, model, tokens)
            vectors.append(list(found.vector))
            count += found.tokens
            meter.told(index, vector_text(found.vector))
        for index in range(len(inputs)):  # what is sent are all of them, or none
            meter.read(index)
        return vectors, count, await meter.settle()


async def _answered(request: web.Request, asked: OllamaRequest) -> web.StreamResponse:
    node = node_of(request)
    model = await _model(node, asked.options.model)
    with node.kept.using(model, asked.keep):
        return await _answer(request, model, asked)


async def _answer(request: web.Request, model: LoadedModel, asked: OllamaRequest) -> web.StreamResponse:
    node = node_of(request)
    lines = Lines(node, asked, model.tokenizer)
    if not asked.messages and asked.prompt is None:
        if asked.keep != 0:
            node.scheduler.load(model)
        return json_response(lines.nothing_asked())
    wanted, form = await asyncio.to_thread(_wanted, node, model, asked)
    answer_tokens_max(model, wanted)
    wanted = fitting(node, model, wanted)
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})

    async def send(body: dict[str, Any]) -> None:
        if not response.prepared:
            await response.prepare(request)
        await send_piece(request, response, orjson.dumps(body) + b"\n")

    context, reader = list(wanted.prompt), form.reader()
    unsent: list[Event] = []  # whose text no line has had yet, as within the call of a tool
    charged = Meter({})

    async def answered(meter: Meter, events: AsyncIterable[Event]) -> dict[str, Any]:
        """Send all lines but the last, which is returned."""
        async for event in events:
            if isinstance(event, Failed):
                raise event.fault
            if isinstance(event, Delta):
                context.extend(report.token for report in event.tokens)
                piece = reader.feed(event.text)
                line = lines.line(piece, event.tokens)
                unsent.append(event)
                if line is not None:
                    await send(line)
                    meter.delivered(0, *unsent)
                    unsent.clear()
                _tell(meter, piece)
            elif isinstance(event, Finished):
                piece = reader.finish()
                meter.delivered(0, event)
                _tell(meter, piece)
                return lines.last(piece, event, context, await meter.settle())
        raise AssertionError("events end with Finished or Failed")

    await turn()
    try:
        async with (
            metered(request, node, model, [wanted], quote=asked.options.quote) as charged,
            generation(node, model, wanted) as events,
        ):
            last = await answered(charged, events)
            if not asked.options.stream:
                return json_response(last)
            await send(last)
    except Fault as fault:
        if not response.prepared:
            raise
        await send(ollama_error(fault) | ({"usage": charged.cut} if charged.cut else {}))
    await response.write_eof()
    return response


def _tell(meter: Meter, piece: Piece) -> None:
    """What is sent, or is sent at the end where nothing is streamed; arguments in the bytes that they have there."""
    calls = [ToolCall(call.name, orjson.dumps(orjson.loads(call.arguments)).decode()) for call in piece.calls]
    meter.told(0, piece.said, piece.thought, calls)


def _wanted(node: Node, model: LoadedModel, asked: OllamaRequest) -> tuple[GenerationRequest, AnswerForm]:
    tokenizer, longest = _tokenizer_of(model), model.manifest.config.context_length
    defaults = model.manifest.defaults
    stops, shown = (*asked.options.stop, *defaults.stop), None
    if asked.template:
        template = given_template(node.renderer, tokenizer, asked.template)
        tokenizer = replace(tokenizer, chat_template=template)
        model = replace(model, tokenizer=tokenizer)
    if asked.suffix:
        gap = infill(model, tokenizer, node.renderer, asked.prompt or "", asked.suffix)
        added, shown = list(gap.tokens), gap.ends
        stops = (*stops, *gap.ends)
        form = answer_form(model, None, None, asked.format, "format")
    elif asked.prompt is not None:
        added = tokenizer.encode(asked.prompt, add_special=True, tokens_max=longest)
        form = answer_form(model, None, None, asked.format, "format")
    else:
        want_thinking(model, tokenizer, asked.thinking, "think")
        tools = [tool.declared for tool in asked.tools.tools] if asked.tools is not None else []
        messages = defaults.conversation(asked.messages, continued=bool(asked.context))
        text = tokenizer.chat_prompt(node.renderer, messages, tools=tools, thinking=asked.thinking)
        form = answer_form(model, text, asked.tools, asked.format, "format")
        added = tokenizer.encode(text, add_special=False, tokens_max=longest)
        stops = (*stops, *tokenizer.chat_stops)
    vocabulary = model.manifest.config.vocab_size
    unknown = next((token for token in asked.context if not 0 <= token < vocabulary), None)
    if unknown is not None:
        raise InvalidInput(f"context: expected token ids from 0 to {vocabulary - 1}, found {unknown}")
    prompt = (*asked.context, *added)
    request = GenerationRequest(
        prompt,
        sampling_of(asked.options, model, node),
        asked.tokens_max,
        stop=stops,
        top=asked.top_logprobs,
        told=asked.logprobs,
        routed=False,
        grammar=form.grammar,
        shown=form.shown if shown is None else shown,
    )
    context = asked.context_max or defaults.context_max or longest
    room = max(min(context, longest) - len(prompt), 0)
    wanted = defaults.tokens_max if asked.tokens_max is None else asked.tokens_max
    return replace(request, tokens_max=room if wanted is None else min(wanted, room)), form


def _capabilities(model: LoadedModel) -> list[str]:
    if model.tokenizer is None:
        return ["completion"]
    template = model.tokenizer.chat_template
    tools = ["tools"] if tool_format_of(template) else []
    insert = ["insert"] if can_infill(model.tokenizer) else []
    return ["completion", "embedding", *tools, *insert, *(["thinking"] if can_think(template) else [])]


async def _model(node: Node, name: str) -> LoadedModel:
    try:
        return await model_named(node, name)
    except NotFound as fault:
        raise NotFound(f"model {name[:128]!r} not found", detail=fault.detail, hint=fault.hint) from None


def _loaded(node: Node) -> list[LoadedModel]:
    refused = node.refused()
    return [
        model
        for name, model in sorted(node.models.items())
        if isinstance(model, LoadedModel) and name not in refused and node.ground.chains.state.current(name) is not None
    ]


def _card(node: Node, model: LoadedModel) -> dict[str, Any]:
    version_ = node.ground.chains.state.current(model.name)
    assert version_ is not None, "a loaded model is on the chain"
    return {
        "name": tagged(model.name),
        "model": tagged(model.name),
        "modified_at": time_text(version_.time),
        "size": sum(block.length for block in model.manifest.blocks.values()),
        "digest": model.manifest_id,
        "details": _details(model),
    }


def _details(model: LoadedModel) -> dict[str, Any]:
    manifest = model.manifest
    stored = manifest.dtype if manifest.quantization is None else manifest.quantization.scheme
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": manifest.config.family,
        "families": [manifest.config.family],
        "parameter_size": f"{manifest.config.parameters / 1e6:.1f}M",
        "quantization_level": stored,
    }


def _end_text(seconds: float) -> str:
    return time_text(int(seconds)) if seconds < _last_second else "9999-12-31T23:59:59Z"


def _tokenizer_of(model: LoadedModel) -> Tokenizer:
    if model.tokenizer is None:
        raise InvalidInput(f"model {model.name}: expected a tokenizer, found none")
    return model.tokenizer


async def body_of(request: web.Request, bytes_max: int = limits.request_body_bytes_max) -> dict[str, Any]:
    """The JSON body, whatever its Content-Type: `curl -d` says it is a form. Other sites are kept out by Origin."""
    return await json_object(request, bytes_max=bytes_max)
