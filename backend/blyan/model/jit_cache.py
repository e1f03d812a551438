"""The folders that compiled code is kept in: whose they are, who uses them, and when they go.

Code is loaded from here, so a folder is used only where nobody else can write: it is this user's, mode 0700, below a
folder that others cannot write. What others may have written is deleted. It lies beside the package's own byte code,
or, where that is read-only or somebody else's, in the user's cache. Every process holds a shared lock on its folder,
and what is locked is not deleted.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)
_kept: Final = 3  # folders, the one in use among them
_unused_seconds_max: Final = 14 * 24 * 3_600
_attempts: Final = 8  # at a folder that is deleted while it is opened
_writable: Final = stat.S_IWGRP | stat.S_IWOTH
_held: Final[list[int]] = []  # handles of folders that this process uses; locked until it ends


def _in_home() -> list[Path]:
    try:
        return [Path.home() / ".cache" / "blyan"]
    except RuntimeError:  # nobody's home
        return []


parents: Final = [Path(__file__).parent / "__pycache__", *_in_home()]  # where folders may lie, the best first


def use_parents(*chosen: Path) -> None:
    """Look for a folder in these and no others. Before `model.jit` is imported, which looks once."""
    parents[:] = chosen


def use_for_user(cache: Path) -> None:
    """The folder of this user's caches, where the environment names one; before `model.jit` is imported."""
    parents[1:] = [cache]


def held_folder(name: str) -> Path | None:
    """The folder `name` in the first place where it can be kept, locked until this process ends; None if in none."""
    for parent in parents:
        for _ in range(_attempts):
            try:
                found = _opened(parent, name)
            except FileNotFoundError:  # deleted between two looks
                continue
            except OSError as reason:
                _log.debug("compiled code is not kept in %s: %s", parent, reason)
                break
            _held.append(found)
            return parent / name
    return None


@contextmanager
def alone(folder: Path) -> Generator[None, None, None]:
    """One process at a time: the index of what is compiled is read, changed and written back."""
    with (folder / "compiling").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prune(folder: Path, now: int) -> list[Path]:
    """Delete folders beside this one that nobody used for 14 days, or beyond the newest three; what was deleted.

    `now`: seconds since the epoch. A folder that a process holds stays, and so does what cannot be deleted.
    """
    found: list[tuple[float, Path]] = []
    for each in folder.parent.glob("jit-*"):
        try:
            status = each.lstat()
        except OSError:
            continue
        if stat.S_ISDIR(status.st_mode) and each != folder:
            found.append((status.st_mtime, each))
    found.sort(reverse=True)
    going = [each for at, (used, each) in enumerate(found, 1) if at >= _kept or now - used > _unused_seconds_max]
    return [each for each in going if _deleted(each)]


def _deleted(folder: Path) -> bool:
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # somebody uses it
        return False
    finally:
        os.close(handle)
    return not folder.exists()


def _opened(parent: Path, name: str) -> int:
    """A handle that holds the folder. `FileNotFoundError` if it was deleted meanwhile, other `OSError` where it cannot
    be kept or trusted.
    """
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _trusted(parent):
        raise PermissionError(f"{parent}: expected a folder that nobody else can write, found one that others can")
    folder = parent / name
    folder.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)  # waits for who deletes it
        held = os.fstat(handle)
        if not os.path.samestat(held, folder.lstat()):
            raise FileNotFoundError
        if held.st_uid != os.geteuid():
            raise PermissionError(f"{folder}: expected owner {os.geteuid()}, found {held.st_uid}")
        if held.st_mode & 0o077:  # others reached it so far, and may have written where the umask let them
            if not all(_trusted(each) for each in (folder, *folder.rglob("*"))):
                shutil.rmtree(folder)
                raise FileNotFoundError
            os.fchmod(handle, 0o700)
        with tempfile.TemporaryFile(dir=folder):
            os.utime(folder)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _trusted(path: Path) -> bool:
    """Whether nobody but this user and root can have written it."""
    found = path.lstat()
    return found.st_uid in (os.geteuid(), 0) and not found.st_mode & _writable and not stat.S_ISLNK(found.st_mode)
