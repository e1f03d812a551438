"""The built-in model: what it knows, and that `transformers` computes the same from its blocks."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from blyan.learning.genesis.checking import is_right
from blyan.learning.genesis.exam_wordings import familiar
from blyan.learning.genesis.split import held_out
from blyan.model.chat_template import TemplateRenderer
from blyan.model.generate import generate
from blyan.model.loading import LoadedModel, load_model
from blyan.model.parts import parts_of
from blyan.model.sampling import Sampling
from blyan.node import builtin
from nodes import json_of, writing

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Path]:
    folder = tmp_path_factory.mktemp("builtin")
    with writing(folder) as ground:
        return load_model(ground.store, builtin.install(ground).model.manifest), folder


def export(model: LoadedModel, data_dir: Path, folder: Path) -> None:
    """A Hugging Face directory, made by hand from the blocks with `safetensors` alone."""
    folder.mkdir()
    tensors: dict[str, torch.Tensor] = {}
    for part in parts_of(model.manifest.config):
        payload = model.manifest.parts[part.name].payload
        with safe_open(data_dir / "blobs" / payload[:2] / payload, "pt") as block:
            for name in part.shapes:
                tensors[part.checkpoint_name(name)] = block.get_tensor(name)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.manifest.config
    described: dict[str, Any] = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.dense_intermediate,
        "moe_intermediate_size": config.expert_intermediate,
        "num_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
        "norm_topk_prob": config.normalise_top_k,
        "mlp_only_layers": [layer for layer in range(config.layers) if layer not in config.moe_layers],
        "tie_word_embeddings": config.tied_embeddings,
        "rms_norm_eps": config.rms_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.context_length,
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(described))


def prompt_of(model: LoadedModel, renderer: TemplateRenderer, question: str) -> list[int]:
    """As the page asks: with what the publisher wants said first."""
    assert model.tokenizer is not None
    system = model.manifest.defaults.system
    first = [{"role": "system", "content": system}] if system else []
    text = model.tokenizer.chat_prompt(renderer, [*first, {"role": "user", "content": question}])
    return model.tokenizer.encode(text, add_special=False, tokens_max=1024)


def answer_of(model: LoadedModel, prompt: list[int]) -> list[int]:
    eos = frozenset(model.manifest.generation.eos)
    greedy = Sampling(temperature=0)
    steps = generate(model.weights, model.manifest.config, prompt, greedy, tokens_max=32, stop_tokens=eos)
    return [step.token for step in steps if step]


def test_its_architecture_is_the_one_that_was_promised(installed: tuple[LoadedModel, Path]) -> None:
    """Qwen3-MoE, about 8 M parameters, 8 experts, top-2."""
    config = installed[0].manifest.config
    assert (config.family, config.experts, config.experts_per_token) == ("qwen3_moe", 8, 2)
    assert 7_000_000 < config.parameters < 9_000_000


def test_transformers_gives_the_same_answers_from_the_same_blocks(
    installed: tuple[LoadedModel, Path], tmp_path: Path
) -> None:
    """Log-probabilities within 1e-4 and equal greedy answers, from an export made by hand."""
    from transformers import Qwen3MoeForCausalLM

    model, data_dir = installed
    export(model, data_dir, tmp_path / "hf")
    reference = Qwen3MoeForCausalLM.from_pretrained(tmp_path / "hf").eval()
    assert reference.dtype == torch.float32
    renderer = TemplateRenderer(lambda: 0)
    questions = ["What is 23 + 45?", "99+99=", "Hello!", "Who are you?", "안녕하세요", "Why is the sky blue?"]
    for question in questions:
        prompt = prompt_of(model, renderer, question)
        ours = answer_of(model, prompt)
        with torch.inference_mode():
            theirs = reference.generate(
                torch.tensor([prompt]),
                max_new_tokens=32,
                do_sample=False,
                eos_token_id=list(model.manifest.generation.eos),
                pad_token_id=0,
            )[0, len(prompt) :].tolist()
            logprobs = reference(torch.tensor([prompt])).logits[0].log_softmax(-1)
        assert ours == theirs, question
        scored = generate(
            model.weights, model.manifest.config, prompt, Sampling(temperature=0), tokens_max=0, echo=True
        )
        found = [step.logprob for step in scored if step][1:]
        expected = logprobs[:-1].gather(1, torch.tensor(prompt[1:]).unsqueeze(1)).flatten()
        assert found == pytest.approx(expected.tolist(), abs=1e-4)
    renderer.close()


def test_it_adds_two_digit_numbers_that_it_never_saw(installed: tuple[LoadedModel, Path]) -> None:
    """At least 90 % of held-out additions, in the usual wordings of both languages (a fixed sample of 200)."""
    model, _ = installed
    assert model.tokenizer is not None
    renderer = TemplateRenderer(lambda: 0)
    pairs = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    pairs = [pair for pair in pairs if held_out("addition2", f"{min(pair)}+{max(pair)}")]
    sample = pairs[:: len(pairs) // 200][:200]
    wordings = [*familiar["addition"][0], "{a} 더하기 {b}는?"]
    right = 0
    for number, (a, b) in enumerate(sample):
        prompt = prompt_of(model, renderer, wordings[number % len(wordings)].format(a=a, b=b))
        right += is_right("number", str(a + b), model.tokenizer.decode(answer_of(model, prompt)))
    renderer.close()
    assert right >= 0.9 * len(sample), f"{right} of {len(sample)}"


def test_it_answers_what_the_empty_page_suggests(installed: tuple[LoadedModel, Path]) -> None:
    """Every question that `frontend/words.js` offers, in both languages."""
    model, _ = installed
    assert model.tokenizer is not None
    words = (Path(__file__).resolve().parents[2] / "frontend/words.js").read_text(encoding="utf-8")
    suggested = [json.loads(found) for found in re.findall(r'^  "example\.\d": (\[.*\]),$', words, re.MULTILINE)]
    rules = {
        "What is 23 + 45?": ("number", "68"),
        "23 더하기 45는?": ("number", "68"),
        "Reverse the word planet": ("word", "tenalp"),
        "planet을 거꾸로 써 줘": ("word", "tenalp"),
        "Who are you?": ("named", "Blyan"),
        "너는 누구야?": ("named", "Blyan"),
    }
    assert sorted(text for texts in suggested for text in texts) == sorted(rules)
    renderer = TemplateRenderer(lambda: 0)
    for question, (rule, expected) in rules.items():
        said = model.tokenizer.decode(answer_of(model, prompt_of(model, renderer, question)))
        assert is_right(rule, expected, said), (question, said)
    renderer.close()


def test_it_is_shown_with_what_its_exam_gave(installed: tuple[LoadedModel, Path]) -> None:
    """`scripts/report_builtin.py` examined this very model."""
    _, data_dir = installed
    shown = json_of("model", "show", builtin.name, data_dir=data_dir)
    found = shown["exam"]
    assert found["share"] >= 0.95
    assert found["refusals"] >= 0.9
    assert found["false_refusals"] <= 0.05
    over_http = {f"over HTTP, {scheme}" for scheme in ("whole", "int8", "int4")}
    assert set(found["others"]) >= over_http
    (other_seed,) = set(found["others"]) - over_http
    assert re.fullmatch(r"seed \d+, computed here", other_seed)  # of the same lessons
    assert all(abs(share - found["share"]) <= 0.02 for share in found["others"].values())
    assert found["manifest"] == shown["manifest"]
