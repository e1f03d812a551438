"""Real SIGKILL in the middle of `create`: nothing half is visible, and the next one goes on with what was stored."""

from __future__ import annotations

import contextlib
from pathlib import Path

import httpx
import ollama
import pytest

from blyan.node.data_directory import open_ground
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import command, json_of
from running_node import RunningNode

CHECKPOINT = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.mark.slow
def test_a_node_killed_in_the_middle_of_a_create_goes_on_after_its_next_start(tmp_path: Path) -> None:
    """The uploads are still there and are used up; half the blocks are not written twice."""
    sizes = {"hidden_size": 128, "moe_intermediate_size": 256, "num_experts": 40, "vocab_size": 260}
    save_random_checkpoint(tmp_path / "hf", **sizes)
    save_byte_tokenizer(tmp_path / "hf")
    data_dir = tmp_path / "data"
    node = RunningNode(data_dir)
    node.start()
    theirs = ollama.Client(host=node.url)
    files = {name: theirs.create_blob(tmp_path / "hf" / name) for name in CHECKPOINT}
    with contextlib.suppress(httpx.HTTPError, ConnectionError):
        for status in theirs.create("made", files=files, stream=True):
            if status.completed and status.total and status.completed * 2 > status.total:
                node.kill()
    assert [model["name"] for model in json_of("model", "list", data_dir=data_dir)] == ["blyan-genesis"]
    written = {path.name: path.stat().st_mtime_ns for path in (data_dir / "blobs").glob("??/*")}
    node.start()
    try:
        theirs = ollama.Client(host=node.url)
        assert theirs.create("made", files=files).status == "success"
        answer = theirs.chat("made", messages=[{"role": "user", "content": "x"}], options={"num_predict": 3})
        assert answer.eval_count
    finally:
        node.stop()
    assert command("model", "verify", "--all", data_dir=data_dir).returncode == 0
    assert {name: (data_dir / "blobs" / name[:2] / name).stat().st_mtime_ns for name in written} == written
    ground = open_ground(data_dir)
    ground.chains.verify()
    assert [path.name for path in (data_dir / "uploads").iterdir()] == ["made"]
    assert list((data_dir / "uploads" / "made").iterdir()) == []
