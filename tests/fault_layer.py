"""A disk that forgets: what `storage/durable` did and did not sync, and what would be there after the power went.

`FaultLayer` stands in place of `durable.os`, the one door through which the product changes the disk. Each change is a
numbered step. Files really change; beside that the layer keeps what a disk is sure of: the content of a file as of its
last fsync, and a name once its folder was fsynced. A rename happens wholly or not at all, also between two folders, as
in every journalling or copy-on-write file system. At the chosen step it either kills the process (SIGKILL, really) or
writes down what a power cut could have left, and raises `PowerCut`. What was not synced comes out old, new, or torn,
by a seed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blyan.storage import durable

CHANGES = (
    "open",
    "fsync",
    "fdatasync",
    "replace",
    "mkdir",
    "unlink",
    "rmdir",
    "pwrite",
    "ftruncate",
    "posix_fallocate",
)

Name = tuple[str, int]  # "file" or "dir", and an inode


class PowerCut(BaseException):
    """The power went. No `except Exception` may hold it."""


class Killed(BaseException):
    """Stands for SIGKILL where the disk's memory of what was synced must outlive the process."""


class FaultLayer:
    """`os` for `durable`, counting the changes; `at` is the number of the step that no longer happens."""

    def __init__(self, root: Path, at: int | None = None, happens: Callable[[FaultLayer], None] | None = None) -> None:
        self.root = root
        self.at = at
        self.steps = 0
        self.log: list[str] = []
        self.over = False
        self.killed = False  # what the dying process still tries does not happen
        self._happens = happens
        self._held: dict[int, int] = {}  # inode → a descriptor, so that no other file gets the number
        self.contents: dict[int, bytes] = {}  # inode → what was synced
        self.names: dict[Path, Name] = {}  # path below root → what was synced
        self._renamed: dict[Path, tuple[Path, int]] = {}  # old name → the new one in another folder, and the inode
        for path in sorted(root.rglob("*")):
            self._sync_name(path)
            if path.is_file() and not path.is_symlink():
                self.contents[path.stat().st_ino] = path.read_bytes()

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CHANGES:
            return real

        def changing(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments, **options)
            self._step(f"{name} {arguments[0]}")
            inode = os.lstat(arguments[0]).st_ino if name == "replace" else 0
            result = real(*arguments, **options)
            if name == "replace":
                self._moved(*map(Path, arguments), inode)
            if name in ("fsync", "fdatasync"):
                self._synced(arguments[0])
            return result

        return changing

    def _step(self, what: str) -> None:
        if self.killed:
            raise Killed
        if self.over:
            return  # what a dying process still does while its exception rises never reached the disk
        self.steps += 1
        self.log.append(what)
        if self.steps == self.at:
            self.over = True
            assert self._happens is not None
            self._happens(self)

    def _synced(self, handle: int) -> None:
        if self.over:
            return
        found = os.fstat(handle)
        if not stat.S_ISDIR(found.st_mode):
            self.contents[found.st_ino] = _content(Path(f"/proc/self/fd/{handle}"))
            return
        folder = Path(f"/proc/self/fd/{handle}").resolve()
        if not folder.is_relative_to(self.root):
            return
        for gone in [path for path in self.names if path.parent == folder and not os.path.lexists(path)]:
            for inner in [path for path in self.names if path == gone or path.is_relative_to(gone)]:
                del self.names[inner]
        for path in folder.iterdir():
            self._sync_name(path)

    def _sync_name(self, path: Path) -> None:
        inode = path.lstat().st_ino
        self.names[path] = ("dir" if path.is_dir() and not path.is_symlink() else "file", inode)
        if inode not in self._held and not path.is_symlink():
            self._held[inode] = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def _moved(self, source: Path, target: Path, inode: int) -> None:
        """A folder takes along what is sure to be in it, under whichever name it is found."""
        if source.parent != target.parent:
            self._renamed[source] = target, inode
        for inner in [path for path in self.names if path != source and path.is_relative_to(source)]:
            self.names[target / inner.relative_to(source)] = self.names[inner]

    def start_anew(self) -> None:
        """Another process comes, on the same disk: what the killed one did is there, and synced or not as before."""
        self.over = self.killed = False
        self.at = None

    def let_go(self) -> None:
        """Let go of what it holds."""
        for handle in self._held.values():
            os.close(handle)
        self._held.clear()

    def write_down(self, target: Path, seed: int) -> None:
        """What may be on the disk now: each unsynced change happened or not, each unsynced file may be torn."""
        chance = random.Random(seed)
        target.mkdir(parents=True)
        now: dict[Path, Name] = {}
        for path in self.root.rglob("*"):
            now[path] = ("dir" if path.is_dir() and not path.is_symlink() else "file", path.lstat().st_ino)
        chosen: dict[Path, Name | None] = {}
        for path in sorted({*now, *self.names}):
            sure, new = self.names.get(path), now.get(path)
            chosen[path] = sure if sure == new or chance.random() < 0.5 else new
        for source, (renamed, inode) in self._renamed.items():
            sure = self.names.get(source)
            if sure is not None and sure[1] == inode and chosen.get(renamed) != sure:
                chosen[source] = sure  # the rename did not happen
        for path, left in sorted(chosen.items()):
            new = now.get(path)
            out = target / path.relative_to(self.root)
            if left is None or not out.parent.is_dir():
                continue
            if left[0] == "dir":
                out.mkdir(exist_ok=True)
                continue
            if left == new and path.is_symlink():
                out.symlink_to(path.readlink())
                continue
            current = _content(path) if left == new else None
            out.write_bytes(self._torn(left[1], current, chance))
            out.chmod(path.stat().st_mode & 0o777 if left == new else 0o600)

    def _torn(self, inode: int, current: bytes | None, chance: random.Random) -> bytes:
        synced = self.contents.get(inode)
        if current is None or current == synced:
            return synced if synced is not None else b""
        if synced is not None and len(synced) == len(current):  # written in place: the size was sure, each block is
            blocks = range(0, len(current), 4096)  # old or new
            return b"".join(chance.choice((synced, current))[at : at + 4096] for at in blocks)
        cut = chance.randrange(len(current) + 1)
        choices = [current, current[:cut], current[:cut] + bytes(len(current) - cut), b"" if synced is None else synced]
        return chance.choice(choices)


def _content(path: Path) -> bytes:
    return path.read_bytes()


@contextmanager
def layer(
    root: Path, at: int | None = None, happens: Callable[[FaultLayer], None] | None = None
) -> Iterator[FaultLayer]:
    """Put a layer under the product for as long as the block lasts."""
    held = FaultLayer(root, at, happens)
    durable.os = held  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield held
    finally:
        durable.os = os
        held.let_go()


def steps_of(root: Path, act: Callable[[], object]) -> int:
    """How many steps `act` takes."""
    with layer(root) as counting:
        act()
    return counting.steps


def cut_at(root: Path, step: int, seed: int, target: Path, act: Callable[[], object]) -> bool:
    """Run `act` until the power goes before `step`; write what is left to `target`. False if it took fewer steps."""

    def cut(held: FaultLayer) -> None:
        held.write_down(target, seed)
        raise PowerCut

    with layer(root, step, cut):
        try:
            act()
        except PowerCut:
            return True
    return False


def killed_then_cut(
    root: Path,
    step: int,
    targets: Sequence[tuple[Path, int]],
    act: Callable[[], object],
    again: Callable[[], object],
) -> bool:
    """Kill `act` before `step`, let another process do `again` to its end, then cut the power.

    What is left then goes to each target, by its seed. False if `act` took fewer steps.
    """

    def kill(held: FaultLayer) -> None:
        held.killed = True
        raise Killed

    with layer(root, step, kill) as held:
        try:
            act()
        except BaseException:  # the kill, or what the dying process made of it
            if not held.killed:
                raise
        if not held.killed:
            return False
        held.start_anew()
        again()
        for target, seed in targets:
            held.write_down(target, seed)
    return True


def killed_at(root: Path, step: int, act: Callable[[], object]) -> bool:
    """Run `act` in a forked child that gets SIGKILL before `step`. False if it took fewer steps and ended well."""

    def kill(_held: FaultLayer) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        code = 1
        try:
            with layer(root, step, kill):
                act()
            code = 0
        finally:
            os._exit(code)  # no cleanup of what the parent owns
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, f"ended by signal {os.WTERMSIG(status)}"
        return True
    assert os.WEXITSTATUS(status) == 0, "the child failed by itself"
    return False


def copied(source: Path, target: Path) -> Path:
    """A fresh copy to damage."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    return target
