"""LOCK says who uses a data directory; nothing else may keep a node from starting."""

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from blyan.node import data_directory
from blyan.primitives.errors import DataDirectoryInUse


def test_lock_is_for_the_owner_alone(tmp_path: Path) -> None:
    """Whoever can read a file can flock it; an older file is mended."""
    with data_directory.lock(tmp_path) as path:
        assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with data_directory.lock(tmp_path):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_reader_that_looks_for_an_instant_stops_no_start(tmp_path: Path) -> None:
    """A shared lock that goes away within a second is waited for."""
    path = tmp_path / "LOCK"
    path.touch()
    with path.open() as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        timer = threading.Timer(0.3, fcntl.flock, (reader, fcntl.LOCK_UN))
        timer.start()
        with data_directory.lock(tmp_path):
            assert data_directory.lock_holder(tmp_path) == {"pid": os.getpid(), "url": None}
        timer.join()


def test_a_holder_without_name_is_given_up_after_a_second(tmp_path: Path) -> None:
    """It says that it does not know who."""
    path = tmp_path / "LOCK"
    path.touch()
    with path.open() as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        started = time.monotonic()
        with pytest.raises(DataDirectoryInUse, match="unnamed process"), data_directory.lock(tmp_path):
            pass
        assert 0.5 < time.monotonic() - started < 5


def test_a_named_holder_is_named_at_once(tmp_path: Path) -> None:
    """No waiting for a node that runs."""
    with data_directory.lock(tmp_path):
        started = time.monotonic()
        with pytest.raises(DataDirectoryInUse, match=f"process {os.getpid()} "), data_directory.lock(tmp_path):
            pass
        assert time.monotonic() - started < 0.5


@pytest.mark.parametrize("written", ["", '{"pid": 1', "[]", '"x"'])
def test_a_holder_that_is_half_written_is_a_holder_all_the_same(tmp_path: Path, written: str) -> None:
    """Held is not free, whatever the file says at this moment."""
    with data_directory.lock(tmp_path) as path:
        path.write_text(written)
        assert data_directory.lock_holder(tmp_path) == {}
    assert data_directory.lock_holder(tmp_path) is None


def test_what_a_crash_left_in_keys_is_swept(tmp_path: Path) -> None:
    """A temporary file there may hold the seed."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/.tmp-12-node.key").write_text("seed")
    (tmp_path / "keys/other").write_text("kept")
    with data_directory.lock(tmp_path):
        assert [path.name for path in (tmp_path / "keys").iterdir()] == ["other"]
