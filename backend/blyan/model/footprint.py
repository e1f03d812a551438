"""How large a model is where: bytes by kind of part, and of memory for what it remembers. From its manifest alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blyan.model.config import ModelConfig
from blyan.model.manifest import Manifest
from blyan.model.parts import part_position

_item_bytes: Final = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of one model."""

    embeddings: int  # and the output matrix
    trunk: int  # attention, norms, gates, dense and shared feed-forward
    experts: int
    tokenizer: int
    active: int  # weights that one token reads: all but the experts it is not sent to

    @property
    def weights(self) -> int:
        """Everything that is computed with."""
        return self.embeddings + self.trunk + self.experts


def footprint_of(manifest: Manifest) -> Footprint:
    """Add up the blocks."""
    embeddings = trunk = experts = 0
    for part, block in manifest.parts.items():
        layer, expert = part_position(part)
        if layer is None:
            embeddings += block.length
        elif expert is None:
            trunk += block.length
        else:
            experts += block.length
    config = manifest.config
    share = config.experts_per_token / config.experts
    # one row of the embeddings is read, and the output matrix whole: of untied ones about half, of tied ones all
    read = embeddings if config.tied_embeddings else manifest.parts["head"].length
    tokenizer = manifest.tokenizer.length if manifest.tokenizer is not None else 0
    return Footprint(embeddings, trunk, experts, tokenizer, read + trunk + round(experts * share))


def cache_bytes(config: ModelConfig, dtype: str, tokens: int) -> int:
    """Bytes of keys and values of `tokens` positions, as a cache that keeps every position holds them."""
    return 2 * config.layers * config.kv_heads * config.head_dim * _item_bytes[dtype] * tokens
