"""`blyan node drain` ends when nothing is under way for peers, whatever that is, and says what is left."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest

from blyan.cli import node_swarm
from blyan.cli.output import Output

IDLE = dict.fromkeys(("calls", "answers", "stage_calls", "pipelines", "blobs"), 0)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """What the node says that is under way, look by look; the last for ever."""
    looks: list[dict[str, int]] = []

    def asked(_url: str, path: str, **_options: object) -> dict[str, Any]:
        left = IDLE | (looks.pop(0) if len(looks) > 1 else looks[0])
        own = {"under_way": sum(left.values()), "left": left}
        return {"draining": True, "alone": 0, **own} if path == "/network/drain" else {"swarm": "x", "self": own}

    monkeypatch.setattr(node_swarm, "asked", asked)
    monkeypatch.setattr(node_swarm, "_told_seconds", 0.0)
    monkeypatch.setattr(node_swarm, "_look_seconds", 0.001)
    monkeypatch.setattr(node_swarm, "_drain_seconds", 0.2)
    return looks


def drain(capsys: pytest.CaptureFixture[str], *, as_json: bool = False) -> tuple[int, str, str]:
    options = argparse.Namespace(node="http://127.0.0.1:1", undo=False, key_file=None, data_dir=None)
    code = node_swarm._drain(options, Output(as_json=as_json))
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.mark.parametrize("kind", list(IDLE))
def test_it_waits_for_what_is_under_way_for_peers(
    said: list[dict[str, int]], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    said += [{kind: 2}, {kind: 2}, {kind: 1}, {}]
    code, out, err = drain(capsys)
    assert (code, out) == (0, "draining: nothing is under way for peers\n")
    assert [line.split()[0] for line in err.splitlines()] == ["2", "1"]
    assert said == [{}]


def test_after_a_minute_it_says_what_is_left(said: list[dict[str, int]], capsys: pytest.CaptureFixture[str]) -> None:
    said += [{"answers": 1, "pipelines": 2}]
    assert drain(capsys)[:2] == (75, "draining: 1 answers, 2 pipelines in use under way for peers\n")
    code, out, _ = drain(capsys, as_json=True)
    assert (code, json.loads(out)["left"]) == (75, IDLE | {"answers": 1, "pipelines": 2})
