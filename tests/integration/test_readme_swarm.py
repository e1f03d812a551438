"""What README.md says of several machines, run as it stands there."""

import contextlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kept_ports import kept_port

ROOT = Path(__file__).parents[2]


class _Ports:
    """They are kept while it lives."""


def _page_port(owner: object) -> int:
    """A port; the one above it, where its peer port is, is free as well."""
    while True:
        port = kept_port(owner)
        with contextlib.suppress(OSError), socket.socket() as above:
            above.bind(("127.0.0.1", port + 1))
            return port


@pytest.mark.slow
def test_the_swarm_of_the_readme_answers_before_and_after_the_first_node_dies(tmp_path: Path) -> None:
    """Ports aside it is the very block; in the end nothing of it is left, so that it can be pasted again."""
    text = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"```sh\n([^`]*?kill -9[^`]*)```", text)
    ports = sorted(set(re.findall(r"127\.0\.0\.1:(\d+)", block)))
    owner = _Ports()
    for port in ports:
        block = block.replace(f":{port}", f":{_page_port(owner)}")
    block = block.replace(". .venv/bin/activate\n", "")
    command = f'#!/bin/sh\nexec {sys.executable} -m blyan "$@"\n'
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/blyan").write_text(command)
    (tmp_path / "bin/blyan").chmod(0o755)
    (tmp_path / "left").mkdir()
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "TMPDIR": str(tmp_path / "left")}
    script = f"trap 'kill -9 $(jobs -p) 2>/dev/null' EXIT\n{block}"
    done = subprocess.run(
        ["timeout", "60", "bash", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = re.findall(r"^.*= 46$", done.stdout, re.MULTILINE)
    assert len(answers) == 2, done.stdout
    assert answers[0] == answers[1]
    assert not [each for each in (tmp_path / "left").iterdir() if each.name.startswith("tmp")], "its folder is gone"
    for port in re.findall(r"127\.0\.0\.1:(\d+)", block):
        with socket.socket() as taken:
            assert taken.connect_ex(("127.0.0.1", int(port))), f"nobody answers at {port} any more"
