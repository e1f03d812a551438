"""Reading a Hugging Face checkpoint directory: configuration, tokenizer, weights part by part.

`read_checkpoint` looks at everything (fields, names, shapes, dtypes) before a caller writes anything; `tensor` then
reads one at a time (`hf_shards`). No pickle, no code, no network. Unsupported: refused with the
field's name and value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from blyan.model import tokenizer as tokenizer_module
from blyan.model.config import ModelConfig
from blyan.model.hf_card import License, read_license
from blyan.model.hf_config import asked_in_vain, config_from_hf
from blyan.model.hf_files import read_json
from blyan.model.hf_generation import read_generation
from blyan.model.hf_shards import Shard, shard_names
from blyan.model.hf_tokenizer import tokenizer_payload
from blyan.model.manifest import GenerationDefaults
from blyan.model.parts import Part, parts_of
from blyan.model.request_defaults import RequestDefaults, nothing_said
from blyan.primitives import limits
from blyan.primitives.errors import NotFound, UnsupportedModel

_embedding, _output = "model.embed_tokens.weight", "lm_head.weight"
_recomputed = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


@dataclass(frozen=True, slots=True)
class HfCheckpoint:
    """A checkpoint directory that passed every check short of reading its weights."""

    folder: Path
    config: ModelConfig
    dtype: str
    tokenizer: bytes | None  # a tokenizer payload
    generation: GenerationDefaults
    license: License
    shards: Mapping[str, Shard]  # checkpoint tensor name → where it lies
    generation_extras: str = ""  # as the manifest has it
    notes: tuple[str, ...] = ()  # sentences: what of it is not honoured
    requests: RequestDefaults = nothing_said

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
    generation = read_generation(folder, raw, config)
    payload = tokenizer_payload(folder)
    if payload is not None:
        tokenizer_module.parse_payload(payload, config.vocab_size)
    shards, dtype = _check_tensors(folder, config)
    notes = (*asked_in_vain(raw), *generation.notes)
    return HfCheckpoint(
        folder,
        config,
        dtype,
        payload,
        generation.defaults,
        read_license(folder),
        shards,
        generation.extras,
        notes,
        generation.requests,
    )


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
