"""The Ollama dialect: requests parsed into values (https://github.com/ollama/ollama/blob/main/docs/api.md).

Streaming is the default here. `options` that would change the answer and are not provided are refused when they ask for
something; those that tune another program's memory or threads only inform. Names are `name` or `name:tag`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, UnsupportedParameter
from blyan.primitives.model_name import canonical_name
from blyan.wire.fields import (
    as_dict,
    as_list,
    boolean,
    brief,
    integer,
    keep_seconds,
    naming_parameter,
    number,
    object_of,
    quote_of,
    stop_strings,
)
from blyan.wire.messages import parse_calls
from blyan.wire.openai import AnswerOptions
from blyan.wire.tools import AnswerFormat, ToolChoice, parse_choice, parse_schema, parse_tools

_informative: Final = frozenset(
    "num_keep num_batch num_gpu main_gpu use_mmap num_thread numa low_vram vocab_only use_mlock penalize_newline "
    "f16_kv logits_all embedding_only rope_frequency_base rope_frequency_scale".split()
)
_harmless: Final[Mapping[str, tuple[object, ...]]] = {
    "mirostat": (0, None),
    "mirostat_tau": (None, 5, 5.0),
    "mirostat_eta": (None, 0.1),
    "typical_p": (None, 1, 1.0),
    "tfs_z": (None, 1, 1.0),
    "repeat_last_n": (None, -1, 0, 64),
}
_sampled: Final = frozenset(
    "temperature top_p top_k min_p seed stop repeat_penalty presence_penalty frequency_penalty num_predict "
    "num_ctx".split()
)
_nothing: Final[Mapping[str, tuple[object, ...]]] = {
    "images": (None, []),
    "suffix": (None, ""),
}
_both: Final = {"format", "keep_alive", "options", "stream", "think", "logprobs", "top_logprobs", "blyan"}


@dataclass(frozen=True, slots=True)
class OllamaRequest:
    """`POST /api/generate` or `/api/chat`: either a prompt or messages."""

    options: AnswerOptions
    tokens_max: int | None  # None: as the model says, or as many as fit
    context_max: int | None  # `num_ctx`: prompt and answer together
    messages: tuple[Mapping[str, Any], ...]
    prompt: str | None  # raw text, not to be put into the chat template
    context: tuple[int, ...]  # tokens of an earlier answer that this one continues
    chat: bool
    keep: float | None  # seconds that the model is to stay loaded; 0 unloads it, None: as said before
    format: AnswerFormat | None = None
    tools: ToolChoice | None = None
    thinking: bool | str | None = None  # None: as the model's template has it; text: how much
    logprobs: bool = False
    top_logprobs: int = 0
    template: str = ""  # in place of the model's own; empty: that one
    suffix: str = ""  # what stands after the gap that the answer fills; the prompt before it


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """`POST /api/embed` or the older `/api/embeddings`, which takes one text."""

    model: str
    texts: tuple[str, ...]
    truncate: bool
    single: bool
    keep: float | None  # seconds that the model is to stay loaded
    quote: str | None = None


def parse_generate(body: Mapping[str, Any]) -> OllamaRequest:
    """Check a generate request; the fault's detail names the parameter."""
    with naming_parameter():
        _known(body, {"model", "prompt", "system", "template", "context", "raw", "suffix"} | _both)
        if suffix := _text(body, "suffix"):
            return _gap(body, suffix)
        prompt = _text(body, "prompt")
        system, raw = _text(body, "system"), boolean(body, "raw")
        messages: list[Mapping[str, Any]] = []
        if prompt and not raw:
            messages = [{"role": "system", "content": system}] if system else []
            messages.append({"role": "user", "content": prompt})
        context = as_list(body.get("context")) or []
        if len(context) > limits.prompt_bytes_max or not all(type(token) is int for token in context):
            raise InvalidInput(f"context: expected token ids, found {brief(body.get('context'))}")
        asked = _request(body, messages, prompt if raw and prompt else None, tuple(context), chat=False)
        return replace(asked, template=_text(body, "template"))


def _gap(body: Mapping[str, Any], suffix: str) -> OllamaRequest:
    """A gap to fill: its prompt has two parts and no place for anything else."""
    for name in ("raw", "system", "context", "think"):
        if body.get(name):
            raise UnsupportedParameter(f"{name}: expected none with suffix, found {brief(body[name])}")
    asked = _request(body, [], _text(body, "prompt"), (), chat=False)
    return replace(asked, template=_text(body, "template"), suffix=suffix)


def parse_chat(body: Mapping[str, Any]) -> OllamaRequest:
    """Check a chat request; the fault's detail names the parameter."""
    with naming_parameter():
        _known(body, {"model", "messages", "tools"} | _both)
        messages = as_list(body.get("messages", []))
        if messages is None or len(messages) > limits.messages_max:
            raise InvalidInput(f"messages: expected at most {limits.messages_max}, found {brief(body.get('messages'))}")
        return _request(body, [_message(message) for message in messages], None, (), chat=True)


def parse_embed(body: Mapping[str, Any], *, single: bool) -> EmbedRequest:
    """Check an embed request; the fault's detail names the parameter."""
    with naming_parameter():
        field = "prompt" if single else "input"
        given = body.get(field)
        known = {"model", "name", field, "truncate", "dimensions", "options", "keep_alive", "blyan"}
        unknown = sorted(set(body) - known)
        if unknown:
            raise UnsupportedParameter(f"{unknown[0][:80]}: expected a known field, found {brief(body[unknown[0]])}")
        nothing = given is None or given == ""  # clients load a model with it
        texts = [] if nothing else [given] if isinstance(given, str) else None if single else as_list(given)
        if texts is None or len(texts) > limits.prompts_max or not all(isinstance(text, str) for text in texts):
            raise InvalidInput(f"{field}: expected text or at most {limits.prompts_max} texts, found {brief(given)}")
        if "" in texts:
            raise InvalidInput(f"input: expected texts that are not empty, found none at {texts.index('')}")
        if body.get("dimensions") is not None:
            raise UnsupportedParameter(f"dimensions: expected none, found {brief(body['dimensions'])}")
        truncate = True if body.get("truncate") is None else boolean(body, "truncate")
        return EmbedRequest(
            model_name(body),
            tuple(cast("list[str]", texts)),
            truncate,
            single,
            keep_seconds(body.get("keep_alive")),
            quote_of(object_of(body, "blyan", {"quote"})),
        )


def model_name(body: Mapping[str, Any]) -> str:
    """The model's name in its one spelling."""
    found = body.get("model", body.get("name"))
    if not isinstance(found, str) or not found:
        raise InvalidInput(f"model: expected a name, found {brief(found)}")
    return canonical_name(found)


def _request(
    body: Mapping[str, Any],
    messages: list[Mapping[str, Any]],
    prompt: str | None,
    context: tuple[int, ...],
    *,
    chat: bool,
) -> OllamaRequest:
    options = {} if body.get("options") is None else as_dict(body["options"])
    if options is None:
        raise InvalidInput(f"options: expected an object, found {brief(body['options'])}")
    for name, value in options.items():
        if name in _harmless and value not in _harmless[name]:
            raise UnsupportedParameter(f"{name}: expected none (not provided here), found {brief(value)}")
        if name not in _harmless and name not in _sampled | _informative:
            raise UnsupportedParameter(f"{name[:80]}: expected a known option, found {brief(value)}")
    predicted = integer(options, "num_predict", -2, limits.canonical_integer_max)
    stream = True if body.get("stream") is None else boolean(body, "stream")
    return OllamaRequest(
        AnswerOptions(
            model=model_name(body),
            stream=stream,
            include_usage=False,
            temperature=number(options, "temperature"),
            top_p=number(options, "top_p"),
            top_k=integer(options, "top_k", 0, limits.vocab_max),
            seed=integer(options, "seed", -(1 << 63), (1 << 63) - 1),
            stop=stop_strings(options.get("stop")),
            ignore_eos=False,
            return_token_ids=False,
            experts=False,
            min_p=number(options, "min_p"),
            frequency_penalty=number(options, "frequency_penalty"),
            presence_penalty=number(options, "presence_penalty"),
            repetition_penalty=number(options, "repeat_penalty"),
            quote=quote_of(object_of(body, "blyan", {"quote"})),
        ),
        tokens_max=limits.canonical_integer_max if predicted is not None and predicted < 0 else predicted,
        context_max=integer(options, "num_ctx", 1, limits.canonical_integer_max),
        messages=tuple(messages),
        prompt=prompt,
        context=context,
        chat=chat,
        keep=keep_seconds(body.get("keep_alive")),
        format=_format(body.get("format")),
        tools=parse_choice(parse_tools(body.get("tools")), None, parallel=True),
        thinking=_thinking(body.get("think")),
        logprobs=boolean(body, "logprobs"),
        top_logprobs=integer(body, "top_logprobs", 0, limits.logprobs_max) or 0,
    )


def _thinking(value: object) -> bool | str | None:
    """True, false, or how much, for templates that write it."""
    if value is not None and type(value) is not bool and value not in ("low", "medium", "high"):  # 1 == True
        raise InvalidInput(f"think: expected true, false, low, medium or high, found {brief(value)}")
    return value if isinstance(value, bool | str) else None


def _format(value: object) -> AnswerFormat | None:
    """`json`, or a schema."""
    if value in (None, ""):
        return None
    return AnswerFormat() if value == "json" else AnswerFormat(parse_schema(value, "format"))


def _known(body: Mapping[str, Any], own: set[str]) -> None:
    for name, value in body.items():
        if name in own:
            continue
        if name in _nothing and value not in _nothing[name]:
            raise UnsupportedParameter(f"{name}: expected none (not provided here), found {brief(value)}")
        if name not in _nothing and name not in own | {"name"}:
            raise UnsupportedParameter(f"{name[:80]}: expected a known field, found {brief(value)}")


def _message(message: object) -> Mapping[str, Any]:
    given = as_dict(message)
    if given is None:
        raise InvalidInput(f"messages: expected objects, found {brief(message)}")
    role, content = given.get("role"), given.get("content", "")
    if role not in ("system", "user", "assistant", "tool"):
        raise InvalidInput(f"messages: expected role system, user, assistant or tool, found {brief(role)}")
    own = {"assistant": {"tool_calls", "thinking"}, "tool": {"tool_name", "name"}}.get(role, set[str]())
    extra = sorted(name for name, value in given.items() if name not in {"role", "content"} | own and value)
    if extra:
        raise UnsupportedParameter(f"messages: expected no {extra[0][:80]} (not provided here)")
    if not isinstance(content, str):
        raise InvalidInput(f"messages: expected content as text, found {brief(content)}")
    parsed: dict[str, Any] = {"role": role, "content": content}
    calls = parse_calls(given.get("tool_calls"))
    if calls:
        parsed["tool_calls"] = calls
    thought = given.get("thinking")
    if role == "assistant" and isinstance(thought, str) and thought:
        parsed["reasoning_content"] = thought
    name = given.get("tool_name", given.get("name"))
    return parsed | ({"name": name} if isinstance(name, str) else {})


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"{name}: expected text, found {brief(value)}")
    return value or ""
