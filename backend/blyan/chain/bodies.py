"""What each type of entry says: its body. Which fields a type has, and no more; `entries` reads and writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from blyan.primitives import canonical
from blyan.primitives.ids import PublicKey
from blyan.primitives.keys import Key, verify


@dataclass(frozen=True, slots=True)
class GenesisBody:
    """The first entry of the meta chain: names the one key that may write until governance says more."""

    protocol: int


@dataclass(frozen=True, slots=True)
class RotationBody:
    """From this entry on another key is the sequencer's; `proof` shows that whoever holds that key agrees."""

    key: PublicKey
    proof: str  # 128 hex digits: the new key's signature of kind `rotation`

    @classmethod
    def agreed(cls, network: str, old: PublicKey, new: Key) -> RotationBody:
        """The body that hands `network` over from `old` to the holder of `new`."""
        return cls(new.public, new.sign("rotation", _rotation_bytes(network, old, new.public)).hex())

    def verify_proof(self, network: str, old: PublicKey) -> None:
        """Raise `IntegrityFault` unless the new key signed this very rotation."""
        verify(self.key, "rotation", _rotation_bytes(network, old, self.key), bytes.fromhex(self.proof))


def _rotation_bytes(network: str, old: PublicKey, new: PublicKey) -> bytes:
    return canonical.encode({"network": network, "old": old, "new": new})


@dataclass(frozen=True, slots=True)
class ModelBody:
    """A model at one version; the payload is its manifest, the parameter chain to `parameter_size` holds its parts."""

    name: str
    version: str
    family: str
    parameter_size: int
    parameter_root: str
    license: str = ""  # as the manifest has it; left out where it says none, and in entries of before
    source: str = ""


@dataclass(frozen=True, slots=True)
class RetirementBody:
    """A model that is not offered any more: all its versions up to `version`, which is its newest."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class ParameterBody:
    """A value that holds from here on; the newest of this name and subject counts (`chain/parameters`)."""

    name: str
    subject: str  # what it is of: the name of a model
    value: str


@dataclass(frozen=True, slots=True)
class TrunkBody:
    """Weights of a model that are not a routed expert: `embed`, `layer.N` or `head`."""

    model: str
    part: str


@dataclass(frozen=True, slots=True)
class ExpertBody:
    """Weights of one routed expert."""

    model: str
    layer: int
    expert: int


@dataclass(frozen=True, slots=True)
class TokenizerBody:
    """A tokenizer and its chat template."""

    model: str


@dataclass(frozen=True, slots=True)
class DatasetBody:
    """A dataset: the payload holds its records."""

    name: str
    license: str  # SPDX id
    records: int


Body: TypeAlias = (
    GenesisBody
    | RotationBody
    | ModelBody
    | RetirementBody
    | ParameterBody
    | TrunkBody
    | ExpertBody
    | TokenizerBody
    | DatasetBody
)
