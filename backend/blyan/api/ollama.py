"""The Ollama dialect: `/api/tags|ps|version|show|generate|chat|embed|embeddings`, newline-delimited JSON by default.

Errors are `{"error": "text"}`, also as the last line of a stream that has begun. Durations are nanoseconds. Nothing is
loaded or unloaded: weights lie in files that the kernel maps.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, cast

import orjson
from aiohttp import web

from blyan import __version__
from blyan.api.chat import embedding, generation, sampling_of
from blyan.api.errors import json_response, status_of
from blyan.api.model_text import told_of
from blyan.api.state import node_of
from blyan.inference.session import Delta, Failed, Finished, GenerationRequest, answer_tokens_max
from blyan.model.loading import LoadedModel
from blyan.model.tokenizer import Tokenizer
from blyan.node.node import Node
from blyan.primitives.errors import Fault, InvalidInput, NotFound
from blyan.wire.ollama import OllamaRequest, model_name, parse_chat, parse_embed, parse_generate

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_nanoseconds: Final = 1_000_000_000


def faults_as_ollama(handler: Handler) -> Handler:
    """Turn a fault before the first line into this dialect's body."""

    @functools.wraps(handler)
    async def wrapped(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Fault as fault:
            return json_response(error_of(fault), status=status_of(fault))

    return wrapped


async def version(_request: web.Request) -> web.Response:
    """Ours; clients show it."""
    return json_response({"version": __version__})


async def tags(request: web.Request) -> web.Response:
    """The models that can be asked."""
    node = node_of(request)
    return json_response({"models": [_card(node, model) for model in _loaded(node)]})


async def ps(request: web.Request) -> web.Response:
    """The same: what can be asked is mapped, and stays so."""
    node = node_of(request)
    cards = [_card(node, model) | {"expires_at": "9999-12-31T23:59:59Z", "size_vram": 0} for model in _loaded(node)]
    return json_response({"models": cards})


@faults_as_ollama
async def show(request: web.Request) -> web.StreamResponse:
    """What one model is."""
    node = node_of(request)
    model = await _model(node, model_name(await body_of(request)))
    manifest, config = model.manifest, model.manifest.config
    architecture = config.family
    return json_response(
        {
            **told_of(model),
            "modified_at": _card(node, model)["modified_at"],
            "details": _details(model),
            "capabilities": ["completion", "embedding"] if model.tokenizer is not None else ["completion"],
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
    tokenizer, longest = _tokenizer_of(model), model.manifest.config.context_length
    vectors: list[list[float]] = []
    count = 0
    for text in asked.texts:
        if asked.truncate:
            tokens = await asyncio.to_thread(tokenizer.encode_start, text, longest)
        else:
            tokens = await asyncio.to_thread(
                functools.partial(tokenizer.encode, text, add_special=True, tokens_max=longest)
            )
        found = await embedding(node.scheduler, model, tokens)
        vectors.append(list(found.vector))
        count += found.tokens
    if single:
        return json_response({"embedding": vectors[0]})
    spent = round((node.sources.monotonic() - began) * _nanoseconds)
    return json_response(
        {
            "model": asked.model,
            "embeddings": vectors,
            "total_duration": spent,
            "load_duration": 0,
            "prompt_eval_count": count,
        }
    )


class _Lines:
    """How one answer words its lines."""

    def __init__(self, node: Node, asked: OllamaRequest) -> None:
        self._node = node
        self._asked = asked
        self.began = node.sources.monotonic()
        self.first: float | None = None  # when the first token came

    def line(self, text: str) -> dict[str, Any]:
        """One piece of the answer."""
        if self.first is None:
            self.first = self._node.sources.monotonic()
        return self._head() | self._said(text) | {"done": False}

    def last(self, text: str, finished: Finished, context: list[int]) -> dict[str, Any]:
        """The end, with counts and durations; `text` is the whole answer where nothing was streamed."""
        now = self._node.sources.monotonic()
        first = now if self.first is None else self.first
        body = self._head() | self._said(text) | {"done": True, "done_reason": finished.reason}
        if not self._asked.chat:
            body["context"] = context
        return body | {
            "total_duration": round((now - self.began) * _nanoseconds),
            "load_duration": 0,
            "prompt_eval_count": finished.prompt_tokens,
            "prompt_eval_duration": round((first - self.began) * _nanoseconds),
            "eval_count": finished.completion_tokens,
            "eval_duration": round((now - first) * _nanoseconds),
        }

    def nothing_asked(self) -> dict[str, Any]:
        """The answer to a request without a prompt, by which clients load and unload."""
        return self._head() | self._said("") | {"done": True, "done_reason": "load" if self._asked.keep else "unload"}

    def _head(self) -> dict[str, Any]:
        return {"model": self._asked.options.model, "created_at": _time(self._node.sources.now())}

    def _said(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}} if self._asked.chat else {"response": text}


async def _answered(request: web.Request, asked: OllamaRequest) -> web.StreamResponse:
    node = node_of(request)
    lines = _Lines(node, asked)
    model = await _model(node, asked.options.model)
    if not asked.messages and asked.prompt is None:
        return json_response(lines.nothing_asked())
    wanted = await asyncio.to_thread(_wanted, node, model, asked)
    answer_tokens_max(model, wanted)
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})

    async def send(body: dict[str, Any]) -> None:
        if not response.prepared:
            await response.prepare(request)
        await response.write(orjson.dumps(body) + b"\n")

    text, context = "", list(wanted.prompt)
    try:
        async with generation(node.scheduler, model, wanted) as events:
            async for event in events:
                if isinstance(event, Failed):
                    raise event.fault
                if isinstance(event, Delta):
                    context += [report.token for report in event.tokens]
                    text += event.text
                    line = lines.line(event.text)
                    if asked.options.stream and event.text:
                        await send(line)
                elif isinstance(event, Finished):
                    last = lines.last("" if asked.options.stream else text, event, context)
                    if not asked.options.stream:
                        return json_response(last)
                    await send(last)
    except Fault as fault:
        if not response.prepared:
            raise
        await send(error_of(fault))
    await response.write_eof()
    return response


def _wanted(node: Node, model: LoadedModel, asked: OllamaRequest) -> GenerationRequest:
    tokenizer, longest = _tokenizer_of(model), model.manifest.config.context_length
    defaults = model.manifest.defaults
    stops = (*asked.options.stop, *defaults.stop)
    if asked.prompt is not None:
        added = tokenizer.encode(asked.prompt, add_special=True, tokens_max=longest)
    else:
        text = tokenizer.chat_prompt(
            node.renderer, defaults.conversation(asked.messages, continued=bool(asked.context))
        )
        added = tokenizer.encode(text, add_special=False, tokens_max=longest)
        stops = (*stops, *tokenizer.chat_stops)
    prompt = (*asked.context, *added)
    request = GenerationRequest(prompt, sampling_of(asked.options, model, node), asked.tokens_max, stop=stops)
    context = asked.context_max or defaults.context_max or longest
    room = max(min(context, longest) - len(prompt), 0)
    wanted = defaults.tokens_max if asked.tokens_max is None else asked.tokens_max
    return replace(request, tokens_max=room if wanted is None else min(wanted, room))


async def _model(node: Node, name: str) -> LoadedModel:
    try:
        return await asyncio.to_thread(node.model, name)
    except NotFound as fault:
        raise NotFound(f"model {name[:128]!r} not found", detail=fault.detail, hint=fault.hint) from None


def _loaded(node: Node) -> list[LoadedModel]:
    refused = node.refused()
    return [
        model for name, model in sorted(node.models.items()) if isinstance(model, LoadedModel) and name not in refused
    ]


def _card(node: Node, model: LoadedModel) -> dict[str, Any]:
    version_ = node.ground.chains.state.current(model.name)
    assert version_ is not None, "a loaded model is on the chain"
    return {
        "name": f"{model.name}:latest",
        "model": f"{model.name}:latest",
        "modified_at": _time(version_.time),
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


def _tokenizer_of(model: LoadedModel) -> Tokenizer:
    if model.tokenizer is None:
        raise InvalidInput(f"model {model.name}: expected a tokenizer, found none")
    return model.tokenizer


async def body_of(request: web.Request) -> dict[str, Any]:
    """The JSON body, whatever its Content-Type: `curl -d` says it is a form. Other sites are kept out by Origin."""
    try:
        value = orjson.loads(await request.read())
    except orjson.JSONDecodeError as reason:
        raise InvalidInput(f"body: expected JSON, found {reason}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"body: expected a JSON object, found {type(value).__name__}")
    return cast("dict[str, Any]", value)


def error_of(fault: Fault) -> dict[str, str]:
    """A fault as this dialect says it."""
    return {"error": fault.message}


def _time(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
