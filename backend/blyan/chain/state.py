"""State: the fold of all entries, in an order in which parents come first.

Derived: opening the chains computes it, from a snapshot (`chain/snapshot`) and the entries since, or from all of them.
`validity` reads it, `apply` is the only writer. What grows with the chains (ids, positions, names of blocks) lies in
`Lookup`s, so that a state of millions of entries opens as fast as its snapshot is hashed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from blyan.chain.entries import (
    ChainName,
    DatasetBody,
    Entry,
    ExpertBody,
    GenesisBody,
    ModelBody,
    ParameterBody,
    RetirementBody,
    RotationBody,
    TokenizerBody,
    TrunkBody,
    chain_names,
)
from blyan.chain.merkle import Subtrees
from blyan.chain.parameters import Parameter
from blyan.chain.tables import Lookup
from blyan.primitives.ids import Digest, EntryId, PayloadId, PublicKey

position_bytes: Final = 8
payload_bytes: Final = 32
_chain_shift: Final = 56  # a position: which chain, then the entry's number in it


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of one model, as the meta chain has it."""

    name: str
    version: str
    family: str
    manifest: PayloadId
    entry: EntryId
    parameter_size: int  # entries of the parameter chain that it builds on
    parameter_root: str
    time: int
    license: str = ""  # as the entry says it, if it does
    source: str = ""


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """One published dataset, as the dataset chain has it."""

    name: str
    license: str
    records: int
    payload: PayloadId
    entry: EntryId
    time: int


@dataclass(slots=True)
class State:
    """What the entries so far amount to."""

    network: str | None = None
    sequencer: PublicKey | None = None  # the one key that may write
    former: list[PublicKey] = field(default_factory=list[PublicKey])  # sequencers before it, in order
    sizes: dict[ChainName, int] = field(default_factory=lambda: dict.fromkeys(chain_names, 0))
    nonces: dict[tuple[ChainName, PublicKey], int] = field(default_factory=dict[tuple[ChainName, PublicKey], int])
    # those that are offered: a retirement takes all versions of a name away
    models: dict[str, list[ModelVersion]] = field(default_factory=dict[str, list[ModelVersion]])
    retired: dict[str, str] = field(default_factory=dict[str, str])  # model → its newest version that was withdrawn
    # (name, subject) → what was set last
    parameters: dict[tuple[str, str], Parameter] = field(default_factory=dict[tuple[str, str], Parameter])
    datasets: dict[str, list[DatasetVersion]] = field(default_factory=dict[str, list[DatasetVersion]])
    # what a model entry says of the parameter chain can be true of any earlier size: chains are folded by parents only
    parameter_subtrees: Subtrees = field(default_factory=Subtrees)
    positions: Lookup = field(default_factory=lambda: Lookup(position_bytes))  # entry id → chain and number
    blocks: Lookup = field(default_factory=lambda: Lookup(position_bytes))  # (model, part, block) → first named by
    newest: Lookup = field(default_factory=lambda: Lookup(payload_bytes))  # (model, part) → its newest block

    def apply(self, entry: Entry, identity: EntryId) -> None:
        """Take one entry that `validity.check` let pass."""
        chain = entry.chain
        number, leaf = self.sizes[chain], bytes.fromhex(identity)
        self.sizes[chain] = number + 1
        self.positions.put(leaf, (chain_names.index(chain) << _chain_shift | number).to_bytes(position_bytes, "little"))
        self.nonces[chain, entry.author] = entry.nonce
        if chain == "parameter":
            self.parameter_subtrees.append(Digest(leaf))  # an entry's id is its leaf hash
        match entry.body:
            case GenesisBody():
                self.network, self.sequencer = entry.network, entry.author
            case RotationBody() as body:
                self.former.append(entry.author)
                self.sequencer = body.key
            case ModelBody() as body:
                assert entry.payload is not None, "parse_entry requires a model's payload"
                said = (body.name, body.version, body.family, entry.payload.payload, identity)
                version = ModelVersion(
                    *said, body.parameter_size, body.parameter_root, entry.time, body.license, body.source
                )
                self.models.setdefault(body.name, []).append(version)
            case RetirementBody() as body:
                del self.models[body.name]
                self.retired[body.name] = body.version
            case ParameterBody() as body:
                self.parameters[body.name, body.subject] = Parameter(
                    body.name, body.subject, body.value, identity, entry.time
                )
            case DatasetBody() as body:
                assert entry.payload is not None, "parse_entry requires a dataset's payload"
                published = DatasetVersion(
                    body.name, body.license, body.records, entry.payload.payload, identity, entry.time
                )
                self.datasets.setdefault(body.name, []).append(published)
            case TrunkBody() as body:
                self._name_part(body.model, body.part, number, entry)
            case ExpertBody() as body:
                self._name_part(body.model, f"layer.{body.layer}.expert.{body.expert}", number, entry)
            case TokenizerBody() as body:
                self._name_part(body.model, "tokenizer", number, entry)

    def _name_part(self, model: str, part: str, number: int, entry: Entry) -> None:
        assert entry.payload is not None, "parse_entry requires a weight's payload"
        payload = bytes.fromhex(entry.payload.payload)
        self.blocks.put_first(_block_key(model, part, payload), number.to_bytes(position_bytes, "little"))
        self.newest.put(_part_key(model, part), payload)

    def knows(self, identity: EntryId) -> bool:
        """Whether an entry of that id came."""
        return bytes.fromhex(identity) in self.positions

    def position(self, identity: EntryId) -> tuple[ChainName, int] | None:
        """Chain and number of an entry, None if it has not come."""
        found = self.positions.get(bytes.fromhex(identity))
        if found is None:
            return None
        value = int.from_bytes(found, "little")
        return chain_names[value >> _chain_shift], value & (1 << _chain_shift) - 1

    def first_named(self, model: str, part: str, payload: PayloadId) -> int | None:
        """Number of the parameter entry that first said that this block is that part of the model."""
        found = self.blocks.get(_block_key(model, part, bytes.fromhex(payload)))
        return None if found is None else int.from_bytes(found, "little")

    def newest_block(self, model: str, part: str) -> PayloadId | None:
        """The block that the newest entry about this part of the model names."""
        found = self.newest.get(_part_key(model, part))
        return None if found is None else PayloadId(found.hex())

    def current(self, name: str) -> ModelVersion | None:
        """The newest version of a model."""
        versions = self.models.get(name)
        return versions[-1] if versions else None

    def withdrawn(self, name: str) -> bool:
        """Whether there was a model of this name, which was taken away."""
        return self.current(name) is None and name in self.retired

    def newest_version(self, name: str) -> str | None:
        """The newest version that a model ever had, also where it was withdrawn: the next one is above it."""
        current = self.current(name)
        return self.retired.get(name) if current is None else current.version


def _part_key(model: str, part: str) -> bytes:
    return sha256(f"{model}\0{part}".encode()).digest()


def _block_key(model: str, part: str, payload: bytes) -> bytes:
    return sha256(f"{model}\0{part}\0".encode() + payload).digest()
