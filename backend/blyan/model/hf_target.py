"""The folder that an export goes to: looked at before anything is written, and never half of a model afterwards."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from blyan.primitives.errors import InvalidInput
from blyan.storage import durable

_last: Final = "config.json"  # a folder without it is no checkpoint, to `transformers` or to us
# what the name that was given is to blame for; a full or failing disk is not
_of_the_name: Final = frozenset(
    {errno.EACCES, errno.EEXIST, errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR}
    | {errno.EOPNOTSUPP, errno.EPERM, errno.EROFS}
)


@contextmanager
def export_folder(folder: Path) -> Generator[Path, None, None]:
    """Yield an empty folder; on a clean exit what is in it stands in `folder`, which must be absent or empty.

    Links are followed. An absent folder appears whole, by one rename of `.tmp-…` beside it. One that is there (it may
    be a mount point or the current folder, and cannot be replaced) gets the files one by one from `.tmp-…` in it,
    config.json last. A process that is killed leaves `.tmp-…`, and in a folder that was there perhaps some files, but
    no config.json. `InvalidInput`, before anything is written, if the name leads nowhere or to something.
    """
    try:
        target = folder.absolute()
        _refuse_links_to_nothing(target)
        target = target.resolve()
        present = _is_there(target)
        scratch = _make_scratch(target, present)
    except OSError as reason:
        if reason.errno not in _of_the_name:
            raise
        raise _refused(folder, f"{reason.strerror}: {str(reason.filename)[:300]}") from None
    try:
        yield scratch
        if present:
            _move_up(scratch, target)
        else:
            scratch.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _refuse_links_to_nothing(folder: Path) -> None:
    for path in (folder, *folder.parents):
        if path.is_symlink() and not path.exists():
            raise _refused(folder, f"that {path} is a link to nothing")


def _is_there(target: Path) -> bool:
    """Whether there is a folder, which is empty."""
    try:
        target.lstat()
    except FileNotFoundError:
        return False
    names = sorted(path.name for path in target.iterdir()) if target.is_dir() else ["a file"]
    if names:
        raise _refused(target, f"something there: {names[0]}")
    return True


def _make_scratch(target: Path, present: bool) -> Path:
    parent = target if present else target.parent
    missing = [path for path in (parent, *parent.parents) if not path.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            target.lstat()  # now that its parents are there, this says whether the name is possible
        scratch = durable.temporary_path(parent, f"export-{target.name[:40]}")
        shutil.rmtree(scratch, ignore_errors=True)  # of an earlier process with this id
        scratch.mkdir()
    except OSError:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        raise
    return scratch


def _move_up(scratch: Path, target: Path) -> None:
    moved: list[Path] = []
    try:
        for path in sorted(scratch.iterdir(), key=lambda path: (path.name == _last, path.name)):
            if (target / path.name).exists():
                raise _refused(target, f"something there: {path.name}")
            moved.append(path.rename(target / path.name))
    except BaseException:
        for path in moved:
            path.unlink()
        raise


def _refused(folder: Path, found: str) -> InvalidInput:
    return InvalidInput(
        f"export: expected {str(folder)[:300]} to be absent or empty, found {found}",
        hint=f"name a new or an empty folder where you may write; a {durable.temporary_prefix}… in it is what a killed "
        "export left, and may be removed",
    )
