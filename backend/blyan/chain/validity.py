"""May this entry follow this state? Pure: the same entry and state give the same answer everywhere.

Deny by default: only the genesis author may write. Signatures are checked beside this (`Entry.verify_signature`), so
that they can be spread over processes.
"""

from __future__ import annotations

from blyan.chain.entries import Entry, GenesisBody, ModelBody
from blyan.chain.proofs import range_root
from blyan.chain.state import State
from blyan.primitives.errors import EntryRefused
from blyan.primitives.ids import EntryId


def check(entry: Entry, state: State) -> None:
    """Raise `EntryRefused` unless `entry` may be the next of its chain."""
    if isinstance(entry.body, GenesisBody):
        _refuse_unless(state.network is None, "genesis: expected none before it, found one")
        _refuse_unless(entry.body.protocol == 1, f"genesis protocol: expected 1, found {entry.body.protocol}")
    else:
        _refuse_unless(state.network is not None, f"{entry.type}: expected a genesis entry first, found none")
        _refuse_unless(entry.network == state.network, f"network: expected {state.network}, found {entry.network}")
        _refuse_unless(entry.author == state.sequencer, f"author: expected {state.sequencer}, found {entry.author}")
        _refuse_unless(bool(entry.parents), f"{entry.type}: expected at least one parent, found none")
    last = state.nonces.get((entry.chain, entry.author), -1)
    _refuse_unless(entry.nonce > last, f"nonce of {entry.author}: expected more than {last}, found {entry.nonce}")
    for parent in entry.parents:
        _refuse_unless(parent in state.entries, f"parent: expected a known entry, found {parent}")
    if isinstance(entry.body, ModelBody):
        _check_model(entry.body, entry.parents, state)


def _check_model(body: ModelBody, parents: tuple[EntryId, ...], state: State) -> None:
    newest = max((state.parameter_index[parent] for parent in parents if parent in state.parameter_index), default=None)
    if newest is None:
        raise EntryRefused("entry refused: model: expected a parameter entry among its parents, found none")
    size = newest + 1
    _refuse_unless(body.parameter_size == size, f"parameter size: expected {size}, found {body.parameter_size}")
    root = range_root(state.parameter_subtrees.node, 0, size).hex()
    _refuse_unless(body.parameter_root == root, f"parameter root: expected {root}, found {body.parameter_root}")
    current = state.current(body.name)
    if current is not None:
        _refuse_unless(
            version_key(body.version) > version_key(current.version),
            f"version of {body.name}: expected above {current.version}, found {body.version}",
        )


def version_key(version: str) -> tuple[int, ...]:
    """SemVer 2.0.0 precedence of a plain MAJOR.MINOR.PATCH version."""
    return tuple(int(number) for number in version.split("."))


def _refuse_unless(holds: bool, why: str) -> None:
    if not holds:
        raise EntryRefused(f"entry refused: {why}")
