"""What the command line writes can be written, whatever names files have."""

import json
import os
from pathlib import Path

import pytest

from blyan.cli.output import Output
from blyan.primitives.errors import InvalidInput
from nodes import command


def test_names_that_are_no_unicode_are_written_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    """In JSON they are read again as they were."""
    name = os.fsdecode(b"\xff")
    Output(as_json=True).fault(InvalidInput(f"folder {name}"))
    Output(as_json=True).data({"folder": name}, "")
    Output(as_json=False).data({}, f"in {name}")
    fault, data, text = capsys.readouterr().out.splitlines()
    assert json.loads(fault)["error"]["message"] == f"folder {name}"
    assert json.loads(data) == {"folder": name}
    assert text == "in \\udcff"


def test_a_folder_whose_name_is_no_unicode_is_named_when_it_is_refused(tmp_path: Path) -> None:
    """And not answered with a traceback."""
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/\xff"))
    folder.mkdir()
    done = command("model", "import", folder, "--json", data_dir=tmp_path / "data")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "config.json" in json.loads(done.stdout)["error"]["message"]
