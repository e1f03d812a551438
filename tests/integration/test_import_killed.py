"""Real SIGKILL in the middle of an import: nothing half is visible, and the next import finishes the work."""

import random
import time
from pathlib import Path

import pytest

from checkpoints import save_random_checkpoint
from forked import nursery
from nodes import command, json_of


@pytest.mark.slow
def test_a_killed_import_leaves_a_node_that_opens_and_can_import_again(tmp_path: Path) -> None:
    """Killed at six random moments; chains verify each time, and a model that is listed is whole."""
    save_random_checkpoint(tmp_path / "hf", hidden_size=128, moe_intermediate_size=256, num_experts=40)
    data_dir = tmp_path / "data"
    assert command("model", "import", tmp_path / "hf", "--name", "first", data_dir=data_dir).returncode == 0
    chance, started = random.Random(7), time.monotonic()
    assert command("model", "import", tmp_path / "hf", "--name", "second", data_dir=data_dir).returncode == 0
    whole_seconds = time.monotonic() - started
    killed = 0
    for attempt in range(6):
        folder = tmp_path / f"data-{attempt}"
        importing = nursery().begin(["model", "import", str(tmp_path / "hf"), "--data-dir", str(folder)])
        time.sleep(whole_seconds * chance.uniform(0.5, 1.0))
        importing.kill()
        killed += importing.wait() != 0
        if (folder / "keys" / "node.key").exists():
            assert command("chain", "verify", data_dir=folder).returncode == 0
            assert command("model", "verify", "--all", data_dir=folder).returncode == 0
        done = command("model", "import", tmp_path / "hf", data_dir=folder)
        assert done.returncode == 0, done.stderr
        assert json_of("model", "list", data_dir=folder)[0]["version"] == "1.0.0"
        assert command("model", "verify", "--all", data_dir=folder).returncode == 0
        assert not list((folder / "blobs").glob(".tmp-*"))
    assert killed >= 2, "too few of the kills hit"
