"""The disk that forgets is itself held to what a disk may forget, and to what it may not."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from blyan.storage import durable
from fault_layer import cut_at, killed_at, killed_then_cut, layer, steps_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    (folder / "old").write_bytes(b"before")
    return folder


def left(root: Path, tmp_path: Path, act, step: int | None = None) -> list[dict[str, bytes]]:
    """What 40 power cuts after `act` (or before one of its steps) leave."""
    found: list[dict[str, bytes]] = []
    for seed in range(40):
        target = Path(tempfile.mkdtemp(dir=tmp_path)) / "left"

        def then_stop() -> None:
            act()
            durable.os.mkdir(root / "one step more")

        at = step if step is not None else steps_of_copy(root, tmp_path, act) + 1
        assert cut_at(root, at, seed, target, then_stop)
        found.append({path.name: path.read_bytes() for path in target.iterdir() if path.is_file()})
        for path in root.iterdir():
            if path.name != "old":
                path.unlink()
        (root / "old").write_bytes(b"before")
    return found


def steps_of_copy(root: Path, tmp_path: Path, act) -> int:
    steps = steps_of(root, act)
    for path in root.iterdir():
        if path.name != "old":
            path.unlink()
    (root / "old").write_bytes(b"before")
    return steps


def test_what_was_written_durably_is_always_there(root: Path, tmp_path: Path) -> None:
    """And so is what was there before."""
    outcomes = left(root, tmp_path, lambda: durable.write_file(root / "new", b"whole"))
    assert all(each == {"old": b"before", "new": b"whole"} for each in outcomes)


def test_an_unsynced_write_may_be_lost_or_torn(root: Path, tmp_path: Path) -> None:
    """Renamed into place without fsync of the file: the name is there and its bytes may not be."""

    def careless() -> None:
        handle = durable.os.open(root / ".tmp", os.O_WRONLY | os.O_CREAT)
        os.write(handle, b"whole")
        os.close(handle)
        durable.os.replace(root / ".tmp", root / "new")
        durable.fsync_folder(root)

    outcomes = {each["new"] for each in left(root, tmp_path, careless)}
    assert b"whole" in outcomes
    assert b"" in outcomes
    assert any(each not in (b"", b"whole") for each in outcomes)


def test_an_unsynced_rename_may_not_have_happened(root: Path, tmp_path: Path) -> None:
    """Without fsync of the folder the old file may come back, whole; nothing between old and new does."""

    def careless() -> None:
        with durable.writing(root, "old") as file:
            file.write(b"after")
        durable.os.replace(durable.temporary_path(root, "old"), root / "old")

    assert {each["old"] for each in left(root, tmp_path, careless)} == {b"before", b"after"}


def test_an_unsynced_removal_may_not_have_happened(root: Path, tmp_path: Path) -> None:
    """A synced one has."""
    assert {"old" in each for each in left(root, tmp_path, lambda: durable.discard(root / "old"))} == {True, False}
    assert {"old" in each for each in left(root, tmp_path, lambda: durable.remove(root / "old"))} == {False}


def test_a_cut_comes_before_its_step(root: Path, tmp_path: Path) -> None:
    """Before the rename of a durable write the target is never the new file."""
    with layer(root) as counting:
        durable.write_file(root / "new", b"whole")
    (root / "new").unlink()
    rename = next(number for number, what in enumerate(counting.log, 1) if what.startswith("replace"))
    write = lambda: durable.write_file(root / "new", b"whole")  # noqa: E731 - one line says it
    assert all("new" not in each for each in left(root, tmp_path, write, rename))
    assert {"new" in each for each in left(root, tmp_path, write, rename + 1)} == {True, False}


def test_cleanup_of_a_dying_process_does_not_reach_the_disk(root: Path, tmp_path: Path) -> None:
    """`writing` removes its temporary file when an exception passes; after a power cut nobody did."""
    with layer(root) as counting:
        durable.write_file(root / "new", b"whole")
    (root / "new").unlink()
    rename = next(number for number, what in enumerate(counting.log, 1) if what.startswith("replace"))
    outcomes = left(root, tmp_path, lambda: durable.write_file(root / "new", b"whole"), rename)
    assert any(any(name.startswith(".tmp-") for name in each) for each in outcomes)


def test_a_killed_child_leaves_what_it_did(root: Path) -> None:
    """SIGKILL before each step; the whole run takes no more steps than were counted."""
    steps = steps_of(root, lambda: durable.write_file(root / "new", b"whole"))
    (root / "new").unlink()
    for step in range(1, steps + 1):
        assert killed_at(root, step, lambda: durable.write_file(root / "new", b"whole"))
        assert not (root / "new").exists() or (root / "new").read_bytes() == b"whole"
        for path in root.iterdir():
            if path.name != "old":
                path.unlink()
    assert not killed_at(root, steps + 1, lambda: durable.write_file(root / "new", b"whole"))
    assert (root / "new").read_bytes() == b"whole"


def test_after_a_kill_a_name_is_there_and_may_still_be_lost(root: Path, tmp_path: Path) -> None:
    """Unless the next process synced it."""
    with layer(root) as counting:
        durable.write_file(root / "new", b"whole")
    (root / "new").unlink()
    found: dict[bool, set[bool]] = {}
    for synced in (False, True):

        def again(synced: bool = synced) -> None:
            assert (root / "new").read_bytes() == b"whole"
            if synced:
                durable.fsync_folder(root)

        targets = [(Path(tempfile.mkdtemp(dir=tmp_path)) / "left", seed) for seed in range(20)]
        write = lambda: durable.write_file(root / "new", b"whole")  # noqa: E731 - one line says it
        assert killed_then_cut(root, counting.steps, targets, write, again)
        found[synced] = {(target / "new").exists() for target, _ in targets}
        (root / "new").unlink()
    assert found == {False: {True, False}, True: {True}}


def test_a_killed_process_changes_nothing_any_more(root: Path) -> None:
    """Its temporary file stays, as after SIGKILL."""
    act = lambda: durable.write_file(root / "new", b"whole")  # noqa: E731 - one line says it
    assert killed_then_cut(root, 3, [], act, lambda: None)
    assert [path.name.startswith(".tmp-") for path in sorted(root.iterdir())] == [True, False]
    assert not killed_then_cut(root, 1000, [], act, lambda: pytest.fail("nobody was killed"))


def test_a_folder_that_is_renamed_takes_along_what_was_synced_in_it(root: Path, tmp_path: Path) -> None:
    """And nothing of it is lost once the new name is synced."""
    durable.make_folder(root / "aside" / "inner")
    durable.write_file(root / "aside" / "inner" / "file", b"whole")
    for seed in range(20):
        target = tmp_path / f"left-{seed}"

        def act() -> None:
            durable.publish(root / "aside", root / "here")
            durable.os.mkdir(root / "one step more")

        assert cut_at(root, 3, seed, target, act)
        assert (target / "here" / "inner" / "file").read_bytes() == b"whole"
        (root / "here").rename(root / "aside")


def test_the_layer_leaves_when_its_block_ends(root: Path) -> None:
    """Whatever happened in it."""
    assert not cut_at(root, 1000, 0, root.parent / "unused", lambda: None)
    assert durable.os is os


def test_an_unsynced_rename_between_folders_loses_neither_name(root: Path, tmp_path: Path) -> None:
    """It happened or it did not: what was synced under the old name is under one of the two."""
    for folder in ("from", "to"):
        durable.make_folder(root / folder)
    durable.write_file(root / "from" / "file", b"whole")
    seen: set[str] = set()
    for seed in range(40):
        work = tmp_path / f"work-{seed}"
        shutil.copytree(root, work)
        left = tmp_path / f"left-{seed}"
        cut_at(
            work,
            2,
            seed,
            left,
            lambda work=work: (
                durable.os.replace(work / "from" / "file", work / "to" / "file"),
                durable.fsync_folder(work),
            ),
        )
        there = [path.parent.name for path in (left / "from" / "file", left / "to" / "file") if path.exists()]
        assert there
        assert all((left / name / "file").read_bytes() == b"whole" for name in there)
        seen |= set(there)
    assert seen == {"from", "to"}
