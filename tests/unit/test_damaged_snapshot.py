"""A damaged snapshot of the state: derived where every entry is held, needed where not."""

from pathlib import Path

import pytest

from blyan.chain.archive import export_archive, import_archive
from blyan.chain.audit import restore_snapshot
from blyan.chain.chains import Chains
from blyan.chain.entries import ExpertBody, PayloadReference
from blyan.chain.snapshot import encode
from blyan.primitives.errors import IntegrityFault
from blyan.primitives.ids import PayloadId
from blyan.storage.blob_store import BlobStore
from scenarios import KEY, chains_of, now

BLOCK = PayloadReference(PayloadId("cd" * 32), 4096, "application/vnd.blyan.tensorblock")


def grown(folder: Path, count: int) -> Chains:
    chains = chains_of(folder)
    genesis = chains.start(KEY, now)
    for number in range(count):
        chains.append(ExpertBody("m", 0, number), (genesis,), BLOCK, KEY, now)
    chains.publish(KEY)
    return chains


def damaged(folder: Path, payload: str) -> None:
    """One bit of a stored blob."""
    path = folder / "blobs" / payload[:2] / payload
    path.chmod(0o644)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_a_damaged_snapshot_is_named_and_not_used(tmp_path: Path) -> None:
    """Every entry is held, so the state is folded from the first; `verify` says it, and it is made again."""
    chains = grown(tmp_path, 5)
    payload = chains.snapshot(KEY).payload
    damaged(tmp_path, payload)
    again = chains_of(tmp_path)
    assert encode(again.state) == encode(chains.state)
    assert again.snapshot_damage is not None
    assert payload in again.snapshot_damage.message
    with pytest.raises(IntegrityFault, match=payload):
        again.verify()
    restore_snapshot(again.folder, again.store)
    again.verify()
    assert chains_of(tmp_path).snapshot_damage is None


def test_without_the_entries_before_it_a_damaged_snapshot_is_refused(tmp_path: Path) -> None:
    """Nothing here could be folded instead."""
    payload = grown(tmp_path, 300).snapshot(KEY).payload
    export_archive(chains_of(tmp_path), tmp_path / "archive", from_snapshot=True)
    joined = tmp_path / "joined"
    import_archive(joined / "chain", BlobStore(joined / "blobs", writable=True), tmp_path / "archive")
    assert any(chains_of(joined).first.values())
    damaged(joined, payload)
    with pytest.raises(IntegrityFault, match=payload) as refused:
        chains_of(joined)
    assert "chain import" in (refused.value.hint or "")
