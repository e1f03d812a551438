"""What Tab completes, asked of real shells on a pseudo-terminal, and that the scripts know every command."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from blyan.cli.completion import commands, script, shells
from blyan.cli.parser import build
from blyan.node.model_changes import copy_model
from nodes import command, install_builtin, writing

START = {
    "bash": ["--norc", "--noprofile"],
    "zsh": ["-f"],
    "fish": ["--no-config"],
}
LOAD = {
    "bash": 'eval "$(blyan completion bash)"',
    "zsh": 'autoload -U compinit && compinit -D && eval "$(blyan completion zsh)"',
    "fish": "blyan completion fish | source",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `blyan` on its PATH and a data directory with one model."""
    folder = tmp_path_factory.mktemp("completion")
    install_builtin(folder / "data")
    with writing(folder / "data") as ground:
        copy_model(ground, "blyan-genesis", "mine:v1")
    (folder / "bin").mkdir()
    blyan = folder / "bin/blyan"
    blyan.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m blyan "$@"\n')
    blyan.chmod(0o755)
    (folder / "work").mkdir()
    (folder / "work/saved-chains.bin").touch()
    (folder / "work/checkpoints").mkdir()
    return folder


@pytest.fixture(params=shells)
def shell(request: pytest.FixtureRequest, place: Path) -> Iterator["pexpect.spawn[str]"]:
    name = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed; the script's tables are tested without it")
    told = {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "TERM": "xterm", "HOME": str(place)}
    told["BLYAN_DATA_DIR"] = str(place / "data")
    terminal = pexpect.spawn(
        name, START[name], env=told, encoding="utf-8", timeout=30, dimensions=(40, 200), cwd=place / "work"
    )
    terminal.send(LOAD[name] + "; echo rea''dy\r")
    terminal.expect("\nready|ready\r")
    yield terminal
    terminal.close(force=True)


@pytest.mark.slow
def test_a_real_shell_completes_commands_options_models_and_files(shell: "pexpect.spawn[str]") -> None:
    """Each line is echoed by the shell itself, so what it ran is what Tab made of it."""
    for typed, completed in [
        ("blyan doct\t", "blyan doctor"),
        ("blyan model sho\tbl\t", "blyan model show blyan-genesis"),
        ("blyan chat hi --mod\tbl\t", "blyan chat hi --model blyan-genesis"),
        ("blyan --data-dir /nowhere chain ver\t", "blyan --data-dir /nowhere chain verify"),
        ("blyan chain import sav\t", "blyan chain import saved-chains.bin"),
        ("blyan model import che\t", "blyan model import checkpoints"),
        ("blyan completion zs\t", "blyan completion zsh"),
        ("blyan model show mine:v\t", "blyan model show mine:v1"),
        ("blyan model show min\t", "blyan model show mine:v1"),
        ("blyan model import x --quantize int\t8", "blyan model import x --quantize int8"),
    ]:
        for part in typed.replace("\t", "\t\0").split("\0"):
            shell.send(part)
            shell.expect(r".+") if part else None
        # Ctrl-A and `echo :` make a line that shows what was completed, and runs nothing
        shell.send("\x01echo '\x05' | tr -s ' ' | sed 's/^/=/;s/ *$/=/;s/= *=$/=/'\r")
        shell.expect(f"={re.escape(completed)}/?=")


def test_the_scripts_know_every_command_and_option() -> None:
    """They are made from the parser; a command that is added is completed without a line more."""
    for shell in shells:
        text = script(build(), shell)
        for each in commands(build()):
            assert each.path in text
            for option in each.options:
                assert option.name.lstrip("-") in text


def test_every_value_that_is_a_model_completes_as_one() -> None:
    """By name or by --model."""
    found = {
        f"{each.path} {option.name}"
        for each in commands(build())
        for option in each.options
        if option.value is not None and option.value.kind == "model"
    }
    assert {"chat --model", "chain find --model"} <= found
    named = {each.path for each in commands(build()) if any(value.kind == "model" for value in each.positionals)}
    assert {"model show", "model plan", "model verify", "model export"} <= named


@pytest.mark.parametrize("shell", shells)
def test_a_script_has_no_mistake_of_syntax(shell: str, tmp_path: Path) -> None:
    """As the shell itself reads it, where it is installed."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(script(build(), shell))
    done = subprocess.run([shell, "-n", tmp_path / "script"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_names_of_models_are_quiet_where_there_are_none(place: Path, tmp_path: Path) -> None:
    """Tab is no place for errors."""
    assert command("completion", "--models", data_dir=place / "data").stdout == "blyan-genesis\nmine:v1\n"
    done = command("completion", "--models", data_dir=tmp_path / "none")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
    assert command("completion").returncode == 2
