"""The files of a checkpoint are checked once, and each tensor is mapped by itself."""

import gc
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import save_file

from blyan.model import hf_shards
from blyan.model.hf_import import read_checkpoint
from blyan.model.hf_shards import Shard
from blyan.model.parts import parts_of
from blyan.primitives.errors import UnsupportedModel
from checkpoints import save_random_checkpoint


def test_every_header_is_parsed_once_however_many_tensors_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or an import would take time that grows with the square of the tensors in a shard."""
    save_random_checkpoint(tmp_path, num_experts=24, vocab_size=260)
    opened: list[Path] = []
    original = safetensors.safe_open

    def counted(path: Path, **options: Any) -> Any:
        opened.append(path)
        return original(path, **options)

    parsed: list[int] = []
    loads = json.loads

    def counted_loads(raw: bytes) -> Any:
        parsed.append(len(raw))
        return loads(raw)

    monkeypatch.setattr(safetensors, "safe_open", counted)
    monkeypatch.setattr(hf_shards.json, "loads", counted_loads)
    checkpoint = read_checkpoint(tmp_path)
    parsed_before = len(parsed)
    read = [checkpoint.tensor(part, name) for part in parts_of(checkpoint.config) for name in part.shapes]
    assert len(read) > 200
    assert opened == [tmp_path / "model.safetensors"]
    assert len(parsed) == parsed_before


def test_tensors_are_those_of_safetensors_at_any_offset(tmp_path: Path) -> None:
    """From several threads at once, and from a header of an odd length as other writers make them."""
    torch.manual_seed(0)
    tensors = {f"t{number}": torch.randn(3, 5 + number).bfloat16() for number in range(40)}
    save_file(tensors, tmp_path / "even.safetensors")
    raw = (tmp_path / "even.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    odd = raw[8 : 8 + length].rstrip() + b" " * (1 + len(raw[8 : 8 + length].rstrip()) % 2)
    (tmp_path / "odd.safetensors").write_bytes(len(odd).to_bytes(8, "little") + odd + raw[8 + length :])
    for name in ("even.safetensors", "odd.safetensors"):
        shard = Shard.opened(tmp_path / name)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(shard.tensor, [*tensors] * 5))
        assert all(torch.equal(tensor, tensors[key]) for key, tensor in zip([*tensors] * 5, found, strict=True))


def test_what_is_not_held_is_not_mapped(tmp_path: Path) -> None:
    """Neither the file nor a descriptor stays open."""
    save_file({f"t{number}": torch.randn(64, 64) for number in range(50)}, tmp_path / "x.safetensors")
    shard = Shard.opened(tmp_path / "x.safetensors")
    held = shard.tensor("t1")
    gc.collect()
    before = len([*Path("/proc/self/fd").iterdir()])
    for name in shard.places:
        shard.tensor(name)
    del held
    gc.collect()
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    assert str(tmp_path / "x.safetensors") not in Path("/proc/self/maps").read_text()


def test_a_shard_that_changed_since_it_was_opened_is_refused(tmp_path: Path) -> None:
    """Its header may lie by now."""
    save_file({"t": torch.zeros(8)}, tmp_path / "x.safetensors")
    shard = Shard.opened(tmp_path / "x.safetensors")
    save_file({"t": torch.ones(9)}, tmp_path / "x.safetensors")
    with pytest.raises(UnsupportedModel, match="found it changed"):
        shard.tensor("t")
    (tmp_path / "x.safetensors").unlink()
    with pytest.raises(UnsupportedModel, match="expected a safetensors file"):
        shard.tensor("t")
