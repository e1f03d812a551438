"""Looks at many files at once see what a plain look sees."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from blyan.model.file_looks import FileLooks
from blyan.storage.blob_check import BlobWatch, identity_of


def watch(path: Path) -> BlobWatch:
    return BlobWatch(str(path), identity_of(os.lstat(path)))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two that are always looked at, then three experts of each of two layers."""
    made = [tmp_path / f"blob {number} 한글" for number in range(8)]
    for number, path in enumerate(made):
        path.write_bytes(bytes(number + 1))
    return made


def looks_at(files: list[Path]) -> FileLooks:
    watches = [watch(path) for path in files]
    return FileLooks(watches[:2], [watches[2:5], watches[5:8]])


CHOSEN = np.array([[[0, 2], [2, 0], [1, 1]], [[1, 0], [0, 1], [2, 2]]], np.int64)  # the last row is not of the step


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def link(path: Path) -> None:
    other = path.with_name("other")
    path.rename(other)
    path.symlink_to(other)


def restored_times(path: Path) -> None:
    """Other bytes, and the time of modification put back: the time of change tells."""
    before = os.lstat(path)
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: list[Callable[[Path], object]] = [
    replace,
    link,
    restored_times,
    Path.unlink,
    lambda path: path.write_bytes(b"longer than before"),
    lambda path: os.utime(path, ns=(1, 1)),
]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_file_that_was_computed_with_is_seen(
    files: list[Path], change: Callable[[Path], object], native: bool
) -> None:
    looks = looks_at(files)
    looks._native &= native
    assert looks.unchanged(CHOSEN, 2)
    assert looks.unchanged(CHOSEN, 2), "a look changes nothing"
    for used in (1, 2, 4, 6):
        kept = files[used].with_name("kept")
        os.link(files[used], kept)
        looks = looks_at(files)
        looks._native &= native
        change(files[used])
        assert not looks.unchanged(CHOSEN, 2)
        files[used].unlink(missing_ok=True)
        kept.unlink()
        files[used].write_bytes(b"new")


@pytest.mark.parametrize("native", [True, False])
def test_an_expert_that_was_not_chosen_does_not_matter(files: list[Path], native: bool) -> None:
    looks = looks_at(files)
    looks._native &= native
    for unused in (3, 7):
        replace(files[unused])
        assert looks.unchanged(CHOSEN, 2)
    assert not looks.unchanged(CHOSEN, 3)
    assert looks.unchanged(CHOSEN, 2), "what was looked at is looked at again the next time"


def test_this_machine_takes_the_quick_way(files: list[Path]) -> None:
    assert looks_at(files)._native == Path("/proc").exists()
