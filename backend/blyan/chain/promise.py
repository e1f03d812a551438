"""What a chain folder promises, read from its files and held against each other: `joint`, three notes, `held`.

The joint checkpoint is the promise. A note says of one chain what the joint checkpoint says of it, in the form that
transparency-log witnesses read; after a crash it may say what the joint checkpoint said before. Anything else is
damage: a note that says more means that an older joint checkpoint was put back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from blyan.chain.checkpoint import Checkpoint, origin_of, parse_checkpoint
from blyan.chain.entries import ChainName, chain_names
from blyan.chain.joint import Head, JointCheckpoint, Sizes, parse_joint
from blyan.chain.log import Log
from blyan.chain.replay import network_of
from blyan.primitives import canonical, limits
from blyan.primitives.errors import IntegrityFault, MalformedEncoding, Unavailable
from blyan.primitives.ids import PublicKey
from blyan.storage import durable

joint_name: Final = "joint"
held_name: Final = "held"
_reads_max: Final = 100  # while a writer beside us makes new promises


@dataclass(frozen=True, slots=True)
class Promise:
    """The joint checkpoint of a folder (none if it is new) and the notes that were there at the same time."""

    joint: JointCheckpoint | None
    notes: Mapping[ChainName, bytes | None]


def read_promise(folder: Path) -> Promise:
    """Read `joint` and the notes as of one moment; `IntegrityFault` names what is damaged or lost."""
    path = folder / joint_name
    for _ in range(_reads_max):
        raw = _read(path, limits.joint_bytes_max)
        begun = raw is None and any((folder / name / "tile").exists() for name in chain_names)
        notes: dict[ChainName, bytes | None] = {
            name: _read(folder / name / "checkpoint", limits.checkpoint_bytes_max) for name in chain_names
        }
        if _read(path, limits.joint_bytes_max) != raw:
            continue
        if raw is not None:
            return Promise(parse_joint(raw, path), notes)
        if begun or any(note is not None for note in notes.values()):
            raise _lost("a joint checkpoint", path)
        return Promise(None, notes)
    raise Unavailable(f"{path}: expected one promise to stay while it was read, found a new one {_reads_max} times")


def read_held(folder: Path) -> dict[ChainName, int]:
    """The first entry that is held of each chain: 0, or what `held` says of a folder that began at a snapshot."""
    path = folder / held_name
    raw = _read(path, limits.held_bytes_max)
    if raw is None:
        return dict.fromkeys(chain_names, 0)
    try:
        value = cast("dict[str, Any]", canonical.decode_object(raw, bytes_max=limits.held_bytes_max))
    except MalformedEncoding as reason:
        raise _differs(path, "the first entries held", reason.message) from None
    first = cast("dict[Any, Any]", value.get("first") if isinstance(value.get("first"), dict) else {})
    held: dict[ChainName, int] = {name: first.get(name, -1) for name in chain_names}
    whole = all(type(size) is int and size >= 0 and size % limits.log_tile_width == 0 for size in held.values())
    if not whole or held_bytes(held) != raw:
        raise _differs(path, "the first entries held, with their checksum", "something else")
    return held


def open_logs(
    folder: Path, joint: JointCheckpoint, notes: Mapping[ChainName, bytes | None] | None = None
) -> dict[ChainName, Log]:
    """The three logs as far as the joint checkpoint promises them; `IntegrityFault` names what does not agree."""
    first = read_held(folder)
    logs: dict[ChainName, Log] = {}
    for name in chain_names:
        head = joint.heads[name]
        if first[name] > head.size:
            raise _differs(folder / held_name, f"at most {head.size} for chain {name}", str(first[name]))
        promised = Checkpoint(origin_of(joint.network, name), head.size, head.root)
        logs[name] = Log(folder / name, promised, first[name], notes[name] if notes else None)
    return logs


def held_bytes(first: Sizes) -> bytes:
    """The file `held`; the checksum is there because no signature covers it."""
    value: dict[str, canonical.Canonical] = {"v": 1, "first": {str(name): first[name] for name in chain_names}}
    return canonical.encode({**value, "check": hashlib.sha256(canonical.encode(value)).hexdigest()})


def lags(log: Log, note: bytes | None, joint: JointCheckpoint, former: Sequence[PublicKey]) -> bool:
    """Whether a note says less than the joint checkpoint, as a crash leaves it; `IntegrityFault` if it says otherwise.

    `former` are the sequencers before the present one: a note that lags behind a rotation is signed by one of them.
    """
    path = log.folder / "checkpoint"
    if note is None:
        if joint.height == 0:
            return True
        raise _lost(f"a checkpoint of {log.origin}", path)
    found, signer = _parse_note(note, log.origin, [joint.author, *reversed(former)], path)
    if found.size > log.checkpoint.size:
        raise _differs(
            path,
            f"at most the {log.checkpoint.size} entries that the joint checkpoint promises",
            f"a signed promise of {found.size}",
            "an older joint checkpoint was put back: restore the newest backup; going on would fork the history",
        )
    root = log.checkpoint.root if found.size == log.checkpoint.size else log.edge_at(found.size).root()
    if root != found.root:
        raise _differs(path, f"root {root.hex()} over {found.size} entries", found.root.hex())
    return signer != joint.author or found.size < log.checkpoint.size


def promise_of_notes(folder: Path, author: PublicKey) -> dict[ChainName, Head]:
    """What three notes by `author` promise together, for a folder of the time before joint checkpoints."""
    heads: dict[ChainName, Head] = {}
    for name in chain_names:
        path = folder / name / "checkpoint"
        note = _read(path, limits.checkpoint_bytes_max)
        if note is None:
            raise _lost(f"a checkpoint of chain {name}", path)
        found, _ = _parse_note(note, origin_of(network_of(author), name), [author], path)
        heads[name] = Head(found.size, found.root)
    return heads


def _parse_note(note: bytes, origin: str, signers: Collection[PublicKey], path: Path) -> tuple[Checkpoint, PublicKey]:
    faults: list[str] = []
    for signer in signers:
        try:
            return parse_checkpoint(note, origin, signer), signer
        except IntegrityFault as reason:
            faults.append(reason.message)
    raise _differs(path, "a note by the sequencer", faults[0])


def _read(path: Path, bytes_max: int) -> bytes | None:
    try:
        return durable.read_limited(path, bytes_max)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as reason:
        raise _differs(path, f"to read {path}", str(reason)) from None


def _lost(what: str, path: Path) -> IntegrityFault:
    return IntegrityFault(
        f"chain folder: expected {what} in {path}, found none",
        detail={"file": str(path)},
        hint="restore the folder from a backup; a new history must not begin over the old one",
    )


def _differs(path: Path, expected: str, found: str, hint: str | None = None) -> IntegrityFault:
    return IntegrityFault(f"{path}: expected {expected}, found {found}", detail={"file": str(path)}, hint=hint)
