"""A node whose experts do not fit the memory they may take: the same answers, and it says what it does."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as prometheus

from blyan.api.state import node_key
from blyan.node.quantizing import QuantizationRequest
from blyan.primitives import limits
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import command, import_into, running, serving

ASK: dict[str, Any] = {"model": "random", "prompt": "tell me of tiers", "max_tokens": 24, "ignore_eos": True}


@pytest.fixture(scope="module", params=["fp32", "int4"])
def data_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    save_random_checkpoint(folder / "hf", vocab_size=260)
    save_byte_tokenizer(folder / "hf")
    asked = QuantizationRequest.of("int4", now=monotonic, group=16) if request.param == "int4" else None
    import_into(folder / "data", folder / "hf", "random", asked)
    return folder / "data"


async def answers(data_dir: Path, **inference: object) -> tuple[list[list[str]], dict[str, Any]]:
    """Tokens of a greedy, a seeded and an echoed answer; what the node says of its experts afterwards."""
    found: list[list[str]] = []
    async with serving(data_dir, inference=inference) as client:
        for more in ({"temperature": 0}, {"temperature": 1.1, "seed": 7}, {"echo": True, "max_tokens": 1}):
            response = await client.post("/v1/completions", json=ASK | {"logprobs": 1} | more)
            assert response.status == 200, await response.text()
            found.append((await response.json())["choices"][0]["logprobs"]["tokens"])
        grid = await (await client.get("/network/experts", params={"model": "random"})).json()
    return found, grid


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
async def test_a_budget_smaller_than_the_experts_changes_no_token(data_dir: Path, share: float) -> None:
    """Greedy, seeded and echoed, over HTTP, with nothing, some and nearly all in memory."""
    expected, without = await answers(data_dir)
    experts = {block["payload"]: block["bytes"] for block in without["blocks"] if block["expert"] is not None}
    assert without["expert_memory"] is None
    assert {block["tier"] for block in without["blocks"]} == {None}
    budget = int(share * sum(experts.values()))
    found, grid = await answers(data_dir, expert_memory=str(budget))
    assert found == expected
    memory = grid["expert_memory"]
    tiers = [block["tier"] for block in grid["blocks"] if block["expert"] is not None]
    assert tiers.count("hot") == memory["hot"]["experts"]
    assert (memory["hot"]["calls"] > 0) == (share > 0)
    assert memory["cold"]["calls"] > 0
    assert sum(b["bytes"] for b in grid["blocks"] if b["tier"] == "hot") == memory["hot"]["bytes"] <= budget
    assert {block["tier"] for block in grid["blocks"] if block["expert"] is None} == {None}


async def test_a_budget_that_holds_all_experts_leaves_everything_mapped(data_dir: Path) -> None:
    """And says so by saying nothing."""
    expected, _ = await answers(data_dir)
    found, grid = await answers(data_dir, expert_memory="1GiB")
    assert found == expected
    assert grid["expert_memory"] is None


async def test_the_counters_of_tiers_are_metrics(data_dir: Path) -> None:
    """By tier; nothing of them without a budget."""
    for budget in ("40KiB", ""):
        async with serving(data_dir, inference={"expert_memory": budget}) as client:
            assert (await client.post("/v1/completions", json=ASK)).status == 200
            text = client.app[node_key].metrics.text("")[0].decode()
        values = {
            (sample.name, sample.labels.get("tier")): sample.value
            for family in prometheus(text)
            for sample in family.samples
            if sample.name.startswith("blyan_expert_")
        }
        if not budget:
            assert values == {}
            continue
        assert values["blyan_expert_memory_budget_bytes", None] == 40 * limits.KIB
        assert values["blyan_expert_calls_total", "cold"] > 0
        assert values["blyan_expert_read_bytes_total", None] > 0
        assert values["blyan_expert_memory_bytes", "hot"] <= 40 * limits.KIB


async def test_all_experts_are_verified_after_the_start_though_they_do_not_fit(data_dir: Path) -> None:
    """The background pass reads them in a bounded memory (tests/unit/test_tiered_experts.py: it maps nothing)."""
    async with serving(data_dir, inference={"expert_memory": "0"}) as client:
        for _ in range(500):
            grid = await (await client.get("/network/experts", params={"model": "random"})).json()
            if {block["state"] for block in grid["blocks"]} == {"verified"}:
                break
            await asyncio.sleep(0.02)
    assert {block["state"] for block in grid["blocks"]} == {"verified"}


@pytest.mark.slow
@pytest.mark.parametrize("data_dir", ["fp32"], indirect=True)
def test_node_status_says_what_the_memory_for_experts_is_used_for(data_dir: Path) -> None:
    """As an operator asks."""
    (data_dir / "node.toml").write_text('[inference]\nexpert_memory = "100KiB"\n')
    try:
        with running(data_dir) as node:
            asked = command("chat", "hello", "--max-tokens", "4", "--model", "random", data_dir=data_dir)
            assert asked.returncode == 0, asked.stderr
            said = command("node", "status", data_dir=data_dir)
            value = json.loads(command("node", "status", "--json", data_dir=data_dir).stdout)
        assert re.search(
            r"experts in memory +[\d.]+ KiB of 100\.0 KiB in \d+ hot experts, which answered \d+%", said.stdout
        )
        assert value["expert_memory"]["budget"] == 100 * limits.KIB
        assert node.url
    finally:
        (data_dir / "node.toml").unlink()


MEASURE = """
import sys
from pathlib import Path

import torch

from blyan.model.expert_memory import ExpertMemory
from blyan.model.expert_rows import ExpertLayout
from blyan.primitives.ids import PayloadId
from blyan.storage.blob_store import BlobStore
from blyan.storage.row_stream import Ring
from blyan.storage.tensor_block import parse_layout


def peak() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


torch.set_num_threads(1)
store, payload = BlobStore(Path(sys.argv[1])), PayloadId(sys.argv[2])
ring = Ring(lambda: 0.0)


def answer(hidden: torch.Tensor) -> torch.Tensor:
    with store.reading(payload) as reader:
        head = memoryview(bytearray(262_144))
        reader.read(head, 0)
        layout = ExpertLayout(parse_layout(head, reader.length))
        with ring.stream(reader, layout.groups, keep_cached=False) as blocks:
            [output] = layout.answer_streamed(blocks, [hidden])
            return output


hidden = torch.ones(4, int(sys.argv[3]), dtype=getattr(torch, sys.argv[4])) / 64
torch.nn.functional.linear(hidden, hidden)  # the libraries' own memory
Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
before = peak()
found = answer(hidden)
assert store.state(payload)[0] == "verified"
print(peak() - before, found.float().abs().max().item())
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["BF16", "int4"])
def test_an_expert_of_hundreds_of_megabytes_takes_no_more_memory_than_a_small_one(tmp_path: Path, kind: str) -> None:
    """Measured as the high-water mark of a process of its own: below 64 MiB, for 400 and 150 MB on the disk."""
    import torch

    from blyan.storage import tensor_block
    from blyan.storage.blob_store import BlobStore

    hidden, inner = (4_096, 16_384) if kind == "BF16" else (4_096, 21_504)
    rows = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    tensors = {}
    for name, (out, width) in rows.items():
        if kind == "BF16":
            tensors[f"{name}.weight"] = torch.randn(1, width).bfloat16().expand(out, width)
        else:
            tensors[f"{name}.weight"] = torch.randint(0, 255, (1, width // 2), dtype=torch.uint8).expand(
                out, width // 2
            )
            tensors[f"{name}.weight.scale"] = torch.full((1, width // 64), 0.01).expand(out, width // 64)
    store = BlobStore(tmp_path / "blobs", writable=True)
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    stored = store.put(tensor_block.encode_lazily(layout, tensors.__getitem__))
    assert stored.length > (400_000_000 if kind == "BF16" else 140_000_000)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(store.folder), stored.payload, str(hidden), "bfloat16"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    grown, largest = done.stdout.split()
    assert float(largest) > 0
    assert int(grown) < 64 * limits.MIB
