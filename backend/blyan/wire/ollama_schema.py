"""What `wire/ollama` parses and what the Ollama routes answer, as JSON Schema for `/openapi.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from blyan.primitives import limits
from blyan.wire.openai_schema import calls, computed, cost, quote, receipt, tools
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
    text,
    token,
)

_stop_string: Final = text(1, limits.stop_string_chars_max)
_tuning: Final = (
    "num_keep num_batch num_gpu main_gpu use_mmap num_thread numa low_vram vocab_only use_mlock penalize_newline "
    "f16_kv logits_all embedding_only rope_frequency_base rope_frequency_scale"
)
options: Final = fields(
    {
        "temperature": optional(number(0, 2)),
        "top_p": optional(number(most=1, above=0)),
        "top_k": optional(integer(0, limits.vocab_max)),
        "min_p": optional(number(0, 1)),
        "seed": optional(integer(-(1 << 63), (1 << 63) - 1)),
        "stop": optional(either(_stop_string, listing(_stop_string, 0, limits.stop_strings_max))),
        "repeat_penalty": optional(number(most=10, above=0)),
        "presence_penalty": optional(number(-2, 2)),
        "frequency_penalty": optional(number(-2, 2)),
        "num_predict": optional(integer(-2, limits.canonical_integer_max)),
        "num_ctx": optional(integer(1, limits.canonical_integer_max)),
        "mirostat": one_of(0, None),
        "mirostat_tau": one_of(None, 5),
        "mirostat_eta": one_of(None, 0.1),
        "typical_p": one_of(None, 1),
        "tfs_z": one_of(None, 1),
        "repeat_last_n": one_of(None, -1, 0, 64),
        **dict.fromkeys(_tuning.split(), anything),
    }
)
_shared: Final[Mapping[str, Schema]] = {
    "model": text(1),
    "name": anything,  # of older clients: read where `model` is missing
    "stream": optional(flag),
    "options": optional(options),
    "keep_alive": anything,
    "think": one_of(None, True, False, "low", "medium", "high"),
    "logprobs": optional(flag),
    "top_logprobs": optional(integer(0, limits.logprobs_max)),
    "blyan": optional(fields({"quote": quote})),
    "format": either(one_of(None, "", "json"), {"type": "object"}),
    # refused unless they ask for nothing
    "images": one_of(None, []),
    "suffix": one_of(None, ""),
}
message: Final = fields(
    {
        "role": one_of("system", "user", "assistant", "tool"),
        "content": text(),
        "tool_calls": optional(calls),  # of the assistant
    },
    required=("role",),
    closed=False,
)
generate_request: Final = fields(
    {
        **_shared,
        "prompt": optional(text()),
        "system": optional(text()),
        "template": optional(text()),
        "suffix": optional(text()),
        "context": optional(listing(token)),
        "raw": optional(flag),
    },
    required=("model",),
)
chat_request: Final = fields(
    {**_shared, "messages": listing(message, 0, limits.messages_max), "tools": optional(tools)},
    required=("model",),
)
_embed: Final[Mapping[str, Schema]] = {
    "model": text(1),
    "truncate": optional(flag),
    "dimensions": one_of(None),
    "blyan": optional(fields({"quote": quote})),
}
embed_request: Final = fields(
    {**_embed, "input": optional(either(text(), listing(text(1), 0, limits.prompts_max)))},
    required=("model",),
    closed=False,
)
embeddings_request: Final = fields({**_embed, "prompt": optional(text())}, required=("model",), closed=False)
named: Final = fields({"model": text(1)}, required=("model",), closed=False)

error: Final = fields({"error": text(1)}, required=("error",))
version: Final = fields({"version": text(1)}, required=("version",))
_card: Final = fields(
    {"name": text(1), "model": text(1), "modified_at": text(1), "size": integer(0), "digest": text(1)},
    required=("name", "model", "modified_at", "size", "digest"),
    closed=False,
)
cards: Final = fields({"models": listing(_card)}, required=("models",))
shown: Final = fields(
    {"details": {"type": "object"}, "model_info": {"type": "object"}, "capabilities": listing(text(1))},
    required=("details", "model_info"),
    closed=False,
)
_usage: Final = fields({"cost": cost, "receipt": receipt, "computed": computed})
_line: Final[Mapping[str, Schema]] = {
    "model": text(),
    "created_at": text(1),
    "done": flag,
    "done_reason": text(1),
    "usage": _usage,
}
generate_answer: Final = fields(
    {**_line, "response": text()}, required=("model", "created_at", "done", "response"), closed=False
)
chat_answer: Final = fields(
    {**_line, "message": {"type": "object"}}, required=("model", "created_at", "done", "message"), closed=False
)
embed_answer: Final = fields(
    {"model": text(), "embeddings": listing(listing(number(-1.001, 1.001))), "usage": _usage},
    required=("model", "embeddings"),
    closed=False,
)
embeddings_answer: Final = fields(
    {"embedding": listing(number(-1.001, 1.001)), "usage": _usage}, required=("embedding",)
)
