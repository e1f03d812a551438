"""What a checkpoint says of generation: defaults that a request here gets, and the rest, kept for export and said.

`generation_config.json` goes before `config.json`. What is honoured stands in `_honoured` and, as what a request gets
when it says nothing, in `_by_requests`; all but the first is carried in the manifest as it came, so that an export
gives it back, and what of it answers would show and will not is said at import.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from blyan.model import hf_fields
from blyan.model.config import ModelConfig
from blyan.model.hf_files import read_json
from blyan.model.hf_values import integer, number, want
from blyan.model.manifest import GenerationDefaults, extras_text
from blyan.model.request_defaults import RequestDefaults
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, UnsupportedModel

_honoured: Final = frozenset({"do_sample", "eos_token_id", "temperature", "top_k", "top_p"})
_by_requests: Final = frozenset({"max_new_tokens", "min_p", "repetition_penalty", "stop_strings"})
_tokens: Final = ("bos_token_id", "pad_token_id")  # no answer here begins or is filled with one


@dataclass(frozen=True, slots=True)
class Generation:
    """What was read."""

    defaults: GenerationDefaults
    requests: RequestDefaults
    extras: str  # the fields beside them, as the manifest has them
    notes: tuple[str, ...]  # sentences: what is not honoured


def read_generation(folder: Path, config_raw: Mapping[str, Any], config: ModelConfig) -> Generation:
    """Read `generation_config.json`, if there is one; `UnsupportedModel` or `InvalidInput` names file and field."""
    path = folder / "generation_config.json"
    said = read_json(path, limits.config_json_bytes_max) if path.is_file() else {}
    defaults = _defaults(said, config_raw, config, there=path.is_file())
    extras = {name: config_raw[name] for name in _tokens if config_raw.get(name) is not None}
    extras |= {name: value for name, value in said.items() if value is not None or name in extras}
    kept = {
        name: value
        for name, value in extras.items()
        if value is not None and name not in _honoured and name not in ("transformers_version", "_from_model_config")
    }
    for name in _tokens:
        integer(kept, name, 0)
    requests = _requests(said)
    try:
        text = extras_text(kept)
    except (InvalidInput, ValueError) as reason:
        raise UnsupportedModel(f"generation_config.json: {reason}") from None
    return Generation(defaults, requests, text, tuple(_not_honoured(said)))


def _defaults(
    said: Mapping[str, Any], config_raw: Mapping[str, Any], config: ModelConfig, *, there: bool
) -> GenerationDefaults:
    class_eos = None if there else hf_fields.families[config.family].eos
    eos: Any = said.get("eos_token_id", config_raw.get("eos_token_id", class_eos))
    if eos == class_eos and "eos_token_id" not in config_raw and eos is not None and eos >= config.vocab_size:
        eos = None  # the class knows nothing of this model's vocabulary
    tokens = cast("list[Any]", [] if eos is None else eos if isinstance(eos, list) else [eos])
    for token in tokens:
        want(type(token) is int and 0 <= token < config.vocab_size, "eos_token_id", token, "token ids of the model")
    sampled = said.get("do_sample")
    want(sampled is None or isinstance(sampled, bool), "do_sample", sampled, "true or false")
    greedy = sampled is False
    try:
        return GenerationDefaults(
            eos=tuple(tokens),
            temperature=0.0 if greedy else number(said, "temperature", 1.0),
            top_p=number(said, "top_p", 1.0),
            top_k=integer(said, "top_k", 0),
        )
    except InvalidInput as reason:
        raise UnsupportedModel(f"generation_config.json: {reason.message}") from None


def _requests(said: Mapping[str, Any]) -> RequestDefaults:
    stop: Any = said.get("stop_strings")
    words = cast("list[Any]", [] if stop is None else [stop] if isinstance(stop, str) else stop)
    want(isinstance(words, list) and all(isinstance(word, str) for word in words), "stop_strings", stop, "texts")
    try:
        return RequestDefaults(
            stop=tuple(words),
            tokens_max=None if said.get("max_new_tokens") is None else integer(said, "max_new_tokens", 1),
            min_p=0.0 if said.get("min_p") is None else number(said, "min_p", 0.0),
            repetition_penalty=number(said, "repetition_penalty", 1.0),
        )
    except InvalidInput as reason:
        raise UnsupportedModel(f"generation_config.json: {reason.message}") from None


def _not_honoured(said: Mapping[str, Any]) -> Iterator[str]:
    """Sentences about what answers would show and these will not."""
    silent = {*_honoured, *_by_requests, *_tokens, *hf_fields.of_the_machinery, *hf_fields.ignored}
    for name in sorted(said.keys() - silent):
        if hf_fields.asks(name, said[name]):
            known = "not honoured" if name in hf_fields.asks_for_nothing else "not known, and not honoured"
            yield f"generation_config.json: {name[:80]} {str(said[name])[:200]!r} is {known}"
