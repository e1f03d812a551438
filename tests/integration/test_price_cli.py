"""`blyan price`: set without a node and through one that runs, by operators alone where there are accounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from accounts import ORIGIN
from nodes import command, install_builtin, json_of, running
from running_node import RunningNode


@pytest.mark.slow
def test_a_price_is_set_and_shown_with_and_without_a_running_node(tmp_path: Path) -> None:
    """The last one counts, the same one writes nothing, and what is wrong is said before anything is written."""
    folder = tmp_path / "data"
    install_builtin(folder)
    shown = json_of("price", "show", data_dir=folder)
    assert shown == {"prices": [], "without_price": ["blyan-genesis"]}
    first = json_of("price", "set", "blyan-genesis", "--prompt", "0.15", "--completion", "0.6", data_dir=folder)
    assert (first["prompt_per_million"], first["completion_per_million"], first["asset"]) == ("0.15", "0.6", "USD")
    wrong = command("price", "set", "blyan-genesis", "--prompt", "free", "--completion", "1", data_dir=folder)
    assert (wrong.returncode, "price of prompt tokens" in wrong.stderr) == (1, True)
    unknown = command("price", "set", "other", "--prompt", "1", "--completion", "1", data_dir=folder)
    assert unknown.returncode == 3
    with running(folder) as node:
        assert isinstance(node, RunningNode)
        same = json_of("price", "set", "blyan-genesis", "--prompt", "0.15", "--completion", "0.60", data_dir=folder)
        assert same == first
        second = json_of("price", "set", "blyan-genesis", "--prompt", "0", "--completion", "1", data_dir=folder)
        assert second["entry"] != first["entry"]
        status = command("node", "status", data_dir=folder)
        assert "free: no accounts" in status.stdout
    assert json_of("price", "show", data_dir=folder)["prices"] == [second]
    (folder / "node.toml").write_text(f'[accounts]\norigin = "{ORIGIN}"\n')
    with running(folder):
        refused = command("price", "set", "blyan-genesis", "--prompt", "1", "--completion", "1", data_dir=folder)
        assert (refused.returncode, "--key-file" in refused.stderr) == (4, True)
