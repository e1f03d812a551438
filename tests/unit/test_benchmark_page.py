"""The page that a benchmark writes has what was measured, also where a part of it failed."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
    found = importlib.import_module("harness")
    monkeypatch.setattr(found, "SMOKE", False)
    monkeypatch.setattr(found, "PAGES", tmp_path)
    return found


def test_a_part_that_failed_is_said_beside_what_the_others_measured(
    harness: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the command fails; also where the failure is one of `pytest`, which is no `Exception`."""
    page = harness.Page("speed", "Speed", "At most that of light.")
    with page.part("a lamp"):
        page.row("light", "1 c", "≤ 1 c")
        page.row("its shadow", "0 c")
    with page.part("a node"):
        page.row("before it fell", "7 ms")
        pytest.fail("the node ended; it said:\naddress | already in use")
    with page.part("another lamp"):
        page.row("more light", "1 c")
    with pytest.raises(SystemExit, match="failed: a node"):
        page.write()
    lines = [line for line in (tmp_path / "speed.md").read_text().splitlines() if line.startswith("| ")]
    assert lines[1:] == [
        "| light | 1 c | ≤ 1 c |",
        "| its shadow | 0 c |  |",
        "| before it fell | 7 ms |  |",
        "| a node | **failed**: Failed: the node ended; it said: address ¦ already in use |  |",
        "| more light | 1 c |  |",
    ]
    assert "already in use" in capsys.readouterr().err


def test_who_interrupts_a_part_ends_the_benchmark(harness: ModuleType) -> None:
    with pytest.raises(KeyboardInterrupt), harness.Page("speed", "Speed", "").part("a lamp"):
        raise KeyboardInterrupt
