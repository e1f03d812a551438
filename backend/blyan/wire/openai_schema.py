"""What `wire/openai` parses and what the OpenAI routes answer, as JSON Schema for `/openapi.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from blyan.primitives import limits
from blyan.wire.schema import (
    Schema,
    anything,
    either,
    fields,
    flag,
    integer,
    listing,
    number,
    one_of,
    optional,
    table,
    text,
    token,
)

_seed: Final = integer(-(1 << 63), (1 << 63) - 1)
_tokens_max: Final = optional(integer(1, limits.canonical_integer_max))
_top: Final = optional(integer(0, limits.logprobs_max))
_stop_string: Final = text(1, limits.stop_string_chars_max)
_prompt: Final = either(
    text(),
    listing(token, 1),
    listing(text(), 1, limits.prompts_max),
    listing(listing(token, 1), 1, limits.prompts_max),
)

# what only informs the server
_informative: Final[Mapping[str, Schema]] = dict.fromkeys(
    ("user", "metadata", "safety_identifier", "prompt_cache_key"), anything
)
# what is refused unless it asks for nothing
_nothing: Final[Mapping[str, Schema]] = {
    "best_of": one_of(1, None),
    "functions": one_of(None, []),
    "function_call": one_of(None, "none", "auto"),
    "suffix": one_of(None, ""),
    "modalities": one_of(None, ["text"]),
    "audio": one_of(None),
    "prediction": one_of(None),
    "web_search_options": one_of(None),
    "store": one_of(None, False),
    "service_tier": one_of(None, "auto", "default"),
}
quote: Final = optional(text(1, limits.quote_chars_max))
_common: Final[Mapping[str, Schema]] = {
    "model": text(),
    "stream": optional(flag),
    "stream_options": optional(fields({"include_usage": optional(flag), "include_obfuscation": anything})),
    "temperature": optional(number(0, 2)),
    "top_p": optional(number(most=1, above=0)),
    "top_k": optional(integer(0, limits.vocab_max)),
    "min_p": optional(number(0, 1)),
    "seed": optional(_seed),
    "stop": optional(either(_stop_string, listing(_stop_string, 0, limits.stop_strings_max))),
    "n": optional(integer(1, limits.choices_max)),
    "frequency_penalty": optional(number(-2, 2)),
    "presence_penalty": optional(number(-2, 2)),
    "repetition_penalty": optional(number(most=10, above=0)),
    "logit_bias": optional(table(number(-100, 100), {"pattern": r"^(0|[1-9][0-9]{0,5})$"}, limits.logit_bias_max)),
    "ignore_eos": optional(flag),
    "return_token_ids": optional(flag),
    "blyan": optional(fields({"experts": optional(flag), "quote": quote})),
    **_informative,
    **_nothing,
}
_content: Final = either(
    text(),
    listing(fields({"type": one_of("text"), "text": text()}, required=("type", "text"), closed=False)),
)
_object: Final[Schema] = {"type": "object"}
_call: Final = fields(
    {
        "id": anything,
        "type": one_of("function"),
        "function": fields({"name": text(), "arguments": either(_object, text(2))}, required=("name", "arguments")),
    },
    required=("function",),
    closed=False,
)
calls: Final = listing(_call, 0, limits.tool_calls_max)
message: Final = either(
    fields(
        {"role": one_of("system", "developer", "user"), "content": _content, "name": anything},
        required=("role", "content"),
    ),
    fields(
        {
            "role": one_of("assistant"),
            "content": optional(_content),
            "tool_calls": optional(calls),
            "name": anything,
            "refusal": anything,
            "audio": one_of(None),
            "function_call": one_of(None),
        },
        required=("role",),  # and content, unless it calls tools
    ),
    fields(
        {"role": one_of("tool"), "content": _content, "tool_call_id": text(), "name": anything},
        required=("role", "content", "tool_call_id"),
    ),
)
_name: Final[Schema] = {
    "type": "string",
    "pattern": "^[A-Za-z0-9_.-]+$",
    "minLength": 1,
    "maxLength": limits.tool_name_chars_max,
}
tools: Final = listing(
    fields(
        {
            "type": one_of("function"),
            "function": fields(
                {
                    "name": _name,
                    "description": optional(text()),
                    "parameters": optional(fields({"type": one_of("object")}, closed=False)),
                    "strict": optional(flag),
                },
                required=("name",),
                closed=False,
            ),
        },
        required=("function",),
        closed=False,
    ),
    0,
    limits.tools_max,
)
_tool_choice: Final = either(
    one_of(None, "none", "auto", "required"),
    fields({"type": one_of("function"), "function": _object}, required=("type", "function"), closed=False),
    fields({"type": one_of("allowed_tools"), "allowed_tools": _object}, required=("type",), closed=False),
)
_response_format: Final = either(
    one_of(None, {"type": "text"}, {"type": "json_object"}),
    fields(
        {
            "type": one_of("json_schema"),
            "json_schema": fields(
                {"name": text(), "description": anything, "schema": _object, "strict": optional(flag)},
                required=("name", "schema"),
            ),
        },
        required=("type", "json_schema"),
    ),
)

chat_request: Final = fields(
    {
        **_common,
        "messages": listing(message, 1, limits.messages_max),
        "max_tokens": _tokens_max,
        "max_completion_tokens": _tokens_max,
        "logprobs": optional(flag),
        "top_logprobs": _top,
        "tools": optional(tools),
        "tool_choice": _tool_choice,
        "parallel_tool_calls": optional(flag),
        "continue_final_message": optional(flag),
        "response_format": _response_format,
        "reasoning_effort": one_of(None, "none", "minimal", "low", "medium", "high", "xhigh"),
    },
    required=("model", "messages"),
)
completion_request: Final = fields(
    {
        **_common,
        "prompt": _prompt,
        "max_tokens": optional(integer(0, limits.canonical_integer_max)),
        "echo": optional(flag),
        "suffix": optional(text()),
        "logprobs": _top,
        "return_tokens_as_token_ids": optional(flag),
    },
    required=("model", "prompt"),
)
embedding_request: Final = fields(
    {
        "model": text(),
        "input": _prompt,
        "encoding_format": one_of("float", "base64"),
        "dimensions": one_of(None),
        "user": anything,
        "blyan": optional(fields({"quote": quote})),
    },
    required=("model", "input"),
)

error: Final = fields(
    {
        "error": fields(
            {
                "message": text(),
                "type": text(),
                "param": {"type": ["string", "null"]},
                "code": text(),
                "detail": {"type": "object"},
                "hint": {"type": ["string", "null"]},
                "request_id": text(1),
            },
            required=("message", "type", "param", "code", "detail", "hint"),
        )
    },
    required=("error",),
)

cost: Final = fields({"amount": text(1), "asset": text(1)}, required=("amount", "asset"))
receipt: Final = fields({"id": text(32), "salt": text(64)}, required=("id", "salt"))  # the salt is kept by nobody else
computed: Final = fields({"plan": text(1), "nodes": listing(text(64))}, required=("plan", "nodes"))  # not here alone
_usage: Final = fields(
    {
        "prompt_tokens": integer(0),
        "completion_tokens": integer(0),
        "total_tokens": integer(0),
        "cost": cost,
        "receipt": receipt,
        "computed": computed,
    },
    required=("prompt_tokens", "total_tokens"),
    closed=False,
)
_experts: Final = fields({"experts": listing(listing(integer(0), 3, 3))}, closed=False)


def _answer(kind: str, choice: Mapping[str, Schema]) -> Schema:
    shared = {
        "index": integer(0),
        "finish_reason": one_of("stop", "length", "tool_calls"),
        "token_ids": listing(token),
        "logprobs": {"type": ["object", "null"]},
    }
    return fields(
        {
            "id": text(1),
            "object": one_of(kind),
            "created": integer(0),
            "model": text(),
            "choices": listing(fields({**shared, **choice}, required=("index", "finish_reason", *choice)), 1),
            "usage": _usage,
            "blyan": _experts,
        },
        required=("id", "object", "created", "model", "choices", "usage"),
    )


chat_answer: Final = _answer(
    "chat.completion",
    {
        "message": fields(
            {"role": one_of("assistant"), "content": {"type": ["string", "null"]}}, required=("role",), closed=False
        )
    },
)
completion_answer: Final = _answer("text_completion", {"text": text()})
embedding_answer: Final = fields(
    {
        "object": one_of("list"),
        "model": text(),
        "usage": _usage,
        "data": listing(
            fields(
                {
                    "object": one_of("embedding"),
                    "index": integer(0),
                    "embedding": either(listing(number(-1.001, 1.001), 1), text(1)),
                },
                required=("object", "index", "embedding"),
            ),
            1,
        ),
    },
    required=("object", "model", "usage", "data"),
)
model_card: Final = fields(
    {
        "id": text(1),
        "object": one_of("model"),
        "created": integer(0),
        "owned_by": text(),
        "blyan": fields({"state": one_of("ready", "refused")}, required=("state",), closed=False),
    },
    required=("id", "object", "created", "owned_by"),
)
model_list: Final = fields({"object": one_of("list"), "data": listing(model_card)}, required=("object", "data"))
