"""May this entry follow this state? Pure: the same entry and state give the same answer everywhere.

Deny by default: only the sequencer may write. An entry's own signature is checked beside this
(`Entry.verify_signature`), so that signatures can be spread over processes; the proof inside a rotation is checked
here.
"""

from __future__ import annotations

from blyan.chain.entries import Entry, GenesisBody, ModelBody, ParameterBody, RetirementBody, RotationBody
from blyan.chain.parameters import parse_price, price_name
from blyan.chain.proofs import range_root
from blyan.chain.state import State
from blyan.primitives.errors import EntryRefused, IntegrityFault, InvalidInput
from blyan.primitives.ids import EntryId


def check(entry: Entry, state: State) -> None:
    """Raise `EntryRefused` unless `entry` may be the next of its chain."""
    if isinstance(entry.body, GenesisBody):
        _refuse_unless(state.network is None, "genesis: expected none before it, found one")
        _refuse_unless(entry.body.protocol == 1, f"genesis protocol: expected 1, found {entry.body.protocol}")
    else:
        if state.network is None:
            raise _refused(f"{entry.type}: expected a genesis entry first, found none")
        if entry.network != state.network:
            raise _refused(f"network: expected {state.network}, found {entry.network}")
        if entry.author != state.sequencer:
            raise _refused(f"author: expected {state.sequencer}, found {entry.author}")
        if not entry.parents:
            raise _refused(f"{entry.type}: expected at least one parent, found none")
    last = state.nonces.get((entry.chain, entry.author), -1)
    if entry.nonce <= last:
        raise _refused(f"nonce of {entry.author}: expected more than {last}, found {entry.nonce}")
    for parent in entry.parents:
        if not state.knows(parent):
            raise _refused(f"parent: expected a known entry, found {parent}")
    if isinstance(entry.body, ModelBody):
        _check_model(entry.body, entry.parents, state)
    elif isinstance(entry.body, RetirementBody):
        _check_retirement(entry.body, state)
    elif isinstance(entry.body, ParameterBody):
        _check_parameter(entry.body, state)
    elif isinstance(entry.body, RotationBody):
        _check_rotation(entry, entry.body, state)


def _check_model(body: ModelBody, parents: tuple[EntryId, ...], state: State) -> None:
    positions = [position for parent in parents if (position := state.position(parent)) is not None]
    last = max((number for chain, number in positions if chain == "parameter"), default=None)
    if last is None:
        raise _refused("model: expected a parameter entry among its parents, found none")
    size = last + 1
    _refuse_unless(body.parameter_size == size, f"parameter size: expected {size}, found {body.parameter_size}")
    root = range_root(state.parameter_subtrees.node, 0, size).hex()
    _refuse_unless(body.parameter_root == root, f"parameter root: expected {root}, found {body.parameter_root}")
    newest = state.newest_version(body.name)
    if newest is not None:
        _refuse_unless(
            version_key(body.version) > version_key(newest),
            f"version of {body.name}: expected above {newest}, found {body.version}",
        )


def _check_retirement(body: RetirementBody, state: State) -> None:
    """It names the newest version, so that one signed for an older one never takes a newer one away."""
    current = state.current(body.name)
    if current is None:
        raise _refused(f"retirement: expected a model that is offered, found none named {body.name}")
    _refuse_unless(
        body.version == current.version,
        f"retirement of {body.name}: expected version {current.version}, found {body.version}",
    )


def _check_parameter(body: ParameterBody, state: State) -> None:
    """Only names that have a meaning, and values that their readers understand."""
    _refuse_unless(body.name == price_name, f"parameter: expected {price_name}, found {body.name}")
    _refuse_unless(
        state.current(body.subject) is not None,
        f"price: expected it of a model that is offered, found none named {body.subject}",
    )
    try:
        parse_price(body.value)
    except InvalidInput as reason:
        raise _refused(reason.message) from None


def _check_rotation(entry: Entry, body: RotationBody, state: State) -> None:
    """The new key agrees, was never the sequencer's, and everything written so far is said to come before it.

    Without the last, entries of the old key in another chain could be folded before or after the rotation.
    """
    used = {*state.former, entry.author}
    _refuse_unless(body.key not in used, f"rotation key: expected one that was never used here, found {body.key}")
    for chain, size in state.sizes.items():
        tips = {state.position(parent) for parent in entry.parents}
        _refuse_unless(
            size == 0 or (chain, size - 1) in tips, f"rotation: expected the newest {chain} entry among its parents"
        )
    try:
        body.verify_proof(entry.network, entry.author)
    except IntegrityFault as reason:
        raise _refused(f"rotation: {reason.message}") from None


def version_key(version: str) -> tuple[int, ...]:
    """SemVer 2.0.0 precedence of a plain MAJOR.MINOR.PATCH version."""
    return tuple(int(number) for number in version.split("."))


def _refused(why: str) -> EntryRefused:
    return EntryRefused(f"entry refused: {why}")


def _refuse_unless(holds: bool, why: str) -> None:
    if not holds:
        raise _refused(why)
