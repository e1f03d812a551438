"""Where compiled code is kept: in a folder that is this user's alone, and not for ever."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from blyan.model import jit_cache

DAY = 24 * 3_600
NOW = 1_700_000_000


@pytest.fixture(autouse=True)
def _released() -> Iterator[None]:
    """What a test holds is let go of; the places are as they were."""
    before, held = list(jit_cache.parents), len(jit_cache._held)
    yield
    jit_cache.use_parents(*before)
    for handle in jit_cache._held[held:]:
        os.close(handle)
    del jit_cache._held[held:]


def folder(parent: Path, name: str, *, days_ago: float) -> Path:
    """One that was used last so long ago, with something in it."""
    made = parent / name
    (made / "inner").mkdir(parents=True)
    (made / "inner/code.nbc").write_bytes(b"code")
    os.utime(made, (NOW - days_ago * DAY,) * 2)
    return made


def test_a_folder_is_made_for_this_user_alone(tmp_path: Path) -> None:
    """Whatever the umask."""
    jit_cache.use_parents(tmp_path / "cache")
    before = os.umask(0)
    try:
        found = jit_cache.held_folder("jit-1")
    finally:
        os.umask(before)
    assert found == tmp_path / "cache/jit-1"
    assert stat.S_IMODE(found.stat().st_mode) == stat.S_IMODE(found.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("where", ["jit-1", "jit-1/inner", "jit-1/inner/code.nbc"])
def test_code_that_others_may_have_written_is_not_loaded(tmp_path: Path, where: str) -> None:
    """It is deleted: a process that runs with no umask left its folders open."""
    made = folder(tmp_path, "jit-1", days_ago=0)
    (tmp_path / where).chmod(0o777)
    jit_cache.use_parents(tmp_path)
    assert jit_cache.held_folder("jit-1") == made
    assert list(made.iterdir()) == []
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_a_place_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    """The next one is."""
    first, second = tmp_path / "first", tmp_path / "second"
    folder(first, "jit-1", days_ago=0)
    first.chmod(0o777)
    jit_cache.use_parents(first, second)
    assert jit_cache.held_folder("jit-1") == second / "jit-1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("where", [".", "jit-1"])
def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path, where: str) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    folder(first, "jit-1", days_ago=0)
    os.chown(first / where, 12_345, 12_345)
    jit_cache.use_parents(first, second)
    assert jit_cache.held_folder("jit-1") == second / "jit-1"


def test_a_link_in_the_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(mode=0o700)
    (tmp_path / "elsewhere").mkdir()
    (first / "jit-1").symlink_to(tmp_path / "elsewhere")
    jit_cache.use_parents(first, second)
    assert jit_cache.held_folder("jit-1") == second / "jit-1"


def test_a_folder_made_by_an_earlier_version_is_closed_to_others_and_used(tmp_path: Path) -> None:
    jit_cache.use_parents(tmp_path)
    made = folder(tmp_path, "jit-1", days_ago=30)
    made.chmod(0o755)
    assert jit_cache.held_folder("jit-1") == made
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert (made / "inner/code.nbc").exists()


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    """A file stands where the folders would be: as little can be made there as in a package that is read-only."""
    (tmp_path / "file").touch()
    jit_cache.use_parents(tmp_path / "file", tmp_path / "file/below")
    assert jit_cache.held_folder("jit-1") is None
    jit_cache.use_for_user(tmp_path / "cache")
    assert jit_cache.held_folder("jit-1") == tmp_path / "cache/jit-1"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_package_of_root_s_run_as_a_user_keeps_its_code_in_the_user_s_cache(tmp_path: Path) -> None:
    """A process of another user, with `__pycache__` that it cannot write."""
    with tempfile.TemporaryDirectory() as place:
        _run_as_user(Path(place))


def _run_as_user(place: Path) -> None:
    place.chmod(0o755)  # as no folder above `tmp_path` is
    (place / "package").mkdir(mode=0o755)
    (place / "cache").mkdir(mode=0o700)
    os.chown(place / "cache", 12_345, 12_345)
    script = (
        "import importlib.util, os, pathlib, sys\n"
        f"spec = importlib.util.spec_from_file_location('jit_cache', {jit_cache.__file__!r})\n"
        "cache = importlib.util.module_from_spec(spec); spec.loader.exec_module(cache)\n"
        "os.setgid(12345); os.setuid(12345)\n"
        f"cache.use_parents(pathlib.Path({str(place)!r}) / 'package', pathlib.Path({str(place)!r}) / 'cache')\n"
        "print(cache.held_folder('jit-1'))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout.strip() == str(place / "cache/jit-1"), done.stderr


def test_old_folders_go_and_the_newest_stay(tmp_path: Path) -> None:
    """Three are kept, the one in use among them; none that nobody used for two weeks."""
    jit_cache.use_parents(tmp_path)
    mine = jit_cache.held_folder("jit-mine")
    assert mine is not None
    newest, second, third = (folder(tmp_path, f"jit-{days}", days_ago=days) for days in (1, 2, 3))
    other = folder(tmp_path, "other", days_ago=100)
    assert jit_cache.prune(mine, NOW) == [third]
    os.utime(second, (NOW - 15 * DAY,) * 2)
    assert jit_cache.prune(mine, NOW) == [second]
    assert sorted(tmp_path.iterdir()) == sorted([mine, newest, other])


def test_a_folder_that_another_process_holds_stays(tmp_path: Path) -> None:
    """However old; it goes when that process has ended."""
    jit_cache.use_parents(tmp_path)
    mine = jit_cache.held_folder("jit-mine")
    assert mine is not None
    script = (
        "import pathlib, sys; from blyan.model import jit_cache\n"
        f"jit_cache.use_parents(pathlib.Path({str(tmp_path)!r})); print(jit_cache.held_folder('jit-old'), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline().strip() == str(tmp_path / "jit-old")
        os.utime(tmp_path / "jit-old", (NOW - 100 * DAY,) * 2)
        assert jit_cache.prune(mine, NOW) == []
        process.stdin.close()
        process.wait(10)
    assert jit_cache.prune(mine, NOW) == [tmp_path / "jit-old"]


def test_a_folder_that_cannot_be_deleted_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jit_cache.use_parents(tmp_path)
    mine = jit_cache.held_folder("jit-mine")
    assert mine is not None
    folder(tmp_path, "jit-old", days_ago=100)
    monkeypatch.setattr(jit_cache.shutil, "rmtree", lambda *_, **__: None)
    assert jit_cache.prune(mine, NOW) == []


def test_a_folder_that_is_deleted_while_it_is_opened_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the opening and the lock."""
    jit_cache.use_parents(tmp_path)
    folder(tmp_path, "jit-1", days_ago=0).chmod(0o700)
    lock, gone = jit_cache.fcntl.flock, []

    def late(handle: int, how: int) -> None:
        if not gone:
            gone.append(1)
            jit_cache.shutil.rmtree(tmp_path / "jit-1")
            (tmp_path / "jit-1").mkdir(mode=0o700)  # as a third process may have done
        lock(handle, how)

    monkeypatch.setattr(jit_cache.fcntl, "flock", late)
    assert jit_cache.held_folder("jit-1") == tmp_path / "jit-1"
    assert os.path.samestat(os.fstat(jit_cache._held[-1]), (tmp_path / "jit-1").stat())
