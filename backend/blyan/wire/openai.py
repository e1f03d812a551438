"""The OpenAI dialect: requests parsed into values, answers built from values.

Field by field as the API reference of `/v1/chat/completions` and `/v1/completions` has it. A parameter that would
change the answer and is not provided here is refused when it asks for something, never ignored. Extensions: `top_k`,
`min_p`, `repetition_penalty`, `ignore_eos`, `return_token_ids`, `return_tokens_as_token_ids`, and `blyan:
{"experts": true}`.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, UnsupportedParameter

# parameter → the values that ask for nothing
_harmless: Final[Mapping[str, tuple[object, ...]]] = {
    "best_of": (1, None),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None, "none"),
    "web_search_options": (None,),
    "parallel_tool_calls": (None, True, False),
}
# parameters that only inform the server
_informative: Final = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
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
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """`POST /v1/chat/completions`."""

    options: AnswerOptions
    messages: tuple[Mapping[str, str], ...]
    tokens_max: int | None
    logprobs: bool
    top_logprobs: int


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """`POST /v1/completions`. Each prompt is text or token ids."""

    options: AnswerOptions
    prompts: tuple[str | tuple[int, ...], ...]
    tokens_max: int
    echo: bool
    logprobs: int | None
    tokens_as_ids: bool


def parse_chat(body: Mapping[str, Any]) -> ChatRequest:
    """Check a chat request; the fault's detail names the parameter."""
    with naming_parameter():
        return _parse_chat(body)


def parse_completion(body: Mapping[str, Any]) -> CompletionRequest:
    """Check a completion request; the fault's detail names the parameter."""
    with naming_parameter():
        return _parse_completion(body)


@contextmanager
def naming_parameter() -> Generator[None]:
    """Every refusal of a parameter begins with its name; clients want it in a field of its own."""
    try:
        yield
    except InvalidInput as fault:
        name = re.split(r"[: ]", fault.message, maxsplit=1)[0]
        fault.detail = {**fault.detail, "param": {"message": "messages"}.get(name, name)}
        raise


def _parse_chat(body: Mapping[str, Any]) -> ChatRequest:
    own = {"messages", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs"}
    options = _options(body, own)
    messages = _as_list(body.get("messages"))
    if messages is None or not 0 < len(messages) <= limits.messages_max:
        found = _brief(body.get("messages"))
        raise InvalidInput(f"messages: expected a list of 1 to {limits.messages_max}, found {found}")
    logprobs = _boolean(body, "logprobs")
    top = _integer(body, "top_logprobs", 0, limits.logprobs_max)
    if top is not None and not logprobs:
        raise InvalidInput("top_logprobs: expected logprobs true with it, found none")
    newer, older = (
        _integer(body, name, 1, limits.canonical_integer_max) for name in ("max_completion_tokens", "max_tokens")
    )
    return ChatRequest(
        options,
        tuple(_message(message) for message in messages),
        newer if newer is not None else older,
        logprobs,
        top or 0,
    )


def _parse_completion(body: Mapping[str, Any]) -> CompletionRequest:
    own = {"prompt", "max_tokens", "echo", "logprobs", "return_tokens_as_token_ids"}
    options = _options(body, own)
    echo = _boolean(body, "echo")
    tokens_max = _integer(body, "max_tokens", 0 if echo else 1, limits.canonical_integer_max)
    return CompletionRequest(
        options,
        _prompts(body.get("prompt")),
        16 if tokens_max is None else tokens_max,  # the API reference's default
        echo,
        _integer(body, "logprobs", 0, limits.logprobs_max),
        _boolean(body, "return_tokens_as_token_ids"),
    )


def _options(body: Mapping[str, Any], own: set[str]) -> AnswerOptions:
    for name, value in body.items():
        if name in _harmless:
            # `True == 1`: compare kinds as well
            if not any(value == fine and isinstance(value, bool) == isinstance(fine, bool) for fine in _harmless[name]):
                raise UnsupportedParameter(f"{name}: expected none (not provided here), found {_brief(value)}")
        elif name not in _common | _informative | own:
            raise UnsupportedParameter(f"{name[:80]}: expected a known parameter, found {_brief(value)}")
    model = body.get("model")
    if not isinstance(model, str):
        raise InvalidInput(f"model: expected a name, found {_brief(model)}")
    stream_options = _object(body, "stream_options", {"include_usage", "include_obfuscation"})
    stream = _boolean(body, "stream")
    if stream_options and not stream:
        raise InvalidInput("stream_options: expected stream true with it, found none")
    return AnswerOptions(
        model=model,
        stream=stream,
        include_usage=_boolean(stream_options, "include_usage"),
        temperature=_number(body, "temperature"),
        top_p=_number(body, "top_p"),
        top_k=_integer(body, "top_k", 0, limits.vocab_max),
        seed=_integer(body, "seed", -(1 << 63), (1 << 63) - 1),
        stop=_stop(body.get("stop")),
        ignore_eos=_boolean(body, "ignore_eos"),
        return_token_ids=_boolean(body, "return_token_ids"),
        experts=_boolean(_object(body, "blyan", {"experts"}), "experts"),
        choices=_integer(body, "n", 1, limits.choices_max) or 1,
        min_p=_number(body, "min_p") or 0.0,
        frequency_penalty=_number(body, "frequency_penalty") or 0.0,
        presence_penalty=_number(body, "presence_penalty") or 0.0,
        repetition_penalty=1.0 if (repeated := _number(body, "repetition_penalty")) is None else repeated,
        logit_bias=_logit_bias(body.get("logit_bias")),
    )


def _message(message: object) -> Mapping[str, str]:
    if not isinstance(message, dict):
        raise InvalidInput(f"message: expected an object, found {_brief(message)}")
    given = cast("dict[str, Any]", message)
    role, content = given.get("role"), given.get("content")
    if role not in ("system", "developer", "user", "assistant"):
        raise InvalidInput(f"message role: expected system, developer, user or assistant, found {_brief(role)}")
    extra = sorted(set(given) - {"role", "content", "name", "refusal"})
    if extra:
        raise UnsupportedParameter(
            f"message {extra[0][:80]}: expected none (not provided here), found {_brief(given[extra[0]])}"
        )
    if isinstance(content, list):
        content = "".join(_text_part(part) for part in cast("list[Any]", content))
    if not isinstance(content, str):
        raise InvalidInput(f"message content: expected text, found {_brief(content)}")
    return {"role": "system" if role == "developer" else role, "content": content}


def _text_part(part: object) -> str:
    given = _as_dict(part)
    if given is not None and given.get("type") == "text" and isinstance(given.get("text"), str):
        return given["text"]
    raise UnsupportedParameter(f"message content: expected parts of type text, found {_brief(part)}")


def _prompts(prompt: object) -> tuple[str | tuple[int, ...], ...]:
    """Text, list of texts, list of token ids, or list of lists of token ids."""
    if isinstance(prompt, str):
        return (prompt,)
    items = _as_list(prompt)
    if items:
        if all(type(item) is int for item in items):
            return (tuple(cast("list[int]", items)),)
        if len(items) > limits.prompts_max:
            raise InvalidInput(f"prompt: expected at most {limits.prompts_max} prompts, found {len(items)}")
        if all(isinstance(item, str) for item in items):
            return tuple(cast("list[str]", items))
        lists = [_as_list(item) for item in items]
        if all(each and all(type(token) is int for token in each) for each in lists):
            return tuple(tuple(cast("list[int]", each)) for each in lists)
    raise InvalidInput(f"prompt: expected text, token ids, or a list of either, found {_brief(prompt)}")


def _stop(value: object) -> tuple[str, ...]:
    words = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(words, list) or len(cast("list[Any]", words)) > limits.stop_strings_max:
        raise InvalidInput(f"stop: expected at most {limits.stop_strings_max} strings, found {_brief(value)}")
    for word in cast("list[Any]", words):
        if not isinstance(word, str) or not 0 < len(word) <= limits.stop_string_chars_max:
            raise InvalidInput(
                f"stop: expected strings of 1 to {limits.stop_string_chars_max} characters, found {_brief(word)}"
            )
    return tuple(cast("list[str]", words))


def _logit_bias(value: object) -> tuple[tuple[int, float], ...]:
    """Token ids as JSON writes them in an object: as text."""
    if value is None:
        return ()
    given = _as_dict(value)
    if given is None or len(given) > limits.logit_bias_max:
        raise InvalidInput(f"logit_bias: expected an object of at most {limits.logit_bias_max}, found {_brief(value)}")
    for token, bias in given.items():
        if not re.fullmatch(r"0|[1-9]\d{0,7}", token) or type(bias) not in (int, float):
            raise InvalidInput(f"logit_bias: expected token ids and numbers, found {_brief({token: bias})}")
    return tuple(sorted((int(token), float(bias)) for token, bias in given.items()))


def _object(body: Mapping[str, Any], name: str, known: set[str]) -> dict[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    given = _as_dict(value)
    if given is None or not set(given) <= known:
        raise InvalidInput(f"{name}: expected an object with {sorted(known)}, found {_brief(value)}")
    return given


def _boolean(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and type(value) is not bool:
        raise InvalidInput(f"{name}: expected true or false, found {_brief(value)}")
    return bool(value)


def _integer(body: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = body.get(name)
    if value is not None and (type(value) is not int or not least <= value <= most):
        raise InvalidInput(f"{name}: expected an integer from {least} to {most}, found {_brief(value)}")
    return value


def _number(body: Mapping[str, Any], name: str) -> float | None:
    value = body.get(name)
    if value is not None and type(value) not in (int, float):
        raise InvalidInput(f"{name}: expected a number, found {_brief(value)}")
    return None if value is None else float(value)


def _as_list(value: object) -> list[Any] | None:
    return cast("list[Any]", value) if isinstance(value, list) else None


def _as_dict(value: object) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _brief(value: object) -> str:
    return reprlib.repr(value)  # bounded in depth and length, unlike repr
