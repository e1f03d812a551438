"""Whether newer chains of somebody else follow from ours: their entries folded onto our own state.

A snapshot says which state its signer claims. Where we hold the entries before it, the claim is not believed but
computed, so that a key whose time is over, or a state that no entries lead to, never replaces what is known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from blyan.chain.audit import apply_entries, check_root
from blyan.chain.chains import Chains
from blyan.chain.entries import ChainName, chain_names
from blyan.chain.log import Log
from blyan.chain.replay import Leaves, load_state, nothing
from blyan.chain.state import State
from blyan.primitives.errors import IntegrityFault
from blyan.primitives.ids import Digest
from blyan.storage.blob_store import BlobStore


@dataclass(frozen=True, slots=True)
class _Joined:
    """One chain: ours as far as it goes, then theirs."""

    ours: Log
    theirs: Log

    def leaves(self, begin: int, end: int) -> Iterator[tuple[bytes, Digest]]:
        """Entries begin … end and their leaf hashes."""
        middle = min(max(begin, self.ours.checkpoint.size), end)
        if begin < middle:
            yield from self.ours.leaves(begin, middle)
        if middle < end:
            yield from self.theirs.leaves(middle, end)


def check_continues(ours: Chains, theirs: Chains, store: BlobStore) -> None:
    """Raise `IntegrityFault` unless our state, folded on, is what they promise, by the sequencer it then names.

    Both are of one network, share their beginning (`archive` compared roots), and theirs goes further.
    """
    logs: Mapping[ChainName, Leaves] = {name: _Joined(ours.logs[name], theirs.logs[name]) for name in chain_names}
    begin, root = ours.joint.state, theirs.joint.state
    state, sizes = (State(), nothing) if begin is None else (load_state(begin, store), begin.sizes)
    if root is None or any(root.sizes[name] < sizes[name] for name in chain_names):
        if begin is not None:
            raise IntegrityFault(
                f"chains of {ours.network}: expected a snapshot of at least {dict(begin.sizes)} entries at height "
                f"{theirs.joint.height}, found {dict(root.sizes) if root else 'none'}: two histories"
            )
    elif root != begin:
        apply_entries(logs, theirs.joint, state, sizes, root.sizes)
        check_root(state, root)
        sizes = root.sizes
    apply_entries(logs, theirs.joint, state, sizes, theirs.joint.sizes)
    if theirs.joint.author != state.sequencer:
        raise IntegrityFault(
            f"joint checkpoint of {ours.network}: expected one by {state.sequencer}, the sequencer that the chains "
            f"name, found one by {theirs.joint.author}"
        )
