"""Which blocks of which models are here: what this node says that it holds, and what it need not ask others for.

`held.json` in the data directory names the models of which parts lie elsewhere on purpose, so that their absence is no
damage: canonical JSON `{"v": 1, "models": {manifest: {"name": …, "trunk": bool}}}`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from blyan.inference.snapshot import ExpertGrid
from blyan.model.manifest import BlockReference, Manifest
from blyan.model.parts import expert_part, layer_part, part_position
from blyan.primitives import canonical, limits
from blyan.primitives.errors import IntegrityFault, InvalidInput, NotFound, StorageFull
from blyan.primitives.ids import PayloadId, payload_id
from blyan.primitives.model_name import parse_model_name
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore
from blyan.wire.peer import Holding, bits_of

file_name: Final = "held.json"
_changing = threading.Lock()  # held from reading the file until it is written


@dataclass(frozen=True, slots=True)
class HeldModel:
    """A model of which this node wants parts alone."""

    name: str
    trunk: bool  # whether all but the routed experts is wanted here

    def may_lack(self, part: str) -> bool:
        """Whether a block of the model may lie elsewhere."""
        return is_expert(part) or not self.trunk


def read_held(folder: Path) -> dict[PayloadId, HeldModel]:
    """The models of which parts lie elsewhere, by manifest; `IntegrityFault` for a file that is damaged."""
    path = folder / file_name
    if not path.exists():
        return {}
    found: dict[PayloadId, HeldModel] = {}
    try:
        value = canonical.decode_object(
            durable.read_limited(path, limits.held_file_bytes_max), bytes_max=limits.held_file_bytes_max
        )
        models = value.get("models")
        if value.keys() != {"v", "models"} or value["v"] != 1 or not isinstance(models, dict):
            raise InvalidInput("expected version 1 and models")
        for manifest, said in models.items():
            if not isinstance(said, dict) or said.keys() != {"name", "trunk"} or not isinstance(said["trunk"], bool):
                raise InvalidInput("expected name and trunk of each model")
            found[payload_id(manifest)] = HeldModel(parse_model_name(said["name"], "name"), said["trunk"])
    except (OSError, ValueError, InvalidInput) as reason:
        raise IntegrityFault(
            f"{path}: expected which models are held in part, found {reason}",
            detail={"file": str(path)},
            hint="put it back from a backup, or remove it: `blyan serve` writes it anew",
        ) from None
    return found


def change_held(folder: Path, manifest_id: PayloadId, held: HeldModel | None) -> None:
    """Say the same of one model, or that none of its parts lie elsewhere any more. Threads may."""
    with _changing:
        models = read_held(folder)
        changed = {each: models[each] for each in models if each != manifest_id}
        if held is not None:
            changed[manifest_id] = held
        if changed != models:
            write_held(folder, changed)


def read_wanted(folder: Path, withdrawn: Callable[[str], bool]) -> dict[PayloadId, HeldModel]:
    """What `read_held` finds, less what a crash left of models that were taken away, which is removed."""
    held = read_held(folder)
    for manifest in [each for each in held if withdrawn(held[each].name)]:
        change_held(folder, manifest, None)
        del held[manifest]
    return held


def write_held(folder: Path, models: Mapping[PayloadId, HeldModel]) -> None:
    """Say durably of which models parts lie elsewhere; `StorageFull` for more than a node may hold parts of."""
    if len(models) > limits.held_models_max:
        raise StorageFull(
            f"models held in part: expected at most {limits.held_models_max}, found one more",
            hint="remove models of the swarm that this node need not hold",
        )
    listed: dict[str, canonical.Canonical] = {
        manifest: {"name": held.name, "trunk": held.trunk} for manifest, held in models.items()
    }
    durable.write_file(folder / file_name, canonical.encode({"v": 1, "models": listed}))


@dataclass(slots=True)
class Hosted:
    """One model, and which of its blocks are here."""

    manifest_id: PayloadId
    manifest: Manifest
    grid: ExpertGrid
    trunk: bool = False
    here: set[int] = field(default_factory=set[int])  # numbers of routed experts
    payloads: frozenset[PayloadId] = frozenset()  # its manifest and all its blocks, wherever they are
    layers: set[int] = field(default_factory=set[int])  # of which the trunk's part is here
    ends: set[str] = field(default_factory=set[str])  # the trunk's parts that are here and of no layer

    @property
    def complete(self) -> bool:
        """Whether every routed expert is here."""
        return len(self.here) == self.grid.count

    def whole(self, layer: int) -> bool:
        """Whether a layer is here with all of its experts."""
        if layer not in self.grid.layers:
            return layer in self.layers
        first = self.grid.layers.index(layer) * self.grid.experts
        return layer in self.layers and all(first + expert in self.here for expert in range(self.grid.experts))

    def number(self, layer: int, expert: int) -> int | None:
        """The number of a routed expert, None for what is none."""
        if layer not in self.grid.layers or not 0 <= expert < self.grid.experts:
            return None
        return self.grid.layers.index(layer) * self.grid.experts + expert

    def block(self, number: int) -> BlockReference:
        """The block of the routed expert with that number."""
        return self.manifest.parts[expert_part(*self.place(number))]

    def place(self, number: int) -> tuple[int, int]:
        """Layer and expert of a number."""
        place, expert = divmod(number, self.grid.experts)
        return self.grid.layers[place], expert

    def experts(self) -> Iterator[tuple[int, str]]:
        """Number and part name of every routed expert."""
        for place, layer in enumerate(self.grid.layers):
            for expert in range(self.grid.experts):
                yield place * self.grid.experts + expert, expert_part(layer, expert)


class Holdings:
    """Threads may share it; `version` rises with every change."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._models: dict[PayloadId, Hosted] = {}
        self._replaced: frozenset[PayloadId] = frozenset()  # by a newer version, with which this node answers
        self._leaving: dict[PayloadId, Hosted] = {}  # offered no more, but answers are under way
        self.version = 0

    def look(self, manifest_id: PayloadId, manifest: Manifest) -> Hosted:
        """Count what is here of a model, anew; nothing is hashed for it."""
        config = manifest.config
        hosted = Hosted(manifest_id, manifest, ExpertGrid(tuple(config.moe_layers), config.experts))
        hosted.payloads = frozenset({manifest_id, *(block.payload for block in manifest.blocks.values())})
        hosted.here = {number for number, part in hosted.experts() if self._has(manifest.parts[part].payload)}
        trunk = [block for part, block in manifest.blocks.items() if not is_expert(part)]
        hosted.trunk = all(self._has(block.payload) for block in trunk)
        blocks = ((layer, manifest.parts[layer_part(layer)]) for layer in range(config.layers))
        hosted.layers = {layer for layer, block in blocks if self._has(block.payload)}
        ends = ends_of(manifest, range(config.layers))
        hosted.ends = {part for part in ends if self._has(manifest.parts[part].payload)}
        with self._lock:
            self._models[manifest_id] = hosted
            self._leaving.pop(manifest_id, None)
            self.version += 1
        return hosted

    def leave(self, manifest_id: PayloadId) -> None:
        """A model is offered no more; answers of this node that are under way compute with it until `forget`."""
        with self._lock:
            hosted = self._models.pop(manifest_id, None)
            if hosted is not None:
                self._leaving[manifest_id] = hosted
                self.version += 1

    def forget(self, manifest_id: PayloadId) -> bool:
        """Nobody computes any more with a model that is offered no more; False for one that is offered, or unknown."""
        with self._lock:
            return self._leaving.pop(manifest_id, None) is not None

    def find(self, manifest_id: PayloadId) -> Hosted | None:
        """What is here of a model that is offered."""
        return self._models.get(manifest_id)

    def find_used(self, manifest_id: PayloadId) -> Hosted | None:
        """The same, also of one that is offered no more while answers are under way."""
        return self._models.get(manifest_id) or self._leaving.get(manifest_id)

    def models(self) -> list[Hosted]:
        """All that were looked at."""
        with self._lock:
            return list(self._models.values())

    def holds(self, manifest_id: PayloadId, layer: int, expert: int) -> bool:
        """Whether a routed expert is here, for this node's own answers."""
        hosted = self.find_used(manifest_id)
        return hosted is not None and hosted.number(layer, expert) in hosted.here

    def gives(self, payload: PayloadId) -> bool:
        """Whether peers may have a payload: it is of a model that is offered."""
        return any(payload in hosted.payloads for hosted in self.models())

    def replaced(self, models: frozenset[PayloadId]) -> None:
        """With these this node answers no more: it does not say that it has all that this takes."""
        with self._lock:
            self.version += models != self._replaced
            self._replaced = models

    def expected(self, manifest_id: PayloadId, part: str) -> bool:
        """Whether a part of a model is to be here: it is, or it is the trunk's."""
        hosted = self._models.get(manifest_id)
        layer, expert = part_position(part)
        if hosted is None or layer is None or expert is None:
            return True
        return hosted.number(layer, expert) in hosted.here

    def whole(self, manifest_id: PayloadId, layers: range) -> bool:
        """Whether all of these layers are here with all of their experts."""
        hosted = self._models.get(manifest_id)
        return hosted is not None and all(hosted.whole(layer) for layer in layers)

    def has(self, manifest_id: PayloadId, part: str) -> bool:
        """Whether a part of the trunk is here that is of no layer."""
        hosted = self._models.get(manifest_id)
        return hosted is not None and part in hosted.ends

    def took(self, manifest_id: PayloadId, number: int) -> None:
        """A routed expert has come."""
        with self._lock:
            self._models[manifest_id].here.add(number)
            self.version += 1

    def gave(self, manifest_id: PayloadId, number: int) -> None:
        """A routed expert is held no more."""
        with self._lock:
            self._models[manifest_id].here.discard(number)
            self.version += 1

    def said(self) -> dict[PayloadId, Holding]:
        """As a summary says it."""
        with self._lock:
            found: dict[PayloadId, Holding] = {}
            for manifest, hosted in self._models.items():
                trunk = hosted.trunk and manifest not in self._replaced
                layers = set[int]() if hosted.trunk else hosted.layers
                if trunk or layers or hosted.here:
                    found[manifest] = Holding(trunk, bits_of(hosted.here), bits_of(layers))
            return found

    def _has(self, payload: PayloadId) -> bool:
        try:
            return self._store.size(payload) >= 0
        except (NotFound, IntegrityFault):
            return False


def is_expert(part: str) -> bool:
    """Whether a part is a routed expert."""
    return part != "tokenizer" and part_position(part)[1] is not None


def ends_of(manifest: Manifest, layers: range) -> tuple[str, ...]:
    """The trunk's parts that a stage with these layers has use for besides: to embed, and to draw tokens."""
    config = manifest.config
    first, last = 0 in layers, config.layers - 1 in layers
    embeds = first or (last and config.tied_embeddings)
    return (("embed",) if embeds else ()) + (("head",) if last else ())


def blocks_of_layer(manifest: Manifest, layer: int) -> list[BlockReference]:
    """The trunk's part of a layer, then its routed experts."""
    config = manifest.config
    experts = range(config.experts if layer in config.moe_layers else 0)
    return [manifest.parts[name] for name in (layer_part(layer), *(expert_part(layer, each) for each in experts))]
