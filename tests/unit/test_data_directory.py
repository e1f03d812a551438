"""LOCK says who uses a data directory, SCHEMA how it is laid out; nothing else may keep a node from starting."""

import errno
import fcntl
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from blyan.node import data_directory
from blyan.node.schema import schema_of
from blyan.primitives.errors import DataDirectoryInUse, IntegrityFault, SchemaTooNew, Unavailable
from blyan.storage import durable
from nodes import writing

SCHEMA_0 = Path(__file__).resolve().parent.parent / "fixtures" / "schema0"


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


def test_a_full_disk_keeps_nobody_from_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds it cannot be written then; that is told, not needed."""

    def full(_path: Path, _text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with data_directory.lock(tmp_path):
        assert data_directory.lock_holder(tmp_path) == {}


def snapshot_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A data directory as the version before SCHEMA wrote it."""
    shutil.copytree(SCHEMA_0, tmp_path / "old")
    (tmp_path / "old/keys/node.key").chmod(0o600)
    return tmp_path / "old"


def test_a_new_data_directory_says_its_schema(tmp_path: Path) -> None:
    """Before anything that a later version could misread."""
    with writing(tmp_path):
        assert (tmp_path / "SCHEMA").read_bytes() == b'{"schema":1}'
    assert schema_of(tmp_path) == 1


@pytest.mark.parametrize("schema", [2, 10**9])
def test_what_a_newer_version_wrote_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schema: int) -> None:
    """By readers and by writers; not even a marker is left."""
    with writing(tmp_path):
        pass
    (tmp_path / "SCHEMA").write_text(f'{{"schema":{schema}}}')
    before = snapshot_of(tmp_path)
    monkeypatch.setattr(durable, "write_file", lambda *_: pytest.fail("something was written"))
    with pytest.raises(SchemaTooNew, match=f"expected schema 1, found {schema}"):
        data_directory.open_ground(tmp_path)
    with pytest.raises(SchemaTooNew), writing(tmp_path):
        pass
    assert snapshot_of(tmp_path) | {"LOCK": b""} == before | {"LOCK": b""}


def test_every_flipped_bit_of_the_schema_file_is_found_and_named(tmp_path: Path) -> None:
    """As damage, or as a version that this one does not know."""
    path = tmp_path / "SCHEMA"
    good = b'{"schema":1}'
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises((IntegrityFault, SchemaTooNew)) as found:
            schema_of(tmp_path)
        assert found.value.detail["file"] == str(path)


def test_a_reader_of_an_older_schema_is_told_how_to_go_on(old: Path) -> None:
    """And changes nothing."""
    before = snapshot_of(old)
    with pytest.raises(Unavailable) as found:
        data_directory.open_ground(old)
    assert "blyan db migrate" in (found.value.hint or "")
    assert snapshot_of(old) == before


def test_a_crash_at_any_write_of_a_migration_is_taken_up(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marker, key, joint checkpoint, SCHEMA: stop before each; the next writer ends it, and nothing is lost."""
    whole = durable.write_file
    for writes in range(5):
        folder = old.with_name(f"stopped-{writes}")
        shutil.copytree(old, folder)
        left = writes

        def stop(target: Path, data: bytes, mode: int = 0o644) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            whole(target, data, mode)

        monkeypatch.setattr(durable, "write_file", stop)
        try:
            with writing(folder):
                pass
        except KeyboardInterrupt:
            pass
        else:
            assert writes == 4, "all of them were stopped before"
        monkeypatch.setattr(durable, "write_file", whole)
        with writing(folder) as ground:
            assert [len(versions) for versions in ground.chains.state.models.values()] == [1]
            ground.chains.verify()
        assert schema_of(folder) == 1


def test_a_promise_that_is_there_is_never_made_anew(tmp_path: Path) -> None:
    """A lost SCHEMA is written again, as after a migration that was cut off before its last step."""
    with writing(tmp_path) as ground:
        ground.sequencer.close()
        ground.chains.snapshot(ground.key)
    joint = (tmp_path / "chain/joint").read_bytes()
    (tmp_path / "SCHEMA").unlink()
    with writing(tmp_path):
        assert (tmp_path / "chain/joint").read_bytes() == joint
    assert schema_of(tmp_path) == 1


def test_a_damaged_directory_of_before_is_not_migrated(old: Path) -> None:
    """A flipped bit in an entry: named, and no promise is made of it."""
    path = old / "chain/parameter/tile/entries/000.p/6"
    raw = bytearray(path.read_bytes())
    raw[100] ^= 1
    path.write_bytes(raw)
    with pytest.raises(IntegrityFault, match="chain/parameter"), writing(old):
        pass
    assert not (old / "SCHEMA").exists() and not (old / "chain/joint").exists()


@pytest.mark.parametrize("stands", ["SCHEMA", "nothing else"])
def test_while_a_restore_has_not_ended_nobody_opens(tmp_path: Path, stands: str) -> None:
    """Neither readers nor writers."""
    with writing(tmp_path):
        pass
    if stands != "SCHEMA":
        (tmp_path / "SCHEMA").unlink()
    (tmp_path / ".restore").touch()
    with pytest.raises(Unavailable, match="restore"):
        data_directory.open_ground(tmp_path)
    with pytest.raises(Unavailable, match="restore"), writing(tmp_path):
        pass
