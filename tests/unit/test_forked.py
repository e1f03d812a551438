"""A forked command is what the same command in an interpreter of its own is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from forked import nursery
from nodes import command, command_apart

pytestmark = pytest.mark.slow  # the first one starts the process that they are forked from


@pytest.mark.parametrize("words", [["--version"], ["modle", "list"], ["config", "show", "--json"], ["model", "list"]])
def test_it_says_the_same_and_ends_alike(tmp_path: Path, words: list[str]) -> None:
    """On stdout, on stderr, and by its exit code."""
    forked, alone = (run(*words, data_dir=tmp_path) for run in (command, command_apart))
    assert (alone.returncode, alone.stdout, alone.stderr) == (forked.returncode, forked.stdout, forked.stderr)


def test_it_has_the_callers_variables_folder_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are when it starts; what the last one was given is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BLYAN_HTTP__SHUTDOWN_SECONDS", "7")
    said = json.loads(command("config", "show", "--json", BLYAN_COMPUTE__THREADS="3").stdout)
    assert (said["http.shutdown_seconds"]["value"], said["compute.threads"]["value"]) == (7, 3)
    monkeypatch.delenv("BLYAN_HTTP__SHUTDOWN_SECONDS")
    said = json.loads(command("config", "show", "--json").stdout)
    assert (said["http.shutdown_seconds"]["origin"], said["compute.threads"]["origin"]) == ("default", "default")
    assert command("init").returncode == 0
    assert (tmp_path / ".blyan/keys/node.key").exists()


def test_it_reads_what_was_typed(tmp_path: Path) -> None:
    """To its end."""
    done = nursery().run(["chat", "-", "--node", "http://127.0.0.1:1"], {}, 30, b" \n")
    assert (done.returncode, b"expected a question, found none" in done.stderr) == (2, True)


def test_it_is_a_process_of_its_own(tmp_path: Path) -> None:
    """That a signal ends, as often as one asks; the next one starts as ever."""
    begun = nursery().begin(["--data-dir", str(tmp_path), "up", "--listen", "127.0.0.1:0", "--no-browser"])
    assert begun.pid != os.getpid()
    begun.kill()
    assert (begun.wait(10), begun.wait(), begun.poll()) == (-signal.SIGKILL, -signal.SIGKILL, -signal.SIGKILL)
    assert command("--version").returncode == 0


def test_what_takes_too_long_is_ended(tmp_path: Path) -> None:
    """And said, as `subprocess.run` does."""
    with pytest.raises(subprocess.TimeoutExpired):
        command("up", "--listen", "127.0.0.1:0", "--no-browser", data_dir=tmp_path, timeout=0.2)
    assert command("--version").returncode == 0
