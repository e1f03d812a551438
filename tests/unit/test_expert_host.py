"""What a node computes for its peers: exactly what was asked, within its time, and no more of one than is its share."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from blyan.inference import expert_host
from blyan.inference.expert_host import ExpertHost, HostedModel, bytes_of
from blyan.inference.steppers import PreparedMixture
from blyan.model.experts import ExpertCall
from blyan.model.weights import ModelWeights
from blyan.network.link import Link
from blyan.primitives import limits
from blyan.primitives.errors import BlockCorrupt, Busy, InvalidInput, MalformedMessage, NotHeld
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.wire.expert_call import ExpertBatch, packed, read_answer, unpacked
from blyan.wire.framing import Message, WireTensor
from random_models import RandomWeights, small_config

MODEL = PayloadId("ab" * 32)
CONFIG = small_config()


class Somebody:
    """A fake of a link: who asks."""

    def __init__(self, node: str) -> None:
        self.node = PublicKey(node * 64)

    @property
    def peer(self) -> Somebody:
        return self


def link(node: str = "a") -> Link:
    return cast(Link, Somebody(node))


def call(
    experts: tuple[int, ...] = (0, 4), rows: tuple[int, ...] = (2, 1), **changes: Any
) -> tuple[ExpertBatch, Message]:
    fields: dict[str, Any] = {"model": MODEL, "layer": 1, "width": CONFIG.hidden, "activations": "exact"}
    fields |= {"milliseconds": 10_000, "nonce": "00" * 12, **changes}
    batch = ExpertBatch(experts=experts, rows=rows, dtype="F32", **fields)
    hidden = torch.randn(batch.count, batch.width, generator=torch.Generator().manual_seed(1))
    return batch, Message(batch.fields(), (packed(batch, bytes_of(hidden)),))


def host_of(weights: Any, *, now: Any = lambda: 0.0, rows_per_minute: int = 0) -> ExpertHost:
    model = HostedModel(CONFIG, cast(ModelWeights, weights), lambda _layer, expert: expert != 6)
    return ExpertHost(lambda manifest: model if manifest == MODEL else None, now, rows_per_minute)


async def test_each_expert_computes_its_own_rows_bit_for_bit() -> None:
    weights = RandomWeights(CONFIG)
    batch, message = call()
    answer = await host_of(weights).answer(link(), message)
    hidden = torch.randn(3, CONFIG.hidden, generator=torch.Generator().manual_seed(1))
    expected = torch.cat([weights.answer(ExpertCall(1, 0, hidden[:2])), weights.answer(ExpertCall(1, 4, hidden[2:]))])
    found = torch.frombuffer(bytearray(read_answer(batch, message.tensors[0], answer)), dtype=torch.float32)
    assert torch.equal(expected.reshape(-1), found)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"model": PayloadId("cd" * 32)}, NotHeld),
        ({"experts": (0, 6)}, NotHeld),
        ({"experts": (0, 7)}, InvalidInput),
        ({"layer": 0}, InvalidInput),
        ({"width": CONFIG.hidden + 1}, InvalidInput),
    ],
    ids=["another model", "not held", "no such expert", "no MoE layer", "another width"],
)
async def test_what_is_not_here_is_refused_by_name(changes: dict[str, Any], fault: type[Exception]) -> None:
    _, message = call(**changes)
    with pytest.raises(fault) as refused:
        await host_of(RandomWeights(CONFIG)).answer(link(), message)
    if changes.get("experts") == (0, 6):
        assert cast(NotHeld, refused.value).detail["experts"] == [6]


async def test_a_damaged_expert_is_not_held() -> None:
    class Damaged(RandomWeights):
        def answer(self, call: ExpertCall) -> Tensor:
            raise BlockCorrupt("block: expected its digest, found another")

    _, message = call()
    with pytest.raises(NotHeld, match="damaged"):
        await host_of(Damaged(CONFIG)).answer(link(), message)


class Slow(RandomWeights):
    """Computes when it is let."""

    def __init__(self) -> None:
        super().__init__(CONFIG)
        self.let = threading.Event()

    def answer(self, call: ExpertCall) -> Tensor:
        self.let.wait(10)
        return super().answer(call)


async def test_one_node_cannot_fill_the_queue_for_others() -> None:
    weights = Slow()
    host = host_of(weights)
    waiting = [asyncio.create_task(host.answer(link("a"), call()[1])) for _ in range(limits.expert_queue_peer_max)]
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="of one node"):
        await host.answer(link("a"), call()[1])
    other = asyncio.create_task(host.answer(link("b"), call()[1]))
    await asyncio.sleep(0)
    weights.let.set()
    assert len(await asyncio.gather(*waiting, other)) == limits.expert_queue_peer_max + 1
    assert host.queue == 0
    host.close()


async def test_a_call_whose_time_is_over_is_not_computed() -> None:
    moments = iter([0.0, 0.0, 99.0, 99.0])
    host = host_of(RandomWeights(CONFIG), now=lambda: next(moments))
    with pytest.raises(Busy, match="found it over"):
        await host.answer(link(), call()[1])


async def test_a_node_that_asked_for_its_share_waits_for_the_next_minute() -> None:
    clock = [0.0]
    host = host_of(RandomWeights(CONFIG), now=lambda: clock[0], rows_per_minute=4)
    await host.answer(link("a"), call()[1])
    with pytest.raises(Busy, match="4 rows a minute"):
        await host.answer(link("a"), call()[1])
    await host.answer(link("b"), call()[1])
    clock[0] = 31.0
    await host.answer(link("a"), call()[1])


async def test_a_call_that_was_called_off_while_it_waited_is_not_computed() -> None:
    """It counts as waiting until its turn comes, so that nobody fills the queue with such."""
    weights = Slow()
    host = host_of(weights)
    first, second = (asyncio.create_task(host.answer(link(), call()[1])) for _ in range(2))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert host.queue == 2
    weights.let.set()
    await first
    async with asyncio.timeout(5):
        while host.queue:  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.01)
    assert (host.counters.messages, host.counters.called_off) == (1, 1)
    host.close()


class Quick:
    """A fake of prepared jitted code: gives rows back, and notes in which thread it did."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    @property
    def ready(self) -> Quick:
        return self

    def get(self, _layer: int, _expert: int) -> Quick:
        return self

    def has(self, _layer: int, expert: int) -> bool:
        return expert != 5

    def answer(self, _layer: int, _experts: Any, _rows: Any, hidden: Tensor) -> Tensor:
        self.threads.append(threading.get_ident())
        return hidden


async def test_what_takes_no_longer_than_a_change_of_thread_is_computed_in_the_loop() -> None:
    """Once it is known how long a row takes, for experts that were computed with before; many rows are not."""
    quick, here = Quick(), threading.get_ident()
    held = HostedModel(CONFIG, cast(ModelWeights, None), lambda _layer, _expert: True, cast(PreparedMixture, quick))
    ticks = iter(range(1_000_000))
    host = ExpertHost(lambda _manifest: held, lambda: next(ticks) * 1e-5)
    for experts, rows in (((0, 4), (2, 1)), ((0, 4), (2, 1)), ((0, 5), (2, 1)), ((0,), (200,))):
        batch, message = call(experts, rows)
        answer = await host.answer(link(), message)
        assert bytes(read_answer(batch, message.tensors[0], answer)) == bytes(message.tensors[0].data)
    assert [thread == here for thread in quick.threads] == [False, True, False, False]
    host.close()


async def test_many_quick_calls_in_one_turn_of_the_loop_wait_for_the_thread_whose_queue_is_limited() -> None:
    """In the next turn the loop computes again."""
    quick, here = Quick(), threading.get_ident()
    held = HostedModel(CONFIG, cast(ModelWeights, None), lambda _layer, _expert: True, cast(PreparedMixture, quick))
    ticks = iter(range(1_000_000))
    host = ExpertHost(lambda _manifest: held, lambda: next(ticks) * 1e-5)
    _, message = call()
    await host.answer(link(), message)  # from now on it is known how long a row takes
    quick.threads.clear()
    begun: list[Any] = []
    refused = 0
    for _ in range(400):
        try:
            begun.append(host.answer.begin(link(), message))
        except Busy:
            refused += 1
    at_once = [each for each in begun if isinstance(each, Message)]
    assert 0 < len(at_once) < 100
    assert len(begun) - len(at_once) == limits.expert_queue_peer_max
    assert refused == 400 - len(begun)
    await asyncio.gather(*(each() for each in begun if not isinstance(each, Message)))
    assert isinstance(host.answer.begin(link(), message), Message)
    assert quick.threads[-1] == here
    host.close()


async def test_int8_rows_of_who_is_refused_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor those that wait, before their turn."""
    unpacking: list[int] = []

    def noted(*given: Any) -> Any:
        unpacking.append(threading.get_ident())
        return unpacked(*given)

    monkeypatch.setattr(expert_host, "unpacked", noted)
    host = host_of(RandomWeights(CONFIG), rows_per_minute=3)
    _, message = call(activations="int8")
    assert message.tensors[0].dtype == "U8"
    await host.answer(link(), message)
    with pytest.raises(Busy, match="3 rows a minute"):
        await host.answer(link(), message)
    assert len(unpacking) == 1
    assert threading.get_ident() not in unpacking
    odd = Message(message.fields, (WireTensor("hidden", "U8", (5,), b"12345"),))
    with pytest.raises(MalformedMessage, match="int8 rows"):
        await host.answer(link("b"), odd)
    host.close()
