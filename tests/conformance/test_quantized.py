"""Quantised imports against `transformers`: our stored model computes what its dequantised export computes there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from blyan.model.generate import forward_locally, generate
from blyan.model.loading import load_model
from blyan.model.manifest import read_manifest
from blyan.model.sampling import Sampling
from blyan.model.transformer import logits
from blyan.node.data_directory import open_ground
from blyan.node.export import export_model
from blyan.node.quantizing import QuantizationRequest
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import command, import_into, json_of

pytestmark = pytest.mark.oracle

FAMILIES = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe")


def ticking() -> Any:
    """A clock that goes one second with each look."""
    seconds = iter(range(1 << 30))
    return lambda: float(next(seconds))


def request(scheme: str, **options: Any) -> QuantizationRequest:
    return QuantizationRequest.of(scheme, now=ticking(), **options)


@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_quantized_family_computes_what_its_export_computes(
    tmp_path: Path, family: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log-probabilities within 1e-4 in fp32 (in bf16 within 0.01, without oneDNN), greedy tokens equal."""
    from transformers import AutoModelForCausalLM

    width = "intermediate_size" if family in ("mixtral", "olmoe") else "moe_intermediate_size"
    # transformers multiplies half-precision experts only in rows of 16 bytes
    sizes = {width: 56} if scheme == "bf16" else {}
    save_random_checkpoint(tmp_path / "hf", family=family, scale=2.0, **sizes)
    published = import_into(tmp_path / "data", tmp_path / "hf", "random", request(scheme))
    ground = open_ground(tmp_path / "data")
    ours = load_model(ground.store, published.model.manifest)
    exported = export_model(ground, "random", tmp_path / "out", lambda _done, _total: None)
    assert exported.dequantized == (scheme != "bf16")
    assert exported.rounded == ("bf16" if scheme == "bf16" else None)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    prompt = torch.randint(0, reference.config.vocab_size, (40,), generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", scheme != "bf16")
    with torch.inference_mode():
        expected = reference(prompt.unsqueeze(0)).logits[0].float().log_softmax(-1)
        hidden = forward_locally(ours.weights, ours.manifest.config, prompt.tolist(), None)
        found = logits(ours.weights, ours.manifest.config, hidden).float().log_softmax(-1)
    difference = (expected - found).abs().amax(-1)
    if scheme == "bf16":
        assert float(difference.max()) <= 0.01
        return
    assert float(difference.max()) <= 1e-4
    greedy = reference.generate(
        prompt.unsqueeze(0), max_new_tokens=24, min_new_tokens=24, do_sample=False, pad_token_id=0
    )[0, 40:].tolist()
    steps = generate(ours.weights, ours.manifest.config, prompt.tolist(), Sampling(0.0, 1.0, 0, 0), tokens_max=24)
    assert greedy == [step.token for step in steps if step is not None]


def test_the_cost_is_measured_recorded_and_in_the_order_one_expects(tmp_path: Path) -> None:
    """int8 diverges less than int4, searched int4 less than rounded; loss and speed of each stand in the manifest."""
    save_random_checkpoint(tmp_path / "hf", dtype="bfloat16", scale=2.0, hidden_size=128, moe_intermediate_size=128)
    found: dict[str, Any] = {}
    for label, asked in {
        "int8": request("int8"),
        "fp8": request("fp8"),
        "int4": request("int4"),
        "rounded": request("int4", method="round"),
        "bf16": request("bf16"),
    }.items():
        published = import_into(tmp_path / "data", tmp_path / "hf", label, asked)
        found[label] = read_manifest(open_ground(tmp_path / "data").store, published.model.manifest).quantization
    assert found["bf16"].divergence <= found["int8"].divergence < found["fp8"].divergence < found["rounded"].divergence
    assert found["int4"].divergence < 0.9 * found["rounded"].divergence
    assert all(cost.loss_before > 0 and cost.speed_before > 0 and cost.speed_after > 0 for cost in found.values())
    assert found["bf16"].loss_before == found["bf16"].loss_after  # the checkpoint was bf16
    assert {cost.tokens for cost in found.values()} == {256}
    assert found["int4"].text == "random"  # no tokenizer


def test_the_command_quantizes_says_the_cost_and_knows_the_model_again(tmp_path: Path) -> None:
    """Measured on a text where there is a tokenizer; the same import twice is the same model."""
    save_random_checkpoint(tmp_path / "hf", vocab_size=260, dtype="bfloat16")
    save_byte_tokenizer(tmp_path / "hf")
    (tmp_path / "text").write_text("a quick brown fox jumps over the lazy dog; " * 20)
    options = ("--quantize", "int4", "--group", "32", "--calibration", str(tmp_path / "text"), "--name", "q")
    first = command("model", "import", tmp_path / "hf", *options, data_dir=tmp_path / "data")
    assert first.returncode == 0, first.stderr
    assert "int4, groups of 32, search: loss" in first.stdout
    assert "tokens/s" in first.stdout
    again = json_of("model", "import", tmp_path / "hf", *options, data_dir=tmp_path / "data")
    assert (again["changed"], again["version"]) == (False, "1.0.0")
    shown = json_of("model", "show", "q", data_dir=tmp_path / "data")
    assert shown["quantization"]["scheme"] == "int4"
    assert len(shown["quantization"]["text"]) == 64
    out = json_of("model", "export", "q", tmp_path / "out", data_dir=tmp_path / "data")
    assert out["dequantized"] is True
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    other = json_of("model", "import", tmp_path / "hf", "--quantize", "int8", "--name", "q", data_dir=tmp_path / "data")
    assert (other["changed"], other["version"]) == (True, "1.1.0")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--quantize", "int3"), "invalid choice"),
        (("--quantize", "int8", "--method", "search"), "method: expected search with int4 only"),
        (("--method", "search"), "expected --quantize"),
        (("--quantize", "int4", "--calibration", "/nowhere"), "calibration text: expected a file"),
        (("--quantize", "int4", "--calibration", "SHORT"), "expected at least 4 tokens, found 1"),
    ],
)
def test_what_does_not_go_is_refused_before_anything_is_written(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    """With what was expected."""
    save_random_checkpoint(tmp_path / "hf", vocab_size=260)
    save_byte_tokenizer(tmp_path / "hf")
    (tmp_path / "short").write_text("a")
    told = [str(tmp_path / "short") if option == "SHORT" else option for option in options]
    done = command("model", "import", tmp_path / "hf", *told, data_dir=tmp_path / "data")
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert not list((tmp_path / "data").glob("blobs/??/*"))
