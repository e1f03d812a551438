"""What a node that leads says of how it computed steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from blyan.inference.delegate_host import DelegateHost
from blyan.inference.engine_table import Computing, EngineTable
from blyan.model.choosing import Step
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.framing import Message
from blyan.wire.generation import Bounds, ChunkReader, Order, SamplingFields

NODE = PublicKey("a" * 64)


async def said(states: list[Computing]) -> list[tuple[bool, float]]:
    """Of each chunk but of one step, where the lead computes like this at first and then at each chunk."""
    order = Order(PayloadId("b" * 64), (1, 2), SamplingFields(), 8, told=False, routed=False)
    left, found = [Step(5, 0.0, (), ())] * (len(states) - 1), list[Message]()

    async def following(_most: int) -> list[Step]:
        return [left.pop()] if left else []

    async def send(message: Message) -> None:
        found.append(message)

    states = list(states)
    lead: Any = SimpleNamespace(computing=lambda _model: states.pop(0))
    model: Any = SimpleNamespace(manifest=SimpleNamespace(config=SimpleNamespace(moe_layers=(0,), experts_per_token=1)))
    steps: Any = SimpleNamespace(next=following)
    outlet: Any = SimpleNamespace(send=send)
    wanted: Any = SimpleNamespace(used=lambda _model, _experts: None)
    host = DelegateHost(lead, lambda _: None, lambda _node, _rows: True, wanted)
    await host._pass_on(model, order, NODE, steps, outlet)
    reader = ChunkReader(order, Bounds(32, frozenset(), 0, 0))
    told = list[tuple[bool, float]]()
    for each in found:
        reader.read(each)
        told.append((reader.jitted, reader.waited_s))
    return told


async def test_steps_are_said_to_be_of_jitted_code_only_if_all_of_a_chunk_are() -> None:
    """The code may take over between two chunks; then the clock of its waiting begins anew."""
    plain, jitted = Computing(False, 0.5), Computing(True, 0.0)
    assert await said([plain, plain, jitted, jitted]) == [(False, 0.0), (False, 0.0), (True, 0.0)]
    assert await said([jitted, Computing(True, 0.25), Computing(False, 0.0)]) == [(True, 0.25), (False, 0.0)]


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (None, Computing(False, 0.0)),
        ({"jitted": True, "waits": None, "leased": None}, Computing(True, 0.0)),
        ({"jitted": False, "waits": ("dynamic", 1.5), "leased": None}, Computing(False, 1.5)),
        ({"jitted": False, "waits": ("pipeline", 1.5), "leased": object()}, Computing(True, 0.0)),
    ],
    ids=["none", "local", "dynamic", "pipeline"],
)
def test_a_model_is_computed_by_its_engines_code(engine: dict[str, Any] | None, expected: Computing) -> None:
    """Through stages by theirs, which this node does not replace; only what calls of experts take is waited for."""
    table: Any = EngineTable(0, lambda: 1, lambda *_: None)  # pyright: ignore[reportArgumentType]
    model: Any = SimpleNamespace(weights=object())
    if engine is not None:
        waits = engine["waits"]
        made = SimpleNamespace(**engine)
        made.waits = None if waits is None else SimpleNamespace(plan=waits[0], waited_s=waits[1])
        table._engines[id(model.weights), False] = made
    assert table.computing(model) == expected
