"""From data directories of before the joint checkpoint (schema 0): three notes are made one promise.

One step, so that a crash leaves the old folder or the new one: everything is computed anew, then `joint` is written.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from blyan.chain.audit import audit
from blyan.chain.joint import JointCheckpoint
from blyan.chain.promise import joint_name, open_logs, promise_of_notes
from blyan.chain.replay import fold, network_of
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.keys import Key
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore


def join_notes(folder: Path, store: BlobStore, key: Key, now: UnixSeconds) -> JointCheckpoint:
    """Write the joint checkpoint of three chains by `key` that have notes only; `IntegrityFault` if they are damaged.

    The caller knows that the folder is of schema 0: in any other, a missing joint checkpoint is damage.
    """
    heads = promise_of_notes(folder, key.public)
    network = network_of(key.public)
    joint = JointCheckpoint(network, 0, 1, heads, None, now(), key.public)
    logs = open_logs(folder, joint)
    audit(logs, joint, store, processes=0)
    newest = fold(logs, joint, store).time
    joint = replace(joint, time=max(joint.time, newest)).signed(key)
    durable.write_file(folder / joint_name, joint.encode())
    return joint
