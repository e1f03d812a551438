"""An excerpt: a joint checkpoint and a few entries of its meta chain, so that both are checked without the chains.

It holds the genesis, every rotation, and what else somebody wants to show: a model, a price. From the genesis on each
entry must be by the key that the ones before it name, and each has its path to the meta chain's root, so the last key
is the one that may sign the checkpoint. What an excerpt cannot show is that no rotation was left out after the last
one: an older key could still sign a history of its own, which is told apart by comparing checkpoints with others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from blyan.chain.entries import Entry, GenesisBody, RotationBody, parse_entry
from blyan.chain.joint import JointCheckpoint, parse_joint
from blyan.chain.log import Log
from blyan.chain.merkle import entry_id_of, leaf_hash
from blyan.chain.proofs import check_inclusion, inclusion_path
from blyan.chain.replay import network_of
from blyan.primitives import canonical, limits
from blyan.primitives.errors import IntegrityFault, InvalidInput
from blyan.primitives.ids import Digest, EntryId, PublicKey, parse_hex64

_path_max: Final = 64
_rotation: Final = b'"type":"rotation"'


@dataclass(frozen=True, slots=True)
class Placed:
    """Entry number `index` of the meta chain, in its bytes, and the path from it to the chain's root."""

    index: int
    raw: bytes
    path: tuple[Digest, ...]

    @property
    def id(self) -> EntryId:
        """The entry's id."""
        return entry_id_of(self.raw)


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A joint checkpoint in its bytes, and entries of its meta chain in their order."""

    joint: bytes
    meta: tuple[Placed, ...]

    def value(self) -> dict[str, canonical.Canonical]:
        """As JSON, each signed thing as the object that its bytes are."""
        return {
            "joint": canonical.decode(self.joint, bytes_max=limits.joint_bytes_max),
            "meta": [
                {
                    "index": each.index,
                    "entry": canonical.decode(each.raw, bytes_max=limits.entry_bytes_max),
                    "path": [beside.hex() for beside in each.path],
                }
                for each in self.meta
            ],
        }

    def checkpoint(self) -> JointCheckpoint:
        """The joint checkpoint, signed by whom it names; `IntegrityFault` otherwise. Whether they may is `writers`."""
        return parse_joint(self.joint, Path("of the excerpt"))

    def writers(self, joint: JointCheckpoint) -> list[PublicKey]:
        """The keys that could write, the first one first; `IntegrityFault` unless the last is the checkpoint's author.

        Checks every entry: its place in the chain, its network, and the signature of the key that was to write then.
        """
        head, last = joint.heads["meta"], -1
        keys: list[PublicKey] = []
        for each in self.meta:
            if each.index <= last:
                raise IntegrityFault(f"entry {each.index} of meta: expected it after {last}, in order")
            last = each.index
            check_inclusion(leaf_hash(each.raw), each.index, head.size, each.path, head.root)
            self._check_writer(joint, each, keys)
        if not keys or keys[-1] != joint.author:
            raise IntegrityFault(
                f"joint checkpoint of {joint.network}: expected one by {keys[-1] if keys else 'a genesis'}, "
                f"the key that its meta chain names, found one by {joint.author}"
            )
        return keys

    def entries(self) -> list[Entry]:
        """All that it holds, in their order."""
        return [parse_entry(each.raw) for each in self.meta]

    @staticmethod
    def _check_writer(joint: JointCheckpoint, placed: Placed, keys: list[PublicKey]) -> None:
        """Take one entry, by the key that the ones before it name, and the key that it names."""
        entry = parse_entry(placed.raw)
        what = f"entry {placed.index} of meta"
        if (entry.network, entry.chain) != (joint.network, "meta"):
            raise IntegrityFault(f"{what}: expected one of {joint.network}, found one of {entry.network}")
        if isinstance(entry.body, GenesisBody) != (placed.index == 0) or (placed.index != 0 and not keys):
            raise IntegrityFault(f"{what}: expected the genesis first and once, found a {entry.type}")
        if placed.index == 0:
            if joint.network.startswith("local-") and joint.network != network_of(entry.author):
                raise IntegrityFault(
                    f"{what}: expected the key that {joint.network} is named after, not {entry.author}"
                )
            keys.append(entry.author)
        if entry.author != keys[-1]:
            raise IntegrityFault(f"{what}: expected one by {keys[-1]}, found one by {entry.author}")
        entry.verify_signature()
        if isinstance(entry.body, RotationBody):
            entry.body.verify_proof(entry.network, entry.author)
            keys.append(entry.body.key)


def excerpt(joint: JointCheckpoint, meta: Log, wanted: Collection[int]) -> Excerpt:
    """The genesis, the entries of these numbers, and where the key was handed over every rotation.

    Finding those reads the whole meta chain, so it is done only where the checkpoint is not by the genesis's author.
    `NotFound` where entries are not held here.
    """
    size = joint.heads["meta"].size
    genesis = parse_entry(next(iter(meta.entries(0, 1))))
    numbers = {0, *wanted}
    if genesis.author != joint.author:
        numbers |= {number for number, raw in enumerate(meta.entries(0, size)) if _is_rotation(raw)}
    if len(numbers) > limits.receipt_meta_entries_max:
        raise InvalidInput(f"excerpt: expected at most {limits.receipt_meta_entries_max} entries, found {len(numbers)}")
    return Excerpt(joint.encode(), tuple(_placed(meta, number, size) for number in sorted(numbers)))


def parse_excerpt(value: Mapping[str, Any]) -> Excerpt:
    """Read an excerpt from its JSON value, which came from canonical bytes; `InvalidInput`. Nothing is checked yet."""
    if set(value) != {"joint", "meta"}:
        raise InvalidInput(f"checkpoint: expected fields ['joint', 'meta'], found {str(sorted(value))[:200]}")
    meta = value["meta"]
    if not isinstance(meta, list) or len(cast("list[Any]", meta)) > limits.receipt_meta_entries_max:
        raise InvalidInput(f"checkpoint meta: expected a list of at most {limits.receipt_meta_entries_max} entries")
    return Excerpt(canonical.encode(value["joint"]), tuple(map(_parse_placed, cast("list[Any]", meta))))


def _parse_placed(value: object) -> Placed:
    given = cast("dict[str, Any]", value) if isinstance(value, dict) else dict[str, Any]()
    if set(given) != {"index", "entry", "path"}:
        raise InvalidInput(f"checkpoint meta: expected fields ['entry', 'index', 'path'], found {sorted(given)}")
    index, path = given["index"], given["path"]
    if type(index) is not int or not 0 <= index < limits.chain_size_max:
        raise InvalidInput(f"checkpoint meta: expected the number of an entry, found {str(index)[:40]}")
    if not isinstance(path, list) or len(cast("list[object]", path)) > _path_max:
        raise InvalidInput(f"checkpoint meta: expected a path of at most {_path_max} hashes")
    raw = canonical.encode(given["entry"])
    parse_entry(raw)
    hashes = [Digest(bytes.fromhex(parse_hex64(each, "path"))) for each in cast("Sequence[object]", path)]
    return Placed(index, raw, tuple(hashes))


def _placed(meta: Log, number: int, size: int) -> Placed:
    return Placed(number, next(iter(meta.entries(number, number + 1))), tuple(inclusion_path(meta.node, number, size)))


def _is_rotation(raw: bytes) -> bool:
    return _rotation in raw and isinstance(parse_entry(raw).body, RotationBody)
