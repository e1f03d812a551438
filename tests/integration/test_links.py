"""Symbolic links that somebody put in place of a folder: never written through, never emptied, named where refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from blyan.chain.entries import ExpertBody, PayloadReference
from blyan.node.indexing import rebuild
from blyan.primitives.errors import BlockCorrupt, IntegrityFault
from blyan.primitives.ids import PayloadId
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore
from blyan.storage.tile import index_of
from nodes import writing
from scenarios import KEY, chains_of, data_of, now, store_of

DATA = data_of("a", 300_000)
INDEX = index_of(DATA)
NAMES = {".tmp-precious", "my.tiles", "my.have", "inner"}


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of somebody else, with names as this program gives them."""
    folder = tmp_path / "victim"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "thesis").write_text("all of it")
    for name in (".tmp-precious", "my.tiles", "my.have"):
        (folder / name).write_text("precious")
    return folder


def untouched(victim: Path) -> bool:
    return {each.name for each in victim.iterdir()} == NAMES and (victim / "inner" / "thesis").exists()


def test_removing_a_tree_that_is_a_link_removes_the_link(tmp_path: Path, victim: Path) -> None:
    """What it points to stays, and so it does for a link within."""
    tree = tmp_path / "tree"
    tree.symlink_to(victim)
    durable.remove_tree(tree)
    assert not tree.is_symlink()
    tree.mkdir()
    (tree / "link").symlink_to(victim)
    durable.remove_tree(tree)
    assert not tree.exists()
    assert untouched(victim)


def test_a_blob_is_not_put_through_a_link(tmp_path: Path, victim: Path) -> None:
    """Whose name the error gives."""
    store = store_of(tmp_path)
    link = store.folder / INDEX.payload_id[:2]
    link.symlink_to(victim)
    with pytest.raises(BlockCorrupt, match=f"expected a folder, found a symbolic link at {link}"):
        store.put([DATA])
    assert untouched(victim)


@pytest.mark.parametrize("name", ["partial", "pins"])
def test_a_store_with_a_linked_folder_is_not_opened_to_write(tmp_path: Path, victim: Path, name: str) -> None:
    """Its sweep would take what is not its own."""
    link = store_of(tmp_path).folder / name
    link.symlink_to(victim)
    with pytest.raises(NotADirectoryError, match=f"expected a folder, found a symbolic link: '{link}'"):
        store_of(tmp_path)
    assert untouched(victim)


def test_nothing_comes_in_and_nothing_is_pinned_through_a_link(tmp_path: Path, victim: Path) -> None:
    """One that was put there after the store was opened."""
    store = store_of(tmp_path)
    payload = store.put([DATA]).payload
    for name in ("partial", "pins"):
        (store.folder / name).symlink_to(victim)
    with pytest.raises(NotADirectoryError, match="partial"):
        store.begin(payload, INDEX.length, INDEX.encode())
    with pytest.raises(NotADirectoryError, match="pins"):
        store.pin(payload, "kept")
    with pytest.raises(NotADirectoryError, match="pins"):
        store.unpin(payload)
    with pytest.raises(IntegrityFault, match="pins"):
        store.sweep(())
    assert untouched(victim)
    assert list(store.payloads()) == [payload]


def test_a_linked_index_is_made_anew_in_its_own_place(tmp_path: Path, victim: Path) -> None:
    """`blyan db rebuild`."""
    chains = chains_of(tmp_path)
    chains.start(KEY, now)
    (tmp_path / "index").symlink_to(victim)
    rebuild(tmp_path, chains).close()
    assert untouched(victim)
    assert not (tmp_path / "index").is_symlink()


def test_a_commit_removes_a_linked_partial_tile_and_not_what_it_points_to(tmp_path: Path, victim: Path) -> None:
    """When the tile is full."""
    chains = chains_of(tmp_path)
    genesis = chains.start(KEY, now)
    block = PayloadReference(PayloadId("cd" * 32), 4096, "application/vnd.blyan.tensorblock")
    for number in range(256):
        chains.append(ExpertBody("m", 0, number), (genesis,), block, KEY, now)
    partial = tmp_path / "chain/parameter/tile/entries/000.p"
    partial.parent.mkdir(parents=True)
    partial.symlink_to(victim)
    chains.publish(KEY)
    assert untouched(victim)
    assert not partial.is_symlink()


@pytest.mark.parametrize("exists", [True, False])
def test_a_linked_import_folder_is_removed_as_a_leftover(tmp_path: Path, victim: Path, exists: bool) -> None:
    """The link, not what is behind it; one that leads nowhere too."""
    chains = chains_of(tmp_path)
    chains.start(KEY, now)
    link = tmp_path / ".import-chain"
    link.symlink_to(victim if exists else tmp_path / "nowhere")
    assert ".import-chain" in chains.recover(KEY)[0]
    assert untouched(victim)
    assert not link.is_symlink()


@pytest.mark.parametrize("name", ["meta", "parameter/tile"])
def test_a_log_in_a_linked_folder_is_neither_cleared_up_nor_written(tmp_path: Path, victim: Path, name: str) -> None:
    """Files that no promise names may be somebody else's there."""
    chains = chains_of(tmp_path)
    chains.start(KEY, now)
    link = tmp_path / "chain" / name
    moved = tmp_path / "moved"
    if link.exists():
        link.rename(moved)
    else:
        link.parent.mkdir(exist_ok=True)
        moved.mkdir()
    (moved / ".tmp-precious").write_text("precious")
    link.symlink_to(moved)
    again = chains_of(tmp_path)
    with pytest.raises(NotADirectoryError, match=str(link)):
        again.recover(KEY)
    assert (moved / ".tmp-precious").exists()


@pytest.mark.parametrize("name", ["keys", "chain", "blobs", "import"])
def test_a_linked_folder_of_a_data_directory_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    """Before anything is written; the directory itself may be a link."""
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    with writing(link) as ground:
        ground.store.put([DATA])
    assert list(BlobStore(real / "blobs").payloads()) == [INDEX.payload_id]
    moved = tmp_path / "moved"
    if (real / name).exists():
        (real / name).rename(moved)
    else:
        moved.mkdir()
    (moved / ".tmp-precious").write_text("precious")
    (real / name).symlink_to(moved)
    with pytest.raises(NotADirectoryError, match=f"found a symbolic link: '{link / name}'"), writing(link):
        pytest.fail("it was opened")
    assert (moved / ".tmp-precious").exists()
    assert not (real / "WRITING").exists()
