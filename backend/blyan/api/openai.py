"""The OpenAI routes: dialect in, dialect out.

`POST /v1/chat/completions`, `POST /v1/completions`, `GET /v1/models`, `GET /v1/models/{id}`. What is common to
answering, streamed or whole, is in `api/answer`; what a request may contain in `wire/openai`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from aiohttp import web

from blyan.api import answer
from blyan.api.body import json_object
from blyan.api.chat import embedding, model_named, sampling_of
from blyan.api.client import tell_client
from blyan.api.dialects import ChatDialect, CompletionDialect
from blyan.api.errors import error_body, json_response
from blyan.api.metering import metered_reading
from blyan.api.state import node_of
from blyan.inference.answer_form import AnswerForm, answer_form, want_thinking
from blyan.inference.embedding import want_embeddable
from blyan.inference.receipt_output import vector_text
from blyan.inference.session import GenerationRequest
from blyan.model.infill import Infill, infill
from blyan.model.loading import LoadedModel
from blyan.model.tokenizer import Tokenizer
from blyan.node.node import Node
from blyan.primitives.errors import InvalidInput, NotFound
from blyan.primitives.model_name import canonical_name
from blyan.wire.fields import blaming, naming_parameter
from blyan.wire.openai import (
    AnswerOptions,
    ChatRequest,
    CompletionRequest,
    parse_chat,
    parse_completion,
    parse_embedding,
)

Asked = TypeVar("Asked")


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Answer a conversation."""
    node = node_of(request)
    asked = await _parsed(request, parse_chat)
    model = await model_named(node, asked.options.model)
    with node.kept.using(model, None):
        return await _chat(request, model, asked)


async def _chat(request: web.Request, model: LoadedModel, asked: ChatRequest) -> web.StreamResponse:
    node = node_of(request)
    prompt, form = await asyncio.to_thread(chat_prompt_of, node, model, asked)
    first = _generation(
        asked.options, model, node, prompt, asked.tokens_max, asked.top_logprobs if asked.logprobs else None
    )
    wanted = _choices(
        replace(first, grammar=form.grammar, shown=form.shown, continues=asked.continue_final), asked.options
    )
    dialect = ChatDialect(asked, model, node, form)
    if asked.options.stream:
        return await answer.stream(request, node, model, dialect, wanted)
    return await answer.whole(request, node, model, dialect, wanted)


async def completions(request: web.Request) -> web.StreamResponse:
    """Continue one or several prompts."""
    node = node_of(request)
    asked = await _parsed(request, parse_completion)
    model = await model_named(node, asked.options.model)
    with node.kept.using(model, None):
        return await _completion(request, model, asked)


async def _completion(request: web.Request, model: LoadedModel, asked: CompletionRequest) -> web.StreamResponse:
    node = node_of(request)
    with blaming("prompt", "suffix"):
        told = not asked.suffix and all(isinstance(prompt, tuple) for prompt in asked.prompts)
        gaps = _gaps(node, model, asked) if told else await asyncio.to_thread(_gaps, node, model, asked)
        prompts = [gap.tokens for gap in gaps]
    wanted = [
        choice
        for prompt in prompts
        for choice in _choices(
            _generation(asked.options, model, node, prompt, asked.tokens_max, asked.logprobs, asked), asked.options
        )
    ]
    if asked.suffix:
        wanted = [replace(one, stop=(*one.stop, *gaps[0].ends), shown=gaps[0].ends) for one in wanted]
    dialect = CompletionDialect(asked, model, node)
    if asked.options.stream:
        return await answer.stream(request, node, model, dialect, wanted)
    return await answer.whole(request, node, model, dialect, wanted)


async def embeddings(request: web.Request) -> web.StreamResponse:
    """A vector for each text: the mean of the hidden states after the final norm, of length one."""
    node = node_of(request)
    asked = await _parsed(request, parse_embedding)
    model = await model_named(node, asked.model)
    with blaming("input"):
        inputs = await asyncio.to_thread(lambda: [completion_prompt(model, text) for text in asked.inputs])
        for tokens in inputs:
            want_embeddable(model, tokens)  # the last before the first is computed
    data: list[dict[str, Any]] = []
    with node.kept.using(model, None):
        async with metered_reading(request, node, model, inputs, asked.quote) as meter:
            for index, tokens in enumerate(inputs):
                found = await embedding(node, model, tokens)
                text = vector_text(found.vector)
                vector = text if asked.base64 else list(found.vector)
                data.append({"object": "embedding", "index": index, "embedding": vector})
                meter.told(index, text)
            for index in range(len(inputs)):  # what is sent are all of them, or none
                meter.read(index)
            cost = await meter.settle()
    count = sum(map(len, inputs))
    usage = {"prompt_tokens": count, "total_tokens": count, **cost}
    return json_response({"object": "list", "data": data, "model": model.name, "usage": usage})


async def models(request: web.Request) -> web.Response:
    """Every model of this node's chain, those that are refused with the reason."""
    node = node_of(request)
    return json_response({"object": "list", "data": [_model_card(node, name) for name in _offered(node)]})


async def model(request: web.Request) -> web.Response:
    """One model."""
    node, name = node_of(request), canonical_name(request.match_info["id"])
    if name not in _offered(node):
        raise NotFound(f"model {name[:128]!r}: expected one of {', '.join(sorted(node.models))}, found no such model")
    return json_response(_model_card(node, name))


def _offered(node: Node) -> list[str]:
    """The models that are served and, while one is taken away, still on the chain."""
    return [name for name in sorted(node.models) if node.ground.chains.state.current(name) is not None]


def _model_card(node: Node, name: str) -> dict[str, Any]:
    version = node.ground.chains.state.current(name)
    assert version is not None, "listed in the state"
    found = node.models[name]
    card: dict[str, Any] = {"version": version.version, "family": version.family, "manifest": version.manifest}
    reason = node.refused().get(name)
    card |= {"state": "refused" if reason else "ready", "reason": error_body(reason)["error"] if reason else None}
    if isinstance(found, LoadedModel):
        config = found.manifest.config
        card |= {
            "parameters": config.parameters,
            "active_parameters": config.active_parameters,
            "layers": config.layers,
            "experts": config.experts,
            "experts_per_token": config.experts_per_token,
            "context_length": config.context_length,
            "license": found.manifest.license,
        }
    return {"id": name, "object": "model", "created": version.time, "owned_by": "blyan", "blyan": card}


async def _parsed(request: web.Request, parse: Callable[[dict[str, Any]], Asked]) -> Asked:
    """What is asked, of a body that is kept no longer; only `application/json`, which no cross-site form can send."""
    if request.content_type != "application/json":
        raise InvalidInput(f"Content-Type: expected application/json, found {request.content_type[:80]!r}")
    body = await json_object(request)
    asked = parse(body)
    tell_client(request, body.get("user"))
    return asked


def chat_prompt_of(node: Node, model: LoadedModel, asked: ChatRequest) -> tuple[tuple[int, ...], AnswerForm]:
    """The tokens of a conversation, and the form that its answer has."""
    tokenizer = _tokenizer_of(model)
    tools = [tool.declared for tool in asked.tools.tools] if asked.tools is not None else []
    with naming_parameter():
        want_thinking(model, tokenizer, asked.thinking, "reasoning_effort")
    with blaming("messages", "continue_final_message"):
        text = tokenizer.chat_prompt(
            node.renderer,
            model.manifest.defaults.conversation(asked.messages),
            tools=tools,
            continue_final=asked.continue_final,
            thinking=asked.thinking,
        )
    with naming_parameter():
        form = answer_form(model, text, asked.tools, asked.format, "response_format")
        if form.grammar is not None and asked.options.ignore_eos:
            raise InvalidInput("ignore_eos: expected false where an answer has a form, found true")
    longest = model.manifest.config.context_length
    with blaming("messages"):
        return tuple(tokenizer.encode(text, add_special=False, tokens_max=longest)), form


def completion_prompt(model: LoadedModel, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
    """The tokens of a prompt."""
    if isinstance(prompt, tuple):
        return prompt
    tokens_max = model.manifest.config.context_length
    return tuple(_tokenizer_of(model).encode(prompt, add_special=True, tokens_max=tokens_max))


def _gaps(node: Node, model: LoadedModel, asked: CompletionRequest) -> list[Infill]:
    """What is asked for each prompt; without a suffix nothing stands after the gap, and no token ends it."""
    if not asked.suffix:
        return [Infill(completion_prompt(model, prompt), ()) for prompt in asked.prompts]
    return [infill(model, model.tokenizer, node.renderer, prompt, asked.suffix) for prompt in asked.prompts]


def _tokenizer_of(model: LoadedModel) -> Tokenizer:
    if model.tokenizer is None:
        raise InvalidInput(
            f"model {model.name}: expected a tokenizer, found none",
            detail={"param": "model"},
            hint="send token ids as the prompt of /v1/completions, or import the checkpoint with its tokenizer.json",
        )
    return model.tokenizer


def _choices(first: GenerationRequest, options: AnswerOptions) -> list[GenerationRequest]:
    """As many answers as asked for: the first with the request's seed, each other with one that follows from it."""
    seeds = [_other_seed(first.sampling.seed, number) for number in range(options.choices)]
    return [replace(first, sampling=replace(first.sampling, seed=seed)) for seed in seeds]


def _other_seed(seed: int, number: int) -> int:
    """Far apart and the same each time: a Weyl sequence modulo 2^64."""
    return (seed + number * 0x9E3779B97F4A7C15 + (1 << 63)) % (1 << 64) - (1 << 63)


def _generation(
    options: AnswerOptions,
    model: LoadedModel,
    node: Node,
    prompt: tuple[int, ...],
    tokens_max: int | None,
    top: int | None,
    completion: CompletionRequest | None = None,
) -> GenerationRequest:
    defaults = model.manifest.defaults
    return GenerationRequest(
        prompt=prompt,
        sampling=sampling_of(options, model, node),
        tokens_max=defaults.tokens_limit(tokens_max, len(prompt), model.manifest.config.context_length),
        stop=(
            *options.stop,
            *defaults.stop,
            *(model.tokenizer.chat_stops if completion is None and model.tokenizer else ()),
        ),
        top=top or 0,
        told=top is not None,
        routed=options.experts,
        echo=completion is not None and completion.echo,
        ignore_eos=options.ignore_eos,
    )
