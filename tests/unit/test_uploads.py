"""Uploaded files: named by what they are, bounded, and gone when nobody needs them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from blyan.node.uploads import Uploads
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, NotFound, QueueFull, StorageFull, UnsupportedModel
from blyan.storage.blob_store import BlobStore
from blyan.storage.space import SpaceLimits

NOW = 2_000_000_000


def uploads(folder: Path, **space: int) -> Uploads:
    return Uploads(folder, BlobStore(folder / "blobs", writable=True, limit=SpaceLimits(**space)), lambda: NOW)


def put(into: Uploads, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    with into.begin(digest) as upload:
        upload.write(data)
        upload.finish()
    os.utime(into.folder / digest, (NOW, NOW))
    return digest


def names(into: Uploads) -> list[str]:
    return sorted(path.name for path in into.folder.iterdir())


def test_a_file_is_there_once_its_digest_is_the_one_that_was_said(tmp_path: Path) -> None:
    """Before that, and where it is another, nothing is."""
    made = uploads(tmp_path)
    digest = hashlib.sha256(b"right").hexdigest()
    with made.begin(digest) as upload:
        upload.write(b"wrong")
        assert not made.has(digest)
        with pytest.raises(InvalidInput, match=f"expected sha256:{digest}, computed"):
            upload.finish()
    with pytest.raises(RuntimeError), made.begin(digest) as upload:
        raise RuntimeError
    assert names(made) == []
    assert made.has(put(made, b"right"))


def test_two_uploads_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Whoever ends first names it; the other names it again."""
    made = uploads(tmp_path)
    digest = hashlib.sha256(b"ab").hexdigest()
    with made.begin(digest) as one, made.begin(digest) as other:
        one.write(b"a")
        other.write(b"ab")
        other.finish()
        one.write(b"b")
        one.finish()
    assert (made.folder / digest).read_bytes() == b"ab"
    assert names(made) == [digest]


def test_their_number_and_their_bytes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that run, those that wait, and all together with the blobs."""
    made = uploads(tmp_path, bytes_max=1_000)
    put(made, b"x" * 600)
    digest = "ab" * 32
    with made.begin(digest) as upload, pytest.raises(StorageFull, match=r"storage\.bytes_max"):
        upload.write(b"y" * 600)
    monkeypatch.setattr(limits, "uploads_max", 1)
    with pytest.raises(QueueFull, match="wait to be used"):
        made.begin(digest)
    monkeypatch.setattr(limits, "uploads_running_max", 0)
    with pytest.raises(QueueFull, match="at once"):
        made.begin(digest)


def test_what_is_a_day_old_goes_and_at_a_start_what_was_never_finished(tmp_path: Path) -> None:
    """A folder that an import was killed in, too."""
    made = uploads(tmp_path)
    old, new = put(made, b"old"), put(made, b"new")
    folder = made.checkpoint_folder("m", {"config.json": old})
    torn = made.folder / f".tmp-1-{new}"
    torn.write_bytes(b"")
    for path in (made.folder / old, folder):
        os.utime(path, (NOW - limits.upload_age_seconds_max - 1,) * 2)
    os.utime(torn, (NOW, NOW))
    made.sweep()
    assert names(made) == sorted([torn.name, new, "made"])
    made.sweep(starting=True)
    assert names(made) == sorted([new, "made"])
    assert list((made.folder / "made").iterdir()) == []


def test_a_checkpoint_folder_holds_these_files_and_is_the_same_again(tmp_path: Path) -> None:
    """Not even the change times differ, by which an import knows what it had begun."""
    made = uploads(tmp_path)
    files = {"config.json": put(made, b"{}"), "model.safetensors": put(made, b"weights")}
    folder = made.checkpoint_folder("m", files)
    before = {path.name: (path.stat().st_ino, path.stat().st_ctime_ns) for path in folder.iterdir()}
    assert set(before) == set(files)
    (folder / "more").write_bytes(b"of an earlier try")
    again = made.checkpoint_folder("m", files)
    assert {path.name: (path.stat().st_ino, path.stat().st_ctime_ns) for path in again.iterdir()} == before
    made.used("m", files)
    assert names(made) == ["made"]
    with pytest.raises(NotFound, match=r"file config\.json: expected an uploaded blob sha256:"):
        made.checkpoint_folder("m", files)
    with pytest.raises(UnsupportedModel, match="found GGUF"):
        made.checkpoint_folder("m", {"model.safetensors": put(made, b"GGUF....")})


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    """What it points to is not ours to write or to sweep."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "uploads").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotADirectoryError):
        uploads(tmp_path).begin("ab" * 32)
    with pytest.raises(NotADirectoryError):
        uploads(tmp_path).sweep(starting=True)
