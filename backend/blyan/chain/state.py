"""State: the fold of all entries, in an order in which parents come first.

Derived, never stored: opening the chains computes it again. `validity` reads it, `apply` is the only writer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from blyan.chain.entries import ChainName, Entry, ExpertBody, GenesisBody, ModelBody, TokenizerBody, TrunkBody
from blyan.chain.merkle import Subtrees
from blyan.primitives.ids import Digest, EntryId, PayloadId, PublicKey


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


@dataclass(slots=True)
class State:
    """What the entries so far amount to."""

    network: str | None = None
    sequencer: PublicKey | None = None  # the genesis author; the one key that may write
    entries: set[EntryId] = field(default_factory=set[EntryId])
    nonces: dict[tuple[ChainName, PublicKey], int] = field(default_factory=dict[tuple[ChainName, PublicKey], int])
    # what a model entry says of the parameter chain can be true of any earlier size: chains are folded by parents only
    parameter_index: dict[EntryId, int] = field(default_factory=dict[EntryId, int])
    parameter_subtrees: Subtrees = field(default_factory=Subtrees)
    models: dict[str, list[ModelVersion]] = field(default_factory=dict[str, list[ModelVersion]])
    # (model, part, block) → number of the parameter entry that first named it
    named: dict[tuple[str, str, PayloadId], int] = field(default_factory=dict[tuple[str, str, PayloadId], int])
    # (model, part) → its newest block
    parts: dict[tuple[str, str], PayloadId] = field(default_factory=dict[tuple[str, str], PayloadId])

    def apply(self, entry: Entry, identity: EntryId) -> None:
        """Take one entry that `validity.check` let pass."""
        self.entries.add(identity)
        self.nonces[entry.chain, entry.author] = entry.nonce
        if entry.chain == "parameter":
            self.parameter_index[identity] = len(self.parameter_index)
            self.parameter_subtrees.append(Digest(bytes.fromhex(identity)))  # an entry's id is its leaf hash
        match entry.body:
            case GenesisBody():
                self.network, self.sequencer = entry.network, entry.author
            case ModelBody() as body:
                assert entry.payload is not None, "parse_entry requires a model's payload"
                self.models.setdefault(body.name, []).append(
                    ModelVersion(
                        body.name,
                        body.version,
                        body.family,
                        entry.payload.payload,
                        identity,
                        body.parameter_size,
                        body.parameter_root,
                        entry.time,
                    )
                )
            case TrunkBody() as body:
                self._name_part(body.model, body.part, entry)
            case ExpertBody() as body:
                self._name_part(body.model, f"layer.{body.layer}.expert.{body.expert}", entry)
            case TokenizerBody() as body:
                self._name_part(body.model, "tokenizer", entry)

    def _name_part(self, model: str, part: str, entry: Entry) -> None:
        assert entry.payload is not None, "parse_entry requires a weight's payload"
        self.parts[model, part] = entry.payload.payload
        self.named.setdefault((model, part, entry.payload.payload), len(self.parameter_index) - 1)

    def current(self, name: str) -> ModelVersion | None:
        """The newest version of a model."""
        versions = self.models.get(name)
        return versions[-1] if versions else None
