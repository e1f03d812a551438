"""Reading a Hugging Face checkpoint directory: configuration, tokenizer, weights part by part.

`read_checkpoint` looks at everything (fields, names, shapes, dtypes) before a caller writes anything; `tensor` then
reads one at a time (`hf_shards`). No pickle, no code, no network. Unsupported: refused with the
field's name and value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from torch import Tensor

from blyan.model import tokenizer as tokenizer_module
from blyan.model.config import ModelConfig
from blyan.model.hf_config import asked_in_vain, config_from_hf
from blyan.model.hf_files import read_json
from blyan.model.hf_shards import Shard, shard_names
from blyan.model.hf_tokenizer import tokenizer_payload
from blyan.model.hf_values import integer, number, want
from blyan.model.manifest import GenerationDefaults
from blyan.model.parts import Part, parts_of
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, NotFound, UnsupportedModel

_embedding, _output = "model.embed_tokens.weight", "lm_head.weight"
_asks_for_nothing: Final[Mapping[str, tuple[object, ...]]] = {
    "bad_words_ids": ([],),
    "begin_suppress_tokens": ([],),
    "constraints": ([],),
    "diversity_penalty": (0, 0.0),
    "encoder_repetition_penalty": (1, 1.0),
    "epsilon_cutoff": (0, 0.0),
    "eta_cutoff": (0, 0.0),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "min_new_tokens": (0,),
    "min_p": (0, 0.0),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "penalty_alpha": (0, 0.0),
    "repetition_penalty": (1, 1.0),
    "sequence_bias": ({},),
    "stop_strings": ([],),
    "suppress_tokens": ([],),
    "typical_p": (1, 1.0),
}
_recomputed = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")

# YAML: plain or quoted, alone or as the first of a list in brackets or of one with dashes
_license_said = re.compile(
    r"""^license:[ \t]*(?:(?P<bracket>\[\s*)|\n[ \t]*-[ \t]+)?(?P<quote>["']?)"""
    r"""(?P<id>[A-Za-z0-9][A-Za-z0-9.+-]{0,63})(?P=quote)(?(bracket)\s*[,\]]|(?:[ \t]+\#.*)?$)""",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class HfCheckpoint:
    """A checkpoint directory that passed every check short of reading its weights."""

    folder: Path
    config: ModelConfig
    dtype: str
    tokenizer: bytes | None  # a tokenizer payload
    generation: GenerationDefaults
    license: str
    shards: Mapping[str, Shard]  # checkpoint tensor name → where it lies
    notes: tuple[str, ...] = ()  # sentences: what of it is not honoured

    def tensor(self, part: Part, name: str) -> Tensor:
        """Read one tensor of a part, mapped for as long as it is held."""
        wanted = part.checkpoint_name(name)
        return self.shards[wanted].tensor(wanted)

    @property
    def files(self) -> frozenset[str]:
        """File names of its shards."""
        return frozenset(shard.path.name for shard in self.shards.values())


def read_checkpoint(folder: Path) -> HfCheckpoint:
    """Check a checkpoint directory; `NotFound` or `UnsupportedModel` says which file or field and what it holds."""
    if not (folder / "config.json").is_file():
        raise NotFound(f"checkpoint: expected {folder / 'config.json'}, found none")
    raw = read_json(folder / "config.json", limits.config_json_bytes_max)
    config = config_from_hf(raw)
    generation_path = folder / "generation_config.json"
    generation_raw = read_json(generation_path, limits.config_json_bytes_max) if generation_path.is_file() else {}
    generation = _generation(generation_raw, raw, config)
    payload = tokenizer_payload(folder)
    if payload is not None:
        tokenizer_module.parse_payload(payload, config.vocab_size)
    shards, dtype = _check_tensors(folder, config)
    notes = (*asked_in_vain(raw), *_not_honoured(generation_raw))
    return HfCheckpoint(folder, config, dtype, payload, generation, _license(folder), shards, notes)


def _generation(
    generation: Mapping[str, Any], config_raw: Mapping[str, Any], config: ModelConfig
) -> GenerationDefaults:
    eos: Any = generation.get("eos_token_id", config_raw.get("eos_token_id"))
    tokens = cast("list[Any]", [] if eos is None else eos if isinstance(eos, list) else [eos])
    for token in tokens:
        want(type(token) is int and 0 <= token < config.vocab_size, "eos_token_id", token, "token ids of the model")
    sampled = generation.get("do_sample")
    want(sampled is None or isinstance(sampled, bool), "do_sample", sampled, "true or false")
    greedy = sampled is False
    try:
        return GenerationDefaults(
            eos=tuple(tokens),
            temperature=0.0 if greedy else number(generation, "temperature", 1.0),
            top_p=number(generation, "top_p", 1.0),
            top_k=integer(generation, "top_k", 0),
        )
    except InvalidInput as reason:
        raise UnsupportedModel(f"generation_config.json: {reason.message}") from None


def _not_honoured(generation: Mapping[str, Any]) -> Iterator[str]:
    """Sentences about what a generation_config.json asks for beside what a request can say here."""
    for name, values in _asks_for_nothing.items():
        value = generation.get(name)
        if value is not None and value not in values:
            yield f"generation_config.json: {name} {value!r} is not honoured"


def _check_tensors(folder: Path, config: ModelConfig) -> tuple[dict[str, Shard], str]:
    """Compare names, shapes and dtypes of all shards with what the architecture needs; return places and the dtype."""
    expected = {
        part.checkpoint_name(tensor): shape for part in parts_of(config) for tensor, shape in part.shapes.items()
    }
    found: dict[str, Shard] = {}
    tied: list[Shard] = []  # shards that hold an output matrix all the same
    dtypes: dict[str, str] = {}
    for file in shard_names(folder):
        shard = Shard.opened(folder / file)
        for name, place in shard.places.items():
            if _recomputed.fullmatch(name):
                continue
            if name == _output and config.tied_embeddings:
                tied.append(shard)
                continue
            if name not in expected or name in found:
                raise UnsupportedModel(f"tensor {name}: expected none of that name (twice), found one in {file}")
            if place.shape != expected[name]:
                raise UnsupportedModel(f"tensor {name}: expected shape {expected[name]}, found {place.shape}")
            found[name] = shard
            dtypes.setdefault(place.dtype, name)
    missing = sorted(set(expected) - set(found))
    if missing:
        raise UnsupportedModel(f"tensor {missing[0]}: expected one, found none ({len(missing)} missing)")
    if len(dtypes) != 1 or next(iter(dtypes)) not in ("F32", "F16", "BF16"):
        raise UnsupportedModel(f"dtype: expected F32, F16 or BF16 for all tensors, found {dtypes}")
    for shard in tied:
        _want_equal(found[_embedding], shard)
    return found, next(iter(dtypes))


def _want_equal(embeddings: Shard, output: Shard) -> None:
    """Refuse a checkpoint that says its embeddings are tied and holds another output matrix."""
    first, second = embeddings.places[_embedding], output.places[_output]
    same = (first.dtype, first.shape) == (second.dtype, second.shape)
    if not same or not embeddings.tensor(_embedding).equal(output.tensor(_output)):
        raise UnsupportedModel(
            f"tensor {_output}: expected the values of {_embedding} (tie_word_embeddings is true), found others"
        )


def _license(folder: Path) -> str:
    """The SPDX id in the front matter of the model card, if there is one; the first where it lists several."""
    card = folder / "README.md"
    if not card.is_file() or card.stat().st_size > limits.config_json_bytes_max:
        return ""
    lines = [line.rstrip() for line in card.read_text("utf-8-sig", "replace").split("\n")]
    if lines[0] != "---" or "---" not in lines[1:]:
        return ""
    said = _license_said.search("\n".join(lines[1 : lines.index("---", 1)]))
    return said["id"] if said else ""
