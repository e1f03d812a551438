"""The written directory is an ordinary Hugging Face one."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from blyan.learning.genesis.settings import read_settings
from blyan.learning.hf_directory import write_hf_directory
from blyan.learning.pretrain import initial_parameters
from blyan.learning.tokenizer_training import render, train_tokenizer
from blyan.model.config import ModelConfig
from blyan.model.training import FlatWeights, run_forward
from blyan.model.transformer import logits
from learned import ROOT, texts_of


def config_of(vocabulary: int) -> ModelConfig:
    return read_settings(ROOT / "scripts/genesis.toml").config(vocabulary)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("builtin")
    text = train_tokenizer(texts_of(300), vocab_size=400)
    config = config_of(Tokenizer.from_str(text).get_vocab_size())
    generator = torch.Generator().manual_seed(1)
    # The start of training writes nothing into the residual stream; a comparison needs every matrix to matter.
    parameters = {
        name: torch.randn(tensor.shape, generator=generator) * 0.1
        for name, tensor in initial_parameters(config, 1).items()
    }
    write_hf_directory(folder, config, text, parameters)
    return folder


def test_the_architecture_is_the_agreed_one(written: Path):
    config = json.loads((written / "config.json").read_bytes())
    assert config["architectures"] == ["Qwen3MoeForCausalLM"]
    assert (config["num_experts"], config["num_experts_per_tok"], config["norm_topk_prob"]) == (8, 2, True)
    assert 7e6 < config_of(1280).parameters < 7.5e6


def test_weights_carry_hugging_face_names_and_no_second_embedding(written: Path):
    tensors = load_file(written / "model.safetensors")
    assert "lm_head.weight" not in tensors
    assert tuple(tensors["model.layers.3.mlp.experts.7.gate_proj.weight"].shape) == (256, 256)
    assert tuple(tensors["model.layers.0.self_attn.q_norm.weight"].shape) == (32,)


@pytest.mark.oracle
def test_transformers_loads_it_and_computes_the_same(written: Path):
    transformers = pytest.importorskip("transformers")
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(written, output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(written)
    messages = [{"role": "user", "content": "What is 23 + 45?"}]
    text = render(messages, add_generation_prompt=True)
    assert text == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = Tokenizer.from_file(str(written / "tokenizer.json")).encode(text).ids
    assert ids == tokenizer(text)["input_ids"]
    parameters, config = load_file(written / "model.safetensors"), config_of(400)
    with torch.no_grad():
        ours = logits(FlatWeights(parameters), config, run_forward(parameters, config, torch.tensor([ids])))
        theirs = model.eval()(torch.tensor([ids])).logits
    assert torch.allclose(theirs, ours, atol=1e-4)
