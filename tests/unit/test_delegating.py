"""What a gateway remembers of answers that it delegates: places of clients, and who led which tokens."""

from __future__ import annotations

from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from blyan.inference import delegating
from blyan.inference.delegating import Delegating, Delegation
from blyan.inference.session import GenerationRequest
from blyan.model.choosing import Step
from blyan.model.sampling import Sampling
from blyan.primitives.ids import PublicKey

NODE = PublicKey("a" * 64)


class Closed:
    """A fake of a network's thread that is closed."""

    def run(self, _work: Coroutine[Any, Any, None]) -> Any:
        raise RuntimeError("Event loop is closed")


class Stopping:
    """A fake of a reader whose stop string is complete after so many tokens."""

    def __init__(self, tokens: int) -> None:
        self.left = tokens

    @property
    def stopped(self) -> bool:
        return self.left <= 0

    def feed(self, _step: Step) -> None:
        self.left -= 1

    def end(self, *, stopped: bool) -> list[Any]:
        assert stopped
        return []


def make(usage: Any) -> Delegating:
    nothing: Any = None
    thread: Any = Closed()
    return Delegating(thread, nothing, nothing, usage, lambda: 0.0, bytes)


@pytest.mark.parametrize("fails", ["usage", "reader_of", "thread"])
def test_what_could_not_be_begun_takes_no_place_of_its_client(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    def usage(_model: Any) -> Any:
        if fails == "usage":
            raise OSError(28, "no space left")
        return SimpleNamespace(positions=lambda _now: 0.0)

    def reader_of(_model: Any, _request: Any) -> Any:
        if fails == "reader_of":
            raise ValueError("a tokenizer that fails")
        return Stopping(1)

    monkeypatch.setattr(delegating, "reader_of", reader_of)
    monkeypatch.setattr(delegating, "answer_tokens_max", lambda _model, _request: 8)
    monkeypatch.setattr(delegating, "eos_of", lambda _model, _request: frozenset())
    gateway = make(usage)
    model: Any = SimpleNamespace(manifest_id="ab" * 32)
    nothing: Any = None
    with pytest.raises((OSError, ValueError, RuntimeError)):
        gateway.begin(model, GenerationRequest((1, 2), Sampling()), nothing, client="c", listener=nothing)
    assert gateway.under_way == 0


def test_what_a_lead_says_after_a_stop_counts_for_nobody() -> None:
    """So that the tokens of a receipt's nodes are those of the answer."""
    gateway = make(None)
    order: Any = SimpleNamespace(eos=(), tokens_max=100)
    request: Any = SimpleNamespace(routed=True)
    listener: Any = SimpleNamespace(deliver=lambda _events: None)
    nothing: Any = None
    each = Delegation(nothing, request, order, Stopping(2), nothing, listener, "c", nothing, 9.0)  # pyright: ignore[reportArgumentType]
    assert gateway._take(each, [Step(token, 0.0, (), ()) for token in range(5)], NODE)
    assert each.chosen == [0, 1]
    assert each.led == {NODE: 2}
