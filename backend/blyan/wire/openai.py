"""The OpenAI dialect: requests parsed into values, answers built from values.

Field by field as the API reference of `/v1/chat/completions` and `/v1/completions` has it. A parameter that would
change the answer and is not provided here is refused when it asks for something, never ignored. Extensions: `top_k`,
`min_p`, `repetition_penalty`, `ignore_eos`, `continue_final_message`, `return_token_ids`,
`return_tokens_as_token_ids`, and `blyan: {"experts": true, "quote": id}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, UnsupportedParameter
from blyan.wire.fields import (
    as_dict,
    as_list,
    boolean,
    brief,
    integer,
    naming_parameter,
    number,
    object_of,
    quote_of,
    stop_strings,
)
from blyan.wire.messages import parse_message
from blyan.wire.tools import AnswerFormat, ToolChoice, parse_choice, parse_response_format, parse_tools

# parameter → the values that ask for nothing
_harmless: Final[Mapping[str, tuple[object, ...]]] = {
    "best_of": (1, None),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "suffix": (None, ""),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
    "store": (None, False),
    "service_tier": (None, "auto", "default"),
}
# parameters that only inform the server
_informative: Final = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})
_efforts: Final = ("none", "minimal", "low", "medium", "high", "xhigh")
_common: Final = frozenset(
    "model stream stream_options temperature top_p top_k min_p seed stop n frequency_penalty presence_penalty "
    "repetition_penalty logit_bias ignore_eos return_token_ids blyan".split()
)


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """What chat and completion requests share. None means: the model's own default."""

    model: str
    stream: bool
    include_usage: bool
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    stop: tuple[str, ...]
    ignore_eos: bool
    return_token_ids: bool
    experts: bool  # report which experts worked
    choices: int = 1  # answers to each prompt
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    quote: str | None = None  # whose price is to count


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """`POST /v1/chat/completions`."""

    options: AnswerOptions
    messages: tuple[Mapping[str, Any], ...]  # as chat templates have them
    tokens_max: int | None
    logprobs: bool
    top_logprobs: int
    tools: ToolChoice | None = None
    format: AnswerFormat | None = None
    thinking: bool | str | None = None  # None: as the model's template has it; text: how much
    continue_final: bool = False  # the last message is an unfinished answer: go on with it


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """`POST /v1/completions`. Each prompt is text or token ids."""

    options: AnswerOptions
    prompts: tuple[str | tuple[int, ...], ...]
    tokens_max: int
    echo: bool
    logprobs: int | None
    tokens_as_ids: bool
    suffix: str = ""  # what stands after the gap that the answer fills


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """`POST /v1/embeddings`."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    base64: bool
    quote: str | None = None


def parse_embedding(body: Mapping[str, Any]) -> EmbeddingRequest:
    """Check an embedding request; the fault's detail names the parameter."""
    with naming_parameter():
        unknown = sorted(set(body) - {"model", "input", "encoding_format", "dimensions", "user", "blyan"})
        if unknown:
            raise UnsupportedParameter(f"{unknown[0][:80]}: expected a known parameter")
        if body.get("dimensions") is not None:
            raise UnsupportedParameter(f"dimensions: expected none (not provided), found {brief(body['dimensions'])}")
        encoding = body.get("encoding_format", "float")
        if encoding not in ("float", "base64"):
            raise InvalidInput(f"encoding_format: expected float or base64, found {brief(encoding)}")
        if not isinstance(body.get("model"), str):
            raise InvalidInput(f"model: expected a name, found {brief(body.get('model'))}")
        quote = quote_of(object_of(body, "blyan", {"quote"}))
        return EmbeddingRequest(body["model"], _prompts(body.get("input"), "input"), encoding == "base64", quote)


def parse_chat(body: Mapping[str, Any]) -> ChatRequest:
    """Check a chat request; the fault's detail names the parameter."""
    with naming_parameter():
        return _parse_chat(body)


def parse_completion(body: Mapping[str, Any]) -> CompletionRequest:
    """Check a completion request; the fault's detail names the parameter."""
    with naming_parameter():
        return _parse_completion(body)


def _parse_chat(body: Mapping[str, Any]) -> ChatRequest:
    own = {"messages", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "continue_final_message"}
    own |= {"tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort"}
    options = _options(body, own)
    messages = as_list(body.get("messages"))
    if messages is None or not 0 < len(messages) <= limits.messages_max:
        found = brief(body.get("messages"))
        raise InvalidInput(f"messages: expected a list of 1 to {limits.messages_max}, found {found}")
    logprobs = boolean(body, "logprobs")
    top = integer(body, "top_logprobs", 0, limits.logprobs_max)
    if top is not None and not logprobs:
        raise InvalidInput("top_logprobs: expected logprobs true with it, found none")
    parsed = tuple(parse_message(message) for message in messages)
    continue_final = boolean(body, "continue_final_message")
    if continue_final and (parsed[-1]["role"] != "assistant" or not parsed[-1]["content"]):
        found = parsed[-1]["role"] if parsed[-1]["content"] else "no text"
        raise InvalidInput(f"continue_final_message: expected text of the assistant as the last message, found {found}")
    newer, older = (
        integer(body, name, 1, limits.canonical_integer_max) for name in ("max_completion_tokens", "max_tokens")
    )
    parallel = True if body.get("parallel_tool_calls") is None else boolean(body, "parallel_tool_calls")
    return ChatRequest(
        options,
        parsed,
        newer if newer is not None else older,
        logprobs,
        top or 0,
        parse_choice(parse_tools(body.get("tools")), body.get("tool_choice"), parallel=parallel),
        parse_response_format(body.get("response_format")),
        _thinking(body.get("reasoning_effort")),
        continue_final,
    )


def _parse_completion(body: Mapping[str, Any]) -> CompletionRequest:
    own = {"prompt", "max_tokens", "echo", "logprobs", "return_tokens_as_token_ids", "suffix"}
    options = _options(body, own)
    echo, suffix = boolean(body, "echo"), body.get("suffix")
    if suffix is not None and not isinstance(suffix, str):
        raise InvalidInput(f"suffix: expected text, found {brief(suffix)}")
    if suffix and echo:
        raise UnsupportedParameter("suffix: expected echo false with it (the prompt has two parts), found true")
    tokens_max = integer(body, "max_tokens", 0 if echo else 1, limits.canonical_integer_max)
    return CompletionRequest(
        options,
        _prompts(body.get("prompt")),
        16 if tokens_max is None else tokens_max,  # the API reference's default
        echo,
        integer(body, "logprobs", 0, limits.logprobs_max),
        boolean(body, "return_tokens_as_token_ids"),
        suffix or "",
    )


def _options(body: Mapping[str, Any], own: set[str]) -> AnswerOptions:
    for name, value in body.items():
        if name in _harmless and name not in own:
            # `True == 1`: a flag is harmless only where a flag is named
            if not any(value == fine and isinstance(value, bool) == isinstance(fine, bool) for fine in _harmless[name]):
                raise UnsupportedParameter(f"{name}: expected none (not provided here), found {brief(value)}")
        elif name not in _common | _informative | own:
            raise UnsupportedParameter(f"{name[:80]}: expected a known parameter, found {brief(value)}")
    model = body.get("model")
    if not isinstance(model, str):
        raise InvalidInput(f"model: expected a name, found {brief(model)}")
    stream_options = object_of(body, "stream_options", {"include_usage", "include_obfuscation"})
    stream, ours = boolean(body, "stream"), object_of(body, "blyan", {"experts", "quote"})
    if stream_options and not stream:
        raise InvalidInput("stream_options: expected stream true with it, found none")
    return AnswerOptions(
        model=model,
        stream=stream,
        include_usage=boolean(stream_options, "include_usage"),
        temperature=number(body, "temperature"),
        top_p=number(body, "top_p"),
        top_k=integer(body, "top_k", 0, limits.vocab_max),
        seed=integer(body, "seed", -(1 << 63), (1 << 63) - 1),
        stop=stop_strings(body.get("stop")),
        ignore_eos=boolean(body, "ignore_eos"),
        return_token_ids=boolean(body, "return_token_ids"),
        experts=boolean(ours, "experts"),
        quote=quote_of(ours),
        choices=integer(body, "n", 1, limits.choices_max) or 1,
        min_p=number(body, "min_p"),
        frequency_penalty=number(body, "frequency_penalty"),
        presence_penalty=number(body, "presence_penalty"),
        repetition_penalty=number(body, "repetition_penalty"),
        logit_bias=_logit_bias(body.get("logit_bias")),
    )


def _thinking(effort: object) -> bool | str | None:
    """Whether to think, and how much, for templates that write it."""
    if effort not in (None, *_efforts):
        raise InvalidInput(f"reasoning_effort: expected {', '.join(_efforts)}, found {brief(effort)}")
    return None if effort is None else effort != "none" and str(effort)


def _prompts(prompt: object, name: str = "prompt") -> tuple[str | tuple[int, ...], ...]:
    """Text, list of texts, list of token ids, or list of lists of token ids."""
    if isinstance(prompt, str):
        return (prompt,)
    items = as_list(prompt)
    if items:
        if all(type(item) is int for item in items):
            return (tuple(cast("list[int]", items)),)
        if len(items) > limits.prompts_max:
            raise InvalidInput(f"{name}: expected at most {limits.prompts_max} texts, found {len(items)}")
        if all(isinstance(item, str) for item in items):
            return tuple(cast("list[str]", items))
        lists = [as_list(item) for item in items]
        if all(each and all(type(token) is int for token in each) for each in lists):
            return tuple(tuple(cast("list[int]", each)) for each in lists)
    raise InvalidInput(f"{name}: expected text, token ids, or a list of either, found {brief(prompt)}")


def _logit_bias(value: object) -> tuple[tuple[int, float], ...]:
    """Token ids as JSON writes them in an object: as text."""
    if value is None:
        return ()
    given = as_dict(value)
    if given is None or len(given) > limits.logit_bias_max:
        raise InvalidInput(f"logit_bias: expected an object of at most {limits.logit_bias_max}, found {brief(value)}")
    for token, bias in given.items():
        if not re.fullmatch(r"0|[1-9]\d{0,7}", token) or type(bias) not in (int, float):
            raise InvalidInput(f"logit_bias: expected token ids and numbers, found {brief({token: bias})}")
    return tuple(sorted((int(token), float(bias)) for token, bias in given.items()))
