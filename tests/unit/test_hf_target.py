"""An export goes where its folder can be, or is refused before the weights are written."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from blyan.model.hf_target import export_folder
from blyan.primitives.errors import InvalidInput

FILES = {"README.md", "config.json", "model.safetensors"}


def fill(folder: Path, then: Callable[[], object] = lambda: None) -> None:
    with export_folder(folder) as scratch:
        assert scratch.name.startswith(".tmp-")
        for name in sorted(FILES):
            (scratch / name).write_text(name)
        then()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    (tmp_path / "to-empty").symlink_to(tmp_path / "empty")
    (tmp_path / "to-nothing").symlink_to(tmp_path / "nowhere")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    (tmp_path / "file").write_text("kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("kept")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ("new", "new"),
        ("a/b/new", "a/b/new"),
        ("empty", "empty"),
        ("to-empty", "empty"),
        ("to-empty/new", "empty/new"),
        ("n" * 255, "n" * 255),
        ("é" * 127, "é" * 127),
        ("empty/../new", "new"),
    ],
)
def test_an_absent_or_empty_folder_is_filled(ground: Path, given: str, where: str) -> None:
    """Through links too, and nothing else is left."""
    fill(ground / given)
    assert names(ground / where) == FILES
    assert not list(ground.rglob(".tmp-*"))


def test_the_current_folder_is_filled_and_stays_the_same_one(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a mount point must: neither can be renamed over."""
    before = (ground / "empty").stat().st_ino
    monkeypatch.chdir(ground / "empty")
    fill(Path())
    assert names(ground / "empty") == FILES
    assert (ground / "empty").stat().st_ino == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("to-nothing", "a link to nothing"),
        ("to-nothing/new", "a link to nothing"),
        ("round", "a link to nothing"),
        ("file", "something there"),
        ("file/sub", "Not a directory"),
        ("file/sub/sub", "Not a directory"),
        ("full", "something there: mine"),
        ("n" * 256, "File name too long"),
        ("a/b/" + "n" * 256, "File name too long"),
        ("a/" + "n" * 256 + "/c", "File name too long"),
        ("/proc/new", "No such file"),
    ],
)
def test_what_cannot_be_the_folder_is_refused_before_anything_is_written(ground: Path, given: str, said: str) -> None:
    """With a hint, and everything stays as it was."""
    before = sorted(ground.rglob("*"))
    with pytest.raises(InvalidInput, match=said) as refused, export_folder(ground / given):
        raise AssertionError("the weights would be written")
    assert refused.value.hint
    assert sorted(ground.rglob("*")) == before


def test_a_full_disk_is_not_the_names_fault(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may work later."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError, match="No space"):
        fill(ground / "new")


@pytest.mark.parametrize("given", ["new", "empty"])
def test_a_failed_export_leaves_nothing(ground: Path, given: str) -> None:
    """Neither in a new folder nor in one that was there."""
    before = sorted(ground.rglob("*"))

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(ground / given, interrupt)
    assert sorted(ground.rglob("*")) == before


def test_config_json_comes_last_and_nothing_is_written_over(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash leaves no checkpoint that looks whole; a file that came meanwhile stays."""
    order: list[str] = []
    rename = Path.rename

    def watched(path: Path, target: Path) -> Path:
        order.append(path.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", watched)
    fill(ground / "empty")
    assert set(order) == FILES
    assert order[-1] == "config.json"
    (ground / "other").mkdir()
    with pytest.raises(InvalidInput, match="something there: model"):
        fill(ground / "other", lambda: (ground / "other" / "model.safetensors").write_text("mine"))
    assert names(ground / "other") == {"model.safetensors"}
    assert (ground / "other" / "model.safetensors").read_text() == "mine"
