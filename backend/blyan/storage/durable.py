"""Files that are either wholly there or not at all, also after a power cut.

Write order, each step survives a crash before the next: (1) a temporary file beside the target, (2) fsync of it,
(3) rename over the target, (4) fsync of the folder. A crash between steps 1 and 3 leaves a file with the `.tmp-`
prefix; nothing reads it, and it stays until the folder's owner calls `sweep`.

Everything that changes the disk in `storage` and `chain` is here, and reaches it through this module's name `os`: tests
put a layer in its place that forgets what was not synced, or ends the process before any chosen step.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

temporary_prefix = ".tmp-"
_not_to_be_synced: Final = frozenset({errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS})
Buffer: TypeAlias = bytes | bytearray | memoryview


def fsync_folder(folder: Path) -> None:
    """Make the folder's names durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_found(folder: Path) -> None:
    """Make durable what is found: the name of `folder`, if it is there, and all names in it and in the folders below.

    What a killed process left may not have been synced, and a power cut could still undo it: whoever builds on what
    is there, or acknowledges it, calls this first. Links below `folder` are not followed; a folder that may not be
    opened holds nothing that could be relied on.
    """
    sync_names(folder.parent)
    for inner, _, _ in os.walk(folder):
        sync_names(Path(inner))


def sync_names(folder: Path) -> None:
    """Make the names in a folder durable, if it is there and may be opened."""
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        fsync_folder(folder)


def sync_path(folder: Path) -> None:
    """Make the names durable that lead to `folder`, as far as this process may and the file systems can."""
    for parent in folder.resolve().parents:
        try:
            fsync_folder(parent)
        except OSError as reason:
            if reason.errno not in _not_to_be_synced:
                raise


def refuse_links(folder: Path, within: Path) -> None:
    """Raise `NotADirectoryError`, naming it, if `folder` or a parent of it below `within` is a symbolic link."""
    path = within
    for name in folder.relative_to(within).parts:
        path /= name
        if path.is_symlink():
            raise NotADirectoryError(errno.ENOTDIR, "expected a folder, found a symbolic link", str(path))


def make_folder(folder: Path, mode: int = 0o755, *, within: Path | None = None) -> None:
    """Create the folder and its missing parents durably; below `within`, no symbolic link stands for one of them.

    Those that are there are taken to be durable; after a crash, `sync_found` makes it so.
    """
    if within is not None:
        refuse_links(folder, within)
    missing: list[Path] = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(path, mode)
        fsync_folder(path.parent)


@contextmanager
def writing(folder: Path, name: str, mode: int = 0o644) -> Generator[BinaryIO, None, None]:
    """Yield a new temporary file in `folder`; on a clean exit it is durable, though not yet under its final name.

    The name of the temporary file holds the process id, so that two processes never share one.
    """
    path = temporary_path(folder, name)
    discard(path)  # of an earlier process with this id; a read-only one could not be opened for writing
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        discard(path)
        raise


def temporary_path(folder: Path, name: str) -> Path:
    """Where `writing` puts the bytes of `name` until `publish`."""
    return folder / f"{temporary_prefix}{os.getpid()}-{name}"


def sweep(folder: Path, *, within: Path | None = None) -> None:
    """Remove the temporary files that crashes left directly in `folder`, if it exists; folders in it keep theirs.

    Only for the one process that may write there: it would take a file that another is writing. Below `within`, a
    symbolic link is `NotADirectoryError`.
    """
    if within is not None:
        refuse_links(folder, within)
    for leftover in folder.glob(f"{temporary_prefix}*"):
        discard(leftover)


def publish(temporary: Path, target: Path) -> None:
    """Rename a durable temporary file over its target and make the name durable."""
    os.replace(temporary, target)
    fsync_folder(target.parent)


def discard(path: Path) -> None:
    """Remove a file that nobody relies on, if it is there; a crash may bring it back."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def remove(path: Path) -> None:
    """Remove a file durably, if it is there."""
    discard(path)
    fsync_folder(path.parent)


def write_file(target: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a whole file durably: after return it is there; after a crash it is the old or the new one."""
    with writing(target.parent, target.name, mode) as file:
        file.write(data)
    publish(temporary_path(target.parent, target.name), target)


def read_limited(path: Path, bytes_max: int) -> bytes:
    """Read a file of at most `bytes_max`, not through a symbolic link.

    `OSError` as usual, `ValueError` if it is larger or no regular file.
    """
    # NONBLOCK, or opening a named pipe would wait for somebody to write into it; for a file it means nothing.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > bytes_max:
            raise ValueError(f"{path}: expected a file of at most {bytes_max} bytes, found {found.st_size}")
        return file.read(bytes_max + 1)


def remove_tree(path: Path) -> None:
    """Remove a folder and everything in it; a link, be it `path` itself, is removed and not followed."""
    if not stat.S_ISDIR(path.lstat().st_mode):
        os.unlink(path)
        fsync_folder(path.parent)
        return
    for inner in path.iterdir():
        if inner.is_dir() and not inner.is_symlink():
            remove_tree(inner)
        else:
            os.unlink(inner)
    os.rmdir(path)
    fsync_folder(path.parent)


def open_alone(path: Path) -> int:
    """Open a file for reading and writing at any offset, made if it is absent, that nobody else has open so.

    Return its descriptor, with which the right to it ends; `BlockingIOError` while another thread or process has it.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, "expected a regular file", str(path))
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_named(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # it got another name, or was removed, before we had it


def regain(path: Path, mode: int = 0o600) -> None:
    """Make a file of ours that only may be read writable again, not through a symbolic link.

    No change if by now that name means another file, or none; `BlockingIOError` while somebody has it (`open_alone`).
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # or what is just becoming a blob would be writable
            if _is_named(handle, path):
                os.fchmod(handle, mode)
    finally:
        os.close(handle)


def _is_named(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def allocate(handle: int, path: Path, length: int, *, fresh: bool) -> None:
    """Make an open file `length` bytes of allocated space, of zeros if `fresh`; what is written is durable by `sync`.

    `OSError` ENOSPC where there is no room for all.
    """
    if fresh:
        os.ftruncate(handle, 0)
    os.ftruncate(handle, length)
    os.posix_fallocate(handle, 0, length)  # a full disk is found now, not after hours
    os.fsync(handle)
    fsync_folder(path.parent)


def write_at(handle: int, data: Buffer, offset: int) -> None:
    """Write all of `data` at `offset`."""
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def sync(handle: int) -> None:
    """Make what was written to a descriptor durable."""
    os.fdatasync(handle)


def open_appending(path: Path) -> int:
    """Open a file to append to, made if it is absent; a torn end after a crash is for the reader to recognise."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    return os.open(path, flags, 0o644)


def append(handle: int, data: bytes) -> None:
    """Append all of `data`; durable after `sync`."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
