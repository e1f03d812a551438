"""`blyan model list|show|plan|verify` on real imports: what a person wants to know, and the same as JSON."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import command, json_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    save_random_checkpoint(folder / "hf", vocab_size=260, dtype="bfloat16")
    save_byte_tokenizer(folder / "hf", template=None)
    (folder / "hf" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    for name, more in (("plain", ()), ("small", ("--quantize", "int4"))):
        done = command("model", "import", folder / "hf", "--name", name, *more, data_dir=folder / "data")
        assert done.returncode == 0, done.stderr
    return folder / "data"


@pytest.fixture
def data_dir(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


def expert_file(data_dir: Path, name: str = "plain") -> Path:
    """The file of some expert's block."""
    entry = json_of("chain", "find", "--model", name, "--layer", 2, "--expert", 3, data_dir=data_dir)[0]["entry"]
    payload = entry["payload"]["id"]
    return data_dir / "blobs" / payload[:2] / payload


def test_show_says_what_one_wants_to_know(data_dir: Path) -> None:
    """Family, parameters, bytes of each kind, licence, source, what is here; the bytes add up."""
    shown = json_of("model", "show", "plain", data_dir=data_dir)
    listed = {each["name"]: each for each in json_of("model", "list", data_dir=data_dir)}
    assert shown["family"] == "qwen3_moe"
    assert shown["license"] == "apache-2.0"
    assert shown["source"] == "huggingface:hf"
    assert shown["quantization"] is None
    assert shown["missing"] == []
    parts = shown["bytes"]
    assert parts["embeddings"] + parts["trunk"] + parts["experts"] == shown["memory"]["weights"]
    assert shown["memory"]["weights"] + parts["tokenizer"] == listed["plain"]["bytes"]
    assert parts["active"] < shown["memory"]["weights"]
    assert 0 < shown["active_parameters"] < shown["parameters"]
    small = json_of("model", "show", "small", data_dir=data_dir)
    assert small["quantization"]["scheme"] == listed["small"]["quantization"] == "int4"
    assert small["bytes"]["experts"] < 0.6 * parts["experts"]


def test_show_draws_the_layers_and_experts(data_dir: Path) -> None:
    """One row a layer, one cell an expert; a dense layer says so, and a block that is gone is a hole."""
    text = command("model", "show", "plain", data_dir=data_dir).stdout
    shown = json_of("model", "show", "plain", data_dir=data_dir)
    grid = text.partition("layers × experts")[2].splitlines()[1:]
    assert len(grid) == shown["layers"]
    assert sum(line.endswith("█" * shown["experts"]) for line in grid) == shown["moe_layers"]
    assert sum("(dense)" in line for line in grid) == shown["layers"] - shown["moe_layers"]
    expert_file(data_dir).unlink()
    text = command("model", "show", "plain", data_dir=data_dir).stdout
    assert text.partition("layers × experts")[2].splitlines()[3].split()[1] == "███·" + "█" * (shown["experts"] - 4)
    assert json_of("model", "show", "plain", data_dir=data_dir)["missing"] == ["layer.2.expert.3"]


def test_verified_is_said_until_a_file_changes(data_dir: Path) -> None:
    """By time; a model that was never hashed, or whose file was touched since, is not called verified."""
    assert json_of("model", "show", "plain", data_dir=data_dir)["verified"] is None
    assert "or never" in command("model", "show", "plain", data_dir=data_dir).stdout
    os.utime(expert_file(data_dir))  # ctime is in whole seconds compared: see that the copy is old enough
    verified = command("model", "verify", "plain", data_dir=data_dir)
    assert verified.returncode == 0
    path = expert_file(data_dir)
    later = int(path.stat().st_ctime) + 5
    for name in (data_dir / "verified").iterdir():
        name.write_text(str(later))  # as if it had run some seconds later: this test does not wait
    assert json_of("model", "show", "plain", data_dir=data_dir)["verified"] == later
    assert "UTC" in command("model", "list", data_dir=data_dir).stdout
    os.utime(path, (later + 9, later + 9))
    assert json_of("model", "show", "plain", data_dir=data_dir)["verified"] is None


def test_a_model_that_does_not_verify_is_not_called_verified(data_dir: Path) -> None:
    """Also where it was before."""
    (data_dir / "verified").mkdir()
    manifest = json_of("model", "show", "plain", data_dir=data_dir)["manifest"]
    (data_dir / "verified" / manifest).write_text("99999999999")
    assert json_of("model", "show", "plain", data_dir=data_dir)["verified"] == 99999999999
    path = expert_file(data_dir)
    raw = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert command("model", "verify", "plain", data_dir=data_dir).returncode == 7
    assert json_of("model", "show", "plain", data_dir=data_dir)["verified"] is None


def test_plan_says_what_fits(data_dir: Path) -> None:
    """Keys and values by length, beside what the machine has."""
    planned = json_of("model", "plan", "plain", data_dir=data_dir)
    assert planned["plan"] == "local"
    assert planned["available_bytes"] <= planned["memory_bytes"]
    per_token = planned["cache_bytes_per_token"]
    assert all(each["bytes"] == planned["weights_bytes"] + per_token * each["tokens"] for each in planned["contexts"])
    assert "plan local: everything here" in command("model", "plan", "plain", data_dir=data_dir).stdout


@pytest.mark.parametrize("verb", ["show", "plan"])
def test_an_unknown_model_is_not_found(data_dir: Path, verb: str) -> None:
    """With the names of those that are."""
    done = command("model", verb, "nobody", data_dir=data_dir)
    assert done.returncode == 3
    assert "plain, small" in done.stderr


@pytest.mark.parametrize("verb", ["show", "plan"])
def test_the_only_model_needs_no_name(data_dir: Path, tmp_path: Path, verb: str) -> None:
    done = command("model", verb, data_dir=data_dir)
    assert done.returncode == 2
    assert "expected one of plain, small" in done.stderr
    assert command("init", data_dir=tmp_path).returncode == 0
    assert json_of("model", verb, data_dir=tmp_path)["name"] == "blyan-genesis"


def test_a_read_only_directory_can_be_shown_and_verified(data_dir: Path) -> None:
    """Nothing has to be written for it."""
    (data_dir / "verified").write_text("in the way")
    assert command("model", "verify", "plain", data_dir=data_dir).returncode == 0
    assert command("model", "show", "plain", data_dir=data_dir).returncode == 0


def test_an_export_says_that_weights_were_rounded_at_import(tmp_path: Path) -> None:
    """A checkpoint of F32 that was imported as bf16 does not come back bit for bit."""
    save_random_checkpoint(tmp_path / "hf", vocab_size=260)
    done = command("model", "import", tmp_path / "hf", "--name", "m", "--quantize", "bf16", data_dir=tmp_path / "data")
    assert done.returncode == 0, done.stderr
    told = command("model", "export", "m", tmp_path / "one", data_dir=tmp_path / "data").stdout
    assert "rounded to bf16 at import" in told
    assert "as imported" not in told
    exported = json_of("model", "export", "m", tmp_path / "two", data_dir=tmp_path / "data")
    assert (exported["dequantized"], exported["rounded"]) == (False, "bf16")
