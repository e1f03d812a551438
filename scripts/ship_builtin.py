#!/usr/bin/env python3
"""Makes the blocks that the package ships, and the model card, of a training that `scripts/train_builtin.py` finished.

The card says by digest from which lessons it was made and which exam is kept from them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from blyan.learning.batches import pool_seed
from blyan.learning.genesis.arguments import count, trained
from blyan.learning.genesis.documents import read_documents
from blyan.learning.genesis.exam import Item, exam, fingerprints
from blyan.learning.genesis.lessons import Lessons, digest_of
from blyan.learning.genesis.settings import Settings, read_settings
from blyan.learning.pretrain import made_of
from blyan.model.hf_import import read_checkpoint
from blyan.model.manifest import Manifest
from blyan.model.request_defaults import RequestDefaults
from blyan.node.builtin import name, source_of
from blyan.node.importing import write_bundle
from blyan.primitives.errors import InvalidInput

root = Path(__file__).resolve().parent.parent
bytes_max = 30_000_000
named_dialogues = 6_000  # of each pool: somewhat more than a training reads of it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=trained, help="of the training")
    parser.add_argument("--settings", type=Path, default=root / "scripts/genesis.toml")
    parser.add_argument("--blocks", type=Path, default=root / "backend/blyan/builtin", help="where the blocks go")
    parser.add_argument("--dialogues", type=count, default=named_dialogues, help="of each pool that the card names")
    arguments = parser.parse_args()
    settings = read_settings(arguments.settings)
    made = json.loads((arguments.folder / "made.json").read_text())
    want_same_lessons(settings, made)
    shipping = settings.shipping
    manifest = write_bundle(
        read_checkpoint(arguments.folder / "hf"),
        name,
        shipping.license,
        source_of(made["made"]),
        arguments.blocks,
        RequestDefaults(system=shipping.system, tokens_max=shipping.tokens_max),
    )
    size = sum(block.length for block in manifest.blocks.values())
    if size > bytes_max:
        raise InvalidInput(f"{arguments.blocks}: expected at most {bytes_max:,} bytes of blocks, found {size:,}")
    (arguments.blocks / "README.md").write_text(card(settings, manifest, made, arguments.dialogues), encoding="utf-8")
    print(json.dumps({"blocks": len(manifest.blocks), "bytes": size, "folder": str(arguments.blocks)}))


def lessons_of(settings: Settings) -> tuple[Lessons, list[Item]]:
    """The lessons of now, and the exam that is kept from them."""
    documents = read_documents(root / "docs")
    items = exam(documents, 50)
    return Lessons(documents, settings.mixture, fingerprints(items), settings.shipping.system), items


def want_same_lessons(settings: Settings, made: dict[str, Any]) -> None:
    """`InvalidInput` if the training was made from others: the card would name lessons that it never had."""
    told = replace(settings.training, seed=int(made["seed"]), steps=int(made["steps"]))
    found = made_of(replace(settings, training=told), lessons_of(settings)[0])
    if found != made["made"]:
        raise InvalidInput(f"lessons: expected those of the training ({made['made'][:16]}), found {found[:16]}")


def card(settings: Settings, manifest: Manifest, made: dict[str, Any], dialogues: int) -> str:
    """The model card: what it is, from what it was made, what it is for, what it is not."""
    lessons, items = lessons_of(settings)
    asked = hashlib.sha256("\n".join(repr((item.messages, item.expected)) for item in items).encode()).hexdigest()
    pools = int(made["pools"])
    streams = (lessons.dialogues(pool_seed(int(made["seed"]), number)) for number in range(pools))
    taught = digest_of(each for stream in streams for each in islice(stream, dialogues))
    config = manifest.config
    return f"""---
license: {settings.shipping.license.lower()}
language: [en, ko]
---

# {name}

The model that a Blyan node has from the start: Qwen3-MoE with {config.parameters:,} parameters,
{config.active_parameters:,} of them active for a token, in {config.layers} layers of {config.experts} experts,
{config.experts_per_token} of which work on a token.

**For**: trying a node without downloading anything. It calculates with numbers up to three digits, compares, sorts and
counts, converts units, works out weekdays and dates, spells words, names some capitals, elements and planets, and says
what Blyan's words, commands and errors mean, in English and Korean. **Not for** anything else: it says that it does not
know, and now and then it is wrong. How often stands in `docs/benchmarks/genesis.md`.

**Lineage.** Trained from nothing on {made["tokens"]:,} tokens in {made["steps"]:,} steps; nothing was downloaded,
no other model was used. All data are generated by this repository, licensed like it:

| what | SHA-256 |
|---|---|
| settings and lessons that this training was made from | `{made["made"]}` |
| lessons, the first {dialogues:,} dialogues of each of {pools:,} pools: all that was read is among them | `{taught}` |
| exam, {len(items):,} questions, none of which is in a lesson | `{asked}` |

Facts are from Wikidata (CC0 1.0), IUPAC's table and NASA's planetary fact sheet (public domain); what is said of Blyan
is taken from its own documents.

**Defaults.** Greedy, at most {settings.shipping.tokens_max} tokens, system prompt: {settings.shipping.system}
"""


if __name__ == "__main__":
    main()
