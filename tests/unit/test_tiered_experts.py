"""Experts whose memory is limited: the same answers from every tier, never a byte that was not verified."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from blyan.model.expert_memory import ExpertMemory
from blyan.model.experts import ExpertCall, swiglu
from blyan.model.manifest import Manifest
from blyan.model.parts import expert_part
from blyan.model.quantization import Quantization
from blyan.model.weights import ModelWeights
from blyan.primitives import limits
from blyan.primitives.errors import BlockCorrupt
from blyan.primitives.ids import PayloadId
from blyan.storage.blob_reader import BlobReader
from blyan.storage.blob_store import BlobStore
from stored_models import SMALL, flip, store_random_model

# Rows that fit no subtile and no tile; with tiles of two subtiles, several blocks of rows to each matrix.
LARGE = replace(SMALL, hidden=520, expert_intermediate=2_051, layers=1, moe_layers=(0,), experts=2, experts_per_token=1)
KINDS = {
    "F32": ("F32", None),
    "BF16": ("BF16", None),
    "F16": ("F16", None),
    "int8": ("BF16", Quantization("int8")),
    "int4": ("BF16", Quantization("int4", 64)),
    "fp8": ("BF16", Quantization("fp8")),
    "int8 of F32": ("F32", Quantization("int8")),
    "int4 of F32": ("F32", Quantization("int4", 16)),
}
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}  # of the largest value


def no_clock() -> float:
    return 0.0


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    """An empty one; tiles are small here, so that small experts have many."""
    monkeypatch.setattr(limits, "tile_bytes", 2 * limits.subtile_bytes)
    return BlobStore(tmp_path / "blobs", writable=True)


def call_of(manifest: Manifest, tokens: int, expert: int = 0, layer: int | None = None) -> ExpertCall:
    config = manifest.config
    values = torch.randn(tokens, config.hidden, generator=torch.Generator().manual_seed(tokens))
    dtype = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}[manifest.dtype]
    return ExpertCall(config.moe_layers[0] if layer is None else layer, expert, values.to(dtype))


def plain(manifest: Manifest, store: BlobStore, call: ExpertCall) -> Tensor:
    return swiglu(ModelWeights(manifest, store).expert(call.layer, call.expert), "", call.hidden)


def of(manifest: Manifest, call: ExpertCall):
    return manifest.parts[expert_part(call.layer, call.expert)]


def budget_of(manifest: Manifest, experts: float) -> ExpertMemory:
    """Room for so many experts."""
    return ExpertMemory(int(of(manifest, call_of(manifest, 1)).length * experts), no_clock)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 5])
def test_a_streamed_expert_answers_as_the_whole_matrices_do(store: BlobStore, kind: str, tokens: int) -> None:
    """In every way of storing: within 1e-6 of the largest value in fp32, a rounding step in shorter types."""
    dtype, quantization = KINDS[kind]
    manifest = store_random_model(store, LARGE, dtype=dtype, quantization=quantization)
    call = call_of(manifest, tokens)
    expected = plain(manifest, store, call)
    weights = ModelWeights(manifest, store, ExpertMemory(0, no_clock))
    found = weights.answer(call)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    error = (found.double() - expected.double()).abs().max() / expected.double().abs().max()
    assert error <= TOLERANCE[expected.dtype]


@pytest.mark.parametrize("kind", KINDS)
def test_the_tier_of_an_expert_does_not_change_a_bit_of_its_answer(store: BlobStore, kind: str) -> None:
    """Cold, warm and hot: a request's tokens must not depend on what was asked before it."""
    dtype, quantization = KINDS[kind]
    manifest = store_random_model(store, LARGE, dtype=dtype, quantization=quantization)
    first, second = call_of(manifest, 3), call_of(manifest, 3, expert=1)
    memory = budget_of(manifest, 1.5)
    weights = ModelWeights(manifest, store, memory)
    for _ in range(9):
        weights.answer(first)  # hot, and much used
    found = {"hot": weights.answer(first)}
    cold = ModelWeights(manifest, BlobStore(store.folder), ExpertMemory(0, no_clock))
    assert torch.equal(cold.answer(first), found["hot"])
    found["cold"] = weights.answer(second)
    assert memory.tier(of(manifest, second).payload) == "cold"
    weights.answer(second)
    found["warm"] = weights.answer(second)
    assert memory.usage().calls == {"hot": 9, "warm": 1, "cold": 3}
    assert torch.equal(found["warm"], found["cold"])


def test_an_expert_larger_than_the_budget_is_streamed_every_time(store: BlobStore) -> None:
    """It is never kept, and what is read is counted."""
    manifest = store_random_model(store, LARGE)
    memory = budget_of(manifest, 0.5)
    weights = ModelWeights(manifest, store, memory)
    assert not weights.experts_all_resident
    call = call_of(manifest, 2)
    answers = [weights.answer(call) for _ in range(5)]
    assert all(torch.equal(each, answers[0]) for each in answers)
    usage = memory.usage()
    assert (usage.calls["cold"], usage.hot_bytes, usage.warm_bytes) == (5, 0, 0)
    assert usage.bytes_read >= 5 * of(manifest, call).length - limits.subtile_bytes
    assert usage.buffer_bytes <= 5 * limits.stream_buffers * limits.MIB


@pytest.mark.parametrize("kind", ["BF16", "int4 of F32"])
@pytest.mark.parametrize("budget", [0.0, 1.5], ids=["streamed", "to become hot"])
def test_calls_that_are_answered_together_read_their_expert_once(store: BlobStore, kind: str, budget: float) -> None:
    """Few rows and many: every call has the bits that it has alone, and all together count as one."""
    dtype, quantization = KINDS[kind]
    manifest = store_random_model(store, LARGE, dtype=dtype, quantization=quantization)
    calls = [call_of(manifest, tokens) for tokens in (1, 3, 20, 1)]
    alone = ModelWeights(manifest, store, ExpertMemory(0, no_clock))
    memory = budget_of(manifest, budget)
    found = ModelWeights(manifest, store, memory).answer_together(calls)
    assert all(torch.equal(each, alone.answer(call)) for each, call in zip(found, calls, strict=True))
    usage = memory.usage()
    assert (usage.calls["cold"], sum(usage.calls.values())) == (1, 1)
    lone = budget_of(manifest, budget)
    ModelWeights(manifest, store, lone).answer(calls[0])
    assert usage.bytes_read == lone.usage().bytes_read > 0


def test_a_budget_that_holds_everything_is_no_budget(store: BlobStore) -> None:
    """Then all experts are mapped as without one, and whoever computes without `answer` may do so."""
    manifest = store_random_model(store)
    memory = ExpertMemory(100 * limits.MIB, no_clock)
    weights = ModelWeights(manifest, store, memory)
    call = call_of(manifest, 2, expert=4)
    assert weights.experts_all_resident
    assert torch.equal(weights.answer(call), plain(manifest, store, call))
    assert memory.usage().calls["hot"] == 0


def test_a_second_model_counts_against_the_same_budget_until_it_is_gone(store: BlobStore) -> None:
    """One budget a node; a model that is let go of gives its room back."""
    one, other = store_random_model(store), store_random_model(store, seed=1_000)
    total = sum(block.length for name, block in one.parts.items() if ".expert." in name)
    memory = ExpertMemory(total, no_clock)
    weights = ModelWeights(one, store, memory)
    assert weights.experts_all_resident
    second = ModelWeights(other, store, memory)
    assert not weights.experts_all_resident
    call = call_of(other, 2)
    second.answer(call)
    assert memory.usage().hot_experts == 1
    del second
    gc.collect()
    assert weights.experts_all_resident
    assert memory.usage().hot_experts == 0, "what nobody can call any more is not kept"


@pytest.mark.parametrize("budget", [0.0, 1.5])
def test_a_bad_subtile_is_named_and_never_computed_with(store: BlobStore, budget: float) -> None:
    """Streamed or on its way to become hot: model, part, file and subtile; known from then on; whole once repaired."""
    manifest = store_random_model(store, LARGE)
    memory = budget_of(manifest, budget)
    weights = ModelWeights(manifest, store, memory)
    call = call_of(manifest, 2)
    block = of(manifest, call)
    last = (block.length - 1) // limits.subtile_bytes
    flip(store.path(block.payload), (last - 3) * limits.subtile_bytes + 99)
    for _ in range(2):
        with pytest.raises(BlockCorrupt, match=f"subtile {last - 3} of {last + 1} does not match") as caught:
            weights.answer(call)
        detail = caught.value.detail
        assert (detail["part"], detail["layer"], detail["expert"]) == ("layer.0.expert.0", 0, 0)
        assert (detail["bad_subtiles"], detail["file"]) == ([last - 3], str(store.path(block.payload)))
    assert store.state(block.payload)[0] == "corrupt"
    assert memory.usage().hot_bytes == 0, "nothing of it is kept"
    flip(store.path(block.payload), (last - 3) * limits.subtile_bytes + 99)
    assert torch.equal(weights.answer(call), plain(manifest, store, call))
    assert store.state(block.payload)[0] == "verified"


def test_damage_in_the_middle_of_a_stream_ends_it_there(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changes while it is read gives no wrong answer, and the next call can be answered."""
    manifest = store_random_model(store, LARGE)
    call = call_of(manifest, 2)
    block = of(manifest, call)
    path = store.path(block.payload)
    bad = block.length * 5 // 6 // limits.subtile_bytes  # up_proj: read after all of gate_proj
    read, turn = BlobReader.read, iter(range(100))

    def damaging(reader: BlobReader, into: memoryview, subtile: int) -> None:
        if next(turn) == 2:
            flip(path, bad * limits.subtile_bytes)
        read(reader, into, subtile)

    weights = ModelWeights(manifest, store, ExpertMemory(0, no_clock))
    with monkeypatch.context() as patch:
        patch.setattr(BlobReader, "read", damaging)
        with pytest.raises(BlockCorrupt, match="does not match"):
            weights.answer(call)
    flip(path, bad * limits.subtile_bytes)
    assert weights.answer(call).isfinite().all()


def test_a_file_that_is_cut_short_in_the_middle_of_a_stream_is_a_fault_and_no_signal(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapping would end the process with SIGBUS; a read says where the file ended."""
    manifest = store_random_model(store, LARGE)
    call = call_of(manifest, 2)
    path = store.path(of(manifest, call).payload)
    whole = path.read_bytes()
    end = len(whole) * 5 // 6 // limits.subtile_bytes  # in up_proj
    read, turn = BlobReader.read, iter(range(100))

    def cutting(reader: BlobReader, into: memoryview, subtile: int) -> None:
        if next(turn) == 2:
            path.chmod(0o644)
            os.truncate(path, end * limits.subtile_bytes + 5)
        read(reader, into, subtile)

    weights = ModelWeights(manifest, store, ExpertMemory(0, no_clock))
    with monkeypatch.context() as patch:
        patch.setattr(BlobReader, "read", cutting)
        with pytest.raises(BlockCorrupt, match="found the end at") as caught:
            weights.answer(call)
    assert caught.value.detail["bad_subtiles"] == [end]
    path.write_bytes(whole)
    assert torch.equal(weights.answer(call), plain(manifest, store, call))


def test_calls_of_one_expert_at_once_are_all_answered_and_it_is_read_once(store: BlobStore) -> None:
    """Who comes while it becomes hot waits instead of reading it again."""
    manifest = store_random_model(store, LARGE)
    memory = budget_of(manifest, 1.5)
    weights = ModelWeights(manifest, store, memory)
    call = call_of(manifest, 2)
    expected = plain(manifest, store, call)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: weights.answer(call), range(12)))
    assert all(torch.allclose(each, expected, rtol=1e-5, atol=1e-6) for each in found)
    assert memory.usage().bytes_read <= of(manifest, call).length


def test_calls_of_several_experts_at_once_stream_one_at_a_time(store: BlobStore) -> None:
    """However many wait, there is one ring of buffers; a budget that changes hands stays within itself."""
    manifest = store_random_model(store, LARGE)
    memory = budget_of(manifest, 1.2)
    weights = ModelWeights(manifest, store, memory)
    calls = [call_of(manifest, 1 + number % 3, expert=number % 2) for number in range(24)]
    expected = [plain(manifest, store, call) for call in calls]
    most = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, memory.usage().hot_bytes)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(weights.answer, calls))
    done.set()
    watcher.join()
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-6) for one, other in zip(found, expected, strict=True))
    assert most <= memory.budget
    assert memory.ring.buffer_bytes <= 5 * limits.stream_buffers * limits.MIB


def test_an_expert_does_not_leave_its_memory_while_a_call_computes_with_it() -> None:
    """Else the budget would be exceeded by what is still in use."""
    memory = ExpertMemory(10, no_clock)
    one, other = PayloadId("aa" * 32), PayloadId("bb" * 32)
    with memory.using(one, 10) as placement:
        assert placement.now == "hot"
        for _ in range(9):
            with memory.using(other, 10) as later:
                assert later.now != "hot"
    with memory.using(other, 10) as later:
        assert (later.now, later.cooled) == ("hot", (one,))


def test_another_budget_after_a_restart_changes_no_answer(store: BlobStore) -> None:
    """Nothing about tiers is kept on the disk."""
    manifest = store_random_model(store)
    calls = [call_of(manifest, 2, expert=number % 7, layer=1 + number % 2) for number in range(30)]
    answers = [
        [ModelWeights(manifest, BlobStore(store.folder), memory).answer(call) for call in calls]
        for memory in (budget_of(manifest, 3), budget_of(manifest, 0), budget_of(manifest, 6))
    ]
    for each in answers[1:]:
        assert all(torch.equal(one, other) for one, other in zip(answers[0], each, strict=True))


def test_an_expert_without_a_tile_index_is_streamed_all_the_same(store: BlobStore) -> None:
    """The index is computed from the bytes then, and refused if they are others."""
    manifest = store_random_model(store)
    call = call_of(manifest, 2)
    payload = of(manifest, call).payload
    expected = plain(manifest, store, call)
    store.index_path(payload).unlink()
    weights = ModelWeights(manifest, BlobStore(store.folder), ExpertMemory(0, no_clock))
    assert torch.equal(weights.answer(call), expected)
    flip(store.path(payload), 5_000)
    with pytest.raises(BlockCorrupt, match="no valid tile index"):
        weights.answer(call)


def test_verifying_a_tiered_expert_maps_nothing_and_names_what_is_wrong(store: BlobStore) -> None:
    """What the node does in the background after a start."""
    manifest = store_random_model(store)
    fresh = BlobStore(store.folder)
    weights = ModelWeights(manifest, fresh, ExpertMemory(0, no_clock))
    name = expert_part(1, 2)
    payload = manifest.parts[name].payload
    weights.verify(name)
    assert fresh.state(payload)[0] == "verified"
    flip(store.path(payload), 4_200)
    with pytest.raises(BlockCorrupt, match="subtile 0 of 1"):
        weights.verify(name)
    assert str(payload) not in Path("/proc/self/maps").read_text()
