"""Passphrases: from a file that nobody else may read, or typed on a terminal; never on the command line."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from blyan.node.keys import node_key, read_key
from nodes import command, json_of, writing


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    with writing(tmp_path / "data"):
        pass
    return tmp_path / "data"


def typed(data_dir: Path, verb: str, *lines: str) -> int:
    """Run `blyan keys VERB` on a terminal of its own and type these lines when it asks."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "blyan", "--data-dir", str(data_dir), "keys", verb],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,  # without the terminal of whoever runs the tests
    )
    os.close(theirs)
    said = b""
    for line in lines:
        while not said.endswith(b": "):
            said += os.read(ours, 1000)
        os.write(ours, line.encode() + b"\n")
        said = b""
    try:
        code = process.wait(15)
        while chunk := os.read(ours, 1000):
            said += chunk
    except OSError:  # the terminal's other side is closed
        pass
    finally:
        os.close(ours)
    assert not any(line.encode() in said for line in lines if line), "what is typed is not shown"
    return code


def test_a_passphrase_is_typed_twice_on_a_terminal(data_dir: Path) -> None:
    """Two that differ, or none, encrypt nothing; it is asked for once to decrypt."""
    assert typed(data_dir, "encrypt", "battery", "staple") == 1
    assert typed(data_dir, "encrypt", "") == 1
    assert not read_key(node_key(data_dir)).encrypted
    assert typed(data_dir, "encrypt", "correct horse", "correct horse") == 0
    assert read_key(node_key(data_dir)).encrypted
    assert typed(data_dir, "decrypt", "wrong horse") == 4
    assert typed(data_dir, "decrypt", "correct horse") == 0
    assert not read_key(node_key(data_dir)).encrypted


def test_without_terminal_and_file_nobody_is_asked(data_dir: Path) -> None:
    """Exit 4 and what to do."""
    done = command("keys", "encrypt", data_dir=data_dir)
    assert (done.returncode, "BLYAN_KEYS__PASSPHRASE_FILE" in done.stderr) == (4, True)
    assert not read_key(node_key(data_dir)).encrypted


@pytest.mark.parametrize(
    ("text", "mode", "code", "words"),
    [
        ("secret\n", 0o644, 4, "nobody else"),
        ("", 0o600, 1, "found none"),
        ("x" * 2000, 0o600, 1, "expected 1 to 1024 bytes"),
        (None, 0o600, 1, "expected to read"),
    ],
)
def test_a_passphrase_file_is_held_to_its_limits(
    data_dir: Path, tmp_path: Path, text: str | None, mode: int, code: int, words: str
) -> None:
    """Readable by others, empty, endless, absent."""
    path = tmp_path / "secret"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    done = command("keys", "encrypt", data_dir=data_dir, BLYAN_KEYS__PASSPHRASE_FILE=str(path))
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr


def test_a_key_is_shown_without_its_secret(data_dir: Path) -> None:
    """To people and to programs."""
    seed = read_key(node_key(data_dir)).seed(lambda: b"").hex()
    shown = json_of("keys", "show", data_dir=data_dir)
    assert (shown["public"], shown["sequencer"], shown["may_write"]) == (shown["public"], shown["public"], True)
    table = command("keys", "show", data_dir=data_dir)
    assert shown["public"] in table.stdout
    assert seed not in table.stdout + str(shown)


def test_while_two_keys_wait_neither_is_encrypted(data_dir: Path) -> None:
    """The other would stay in plain."""
    node_key(data_dir).with_name("next.key").write_bytes(node_key(data_dir).read_bytes())
    node_key(data_dir).with_name("next.key").chmod(0o600)
    done = command("keys", "encrypt", data_dir=data_dir)
    assert (done.returncode, "rotation" in done.stderr) == (75, True)
    assert "rotation" in command("db", "check", data_dir=data_dir).stderr
