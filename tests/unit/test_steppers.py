"""The thread that prepares jitted code: what goes wrong there is one model's matter, and damaged code is made again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from blyan.inference.steppers import SteppersInTurn
from blyan.model import fused_compile, jit

KIND = np.zeros(1, np.float32), np.zeros(1, np.float32)


@pytest.fixture
def steppers() -> Iterator[SteppersInTurn]:
    made = SteppersInTurn(1, lambda: 0.0)
    yield made
    made.close()


def test_who_cannot_be_prepared_does_not_end_the_preparing(steppers: SteppersInTurn) -> None:
    def fails() -> None:
        raise MemoryError

    done = threading.Event()
    steppers._later(fails)
    steppers._later(done.set)
    assert done.wait(5)
    assert steppers._thread is not None
    steppers.close()
    steppers._thread.join(5)
    assert steppers.pending == 0


def test_damaged_code_is_deleted_and_compiled_again(steppers: SteppersInTurn, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty index, as a power cut leaves one, would else keep every later start on the plain path."""
    did: list[str] = []

    def load(name: str) -> None:
        did.append(f"load {name}")
        if len(did) == 2:
            raise EOFError

    def compile_apart(name: str) -> bool:
        did.append(f"compile {name}")
        return True

    monkeypatch.setattr(fused_compile, "load", load)
    monkeypatch.setattr(fused_compile, "compile_apart", compile_apart)
    monkeypatch.setattr(fused_compile, "forget", lambda: did.append("forget"))
    assert steppers._compiled(KIND, "a model")
    assert did == ["compile fp32/fp32", "load fp32/fp32", "forget", "compile fp32/fp32", "load fp32/fp32"]


def test_what_is_forgotten_is_gone_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fp32-fp32.1.ready", "inner/code.nbi", "inner/code.1.nbc", "compiling"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(jit, "folder", tmp_path)
    fused_compile.forget()
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == ["compiling"]
