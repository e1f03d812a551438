"""What a peer's chains say of a model, verified: the joint checkpoint's signature by the configured key, the entry's
inclusion in the meta chain that it promises.

Which entry is the newest the peer alone knows: it can hide one, and not make one up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from blyan.chain.entries import Entry, ModelBody, PayloadReference, RetirementBody, parse_entry
from blyan.chain.joint import JointCheckpoint, parse_joint
from blyan.chain.merkle import leaf_hash
from blyan.chain.proofs import check_inclusion
from blyan.network.client import PeerClient
from blyan.primitives import canonical, limits
from blyan.primitives.errors import IntegrityFault, InvalidInput, NotFound

_proof_bytes_max: Final = 4 * limits.entry_bytes_max
_found_bytes_max: Final = limits.peer_body_bytes_max


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model as the sequencer of another network published it."""

    joint: JointCheckpoint
    body: ModelBody
    manifest: PayloadReference


async def remote_model(client: PeerClient, name: str) -> RemoteModel:
    """The newest entry about a model that the peer shows, verified; `NotFound` if it has none, or retired it.

    `PeerFault` where the peer's answer is none, or is not what the configured key signed.
    """
    joint = await _joint(client)
    path = "/chain/meta/find"
    count = str(limits.found_entries_max)
    value = _object(client, path, await client.get(path, _found_bytes_max, model=name, limit=count))
    listed = value.get("entries")
    found = [each for each in cast("list[Any]", listed if isinstance(listed, list) else []) if _is_entry(each)]
    if not found:
        raise NotFound(f"model {name}: expected it at {client.peer.url}, found no such model")
    newest = max(found, key=lambda each: each["index"])
    entry = await _included(client, joint, newest["index"])
    match entry.body:
        case RetirementBody():
            raise NotFound(f"model {name}: expected it at {client.peer.url}, found that it was retired there")
        case ModelBody() as body if body.name == name and entry.payload is not None:
            return RemoteModel(joint, body, entry.payload)
        case _:
            raise client.fault(path, f"expected an entry about model {name}", f"one of type {entry.type}")


async def _joint(client: PeerClient) -> JointCheckpoint:
    path = "/chain/joint"
    raw = await client.get(path, limits.joint_bytes_max)
    try:
        joint = parse_joint(raw, Path(path))
    except IntegrityFault as reason:
        raise client.fault(path, "expected a signed joint checkpoint", reason.message) from None
    if joint.author != client.peer.sequencer:
        raise client.fault(path, f"expected it signed by {client.peer.sequencer}", f"signed by {joint.author}")
    return joint


async def _included(client: PeerClient, joint: JointCheckpoint, index: int) -> Entry:
    """The entry at a number of the meta chain, proved to stand there."""
    path, head = "/chain/meta/proof", joint.heads["meta"]
    raw = await client.get(path, _proof_bytes_max, index=str(index), size=str(head.size))
    value = _object(client, path, raw)
    try:
        entry_raw = canonical.encode(value.get("entry"))
        beside = [bytes.fromhex(each) for each in value.get("path", [])]
        check_inclusion(leaf_hash(entry_raw), index, head.size, beside, head.root)
        entry = parse_entry(entry_raw)
        entry.verify_signature()
    except (IntegrityFault, InvalidInput, ValueError, TypeError, AttributeError) as reason:
        raise client.fault(
            path, f"expected entry {index} of the chain that the joint checkpoint promises", str(reason)
        ) from None
    return entry


def _is_entry(value: object) -> bool:
    given = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    index = given.get("index")
    return given.get("chain") == "meta" and type(index) is int and index >= 0


def _object(client: PeerClient, path: str, raw: bytes) -> Mapping[str, Any]:
    try:
        value: object = json.loads(raw)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise client.fault(path, "expected a JSON object", repr(raw[:80]))
    return cast("dict[str, Any]", value)
