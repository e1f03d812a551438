"""Import looks at everything before it writes, and refuses what it would compute wrongly."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from blyan.model.hf_card import front_matter, read_license
from blyan.model.hf_import import HfCheckpoint, read_checkpoint
from blyan.model.parts import Part, parts_of
from blyan.primitives.errors import InvalidInput, NotFound, UnsupportedModel
from checkpoints import save_byte_tokenizer, save_random_checkpoint

pytestmark = pytest.mark.timeout(60)  # the first test of a process that asks for transformers waits for its import


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "original"
    save_random_checkpoint(folder, vocab_size=260)
    save_byte_tokenizer(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    for path in original.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def tensors_of(checkpoint: HfCheckpoint, part: Part) -> dict[str, torch.Tensor]:
    return {name: checkpoint.tensor(part, name) for name in part.shapes}


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors") | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")


def test_every_tensor_of_the_checkpoint_is_in_exactly_one_part(folder: Path) -> None:
    """Nothing is lost and nothing is stored twice."""
    checkpoint = read_checkpoint(folder)
    tensors = load_file(folder / "model.safetensors")
    seen: dict[str, torch.Tensor] = {}
    for part in parts_of(checkpoint.config):
        for name, tensor in tensors_of(checkpoint, part).items():
            assert part.checkpoint_name(name) not in seen
            seen[part.checkpoint_name(name)] = tensor
    assert seen.keys() == tensors.keys()
    assert all(torch.equal(seen[name], tensors[name]) for name in tensors)


def test_shards_are_read_through_their_index(folder: Path) -> None:
    """A checkpoint in two files is the same checkpoint."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[: len(names) // 2], "model-2.safetensors": names[len(names) // 2 :]}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in shards.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()
    checkpoint = read_checkpoint(folder)
    assert sum(len(tensors_of(checkpoint, part)) for part in parts_of(checkpoint.config)) == len(tensors)


def test_an_index_beside_the_whole_model_is_not_followed(folder: Path) -> None:
    """`transformers` loads model.safetensors too."""
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, folder / "model-1.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "model-1.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_checkpoint(folder).files == {"model.safetensors"}


def test_generation_defaults_and_licence_are_honoured(folder: Path) -> None:
    """From generation_config.json and the model card."""
    settings = {"eos_token_id": [256, 3], "temperature": 0.6, "top_p": 0.95, "top_k": 20, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    checkpoint = read_checkpoint(folder)
    defaults = checkpoint.generation
    assert (defaults.eos, defaults.temperature, defaults.top_p, defaults.top_k) == ((256, 3), 0.6, 0.95, 20)
    assert checkpoint.license.identifier == "apache-2.0"


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ('---\nlicense: "apache-2.0"\n---\n', "apache-2.0"),
        ("---\nlicense: 'mit'  # as published\n---\n", "mit"),
        ("---\ntags: [x]\nlicense:\n- mit\n- gpl-3.0\n---\n", "mit"),
        ("---\nlicense:\n  - 'mit'\n---\n", "mit"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "mit"),
        ('---\nlicense: [ "mit" ]\n---\n', "mit"),
        ("---\r\nlicense: mit\r\n---\r\n", "mit"),
        ("---\nlicense: other\nlicense_name: qwen\n---", "LicenseRef-qwen"),
        ("---\nlicense: other\n---", "other"),
        ("---\nlicense_name: 'Tongyi  Qianwen (v1)'\nlicense: other\n---", "LicenseRef-Tongyi-Qianwen-v1"),
        ("---\nlicense: mit\nlicense_name: qwen\n---", "mit"),
        ("---\nlicense: other\nlicense_name: '?'\n---", "other"),
        ("---\nlicense:\n---\n", ""),
        ("---\nlicense:\nlanguage: en\n---\nlicense: mit\n", ""),
        ("---\nlicense: see, below\n---\n", ""),
        ('---\nlicense: "mit\n---\n', ""),
        ("# Usage\n\nlicense: mit\n", ""),
        ("\n---\nlicense: mit\n---\n", ""),
        ("---\nlicense: mit\n", ""),
        ("", ""),
    ],
)
def test_the_licence_is_what_the_front_matter_of_the_card_says(folder: Path, card: str, expected: str) -> None:
    """Quoted, plain or the first of a list; nothing of what stands outside."""
    (folder / "README.md").write_bytes(card.encode())
    assert read_license(folder).identifier == expected


def test_the_link_of_a_licence_is_kept_and_written_again(folder: Path) -> None:
    """With its name, as a card says them."""
    link = "https://example.org/LICENSE%20A"
    said = f"---\nlicense: other\nlicense_name: tongyi-qianwen\nlicense_link: {link}\n---\n"
    (folder / "README.md").write_text(said)
    found = read_license(folder)
    assert (found.identifier, found.link) == ("LicenseRef-tongyi-qianwen", link)
    assert front_matter(found.identifier, found.link) == said
    (folder / "README.md").write_text(said.replace(link, "two words"))
    assert read_license(folder).link == ""
    assert front_matter("mit", "") == "---\nlicense: mit\n---\n"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "llama"),
        ("hidden_act", "gelu"),
        ("use_sliding_window", "yes"),
        ("layer_types", ["sliding_attention"] * 4),
        ("rope_scaling", {"rope_type": "spiral", "factor": 4.0}),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0, "spin": 2}),
        ("rope_scaling", {"rope_type": "default", "spin": 77.0}),
        ("rope_scaling", [1]),
        ("qkv_bias", True),
        ("use_qk_norm", False),
        ("shared_expert_intermediate_size", 64),
        ("rope_parameters", {"rope_type": ["yarn"]}),
        ("partial_rotary_factor", 0.5),
        ("quantization_config", {"quant_method": "gptq"}),
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", "4"),
        ("num_experts_per_tok", 99),
        ("rms_norm_eps", "small"),
        ("mlp_only_layers", "all"),
        ("decoder_sparse_step", 0),
        ("attention_multiplier", 2.0),
        ("eos_token_id", 5000),
        ("max_position_embeddings", 10**400),
        ("max_position_embeddings", 0),
        ("vocab_size", -(10**400)),
    ],
)
def test_fields_that_would_be_computed_wrongly_are_refused_by_name_and_value(
    folder: Path, field: str, value: Any
) -> None:
    """The field stands in the message."""
    edit_config(folder, **{field: value})
    (folder / "generation_config.json").unlink(missing_ok=True)
    with pytest.raises(UnsupportedModel, match=rf"^(rope_\w+\.)?{field}|^rope_(scaling|parameters)"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("word", "rope"),
    [
        ("factor", {"rope_type": "linear", "factor": -1.0}),
        ("factor", {"rope_type": "dynamic"}),
        ("factor", {"rope_type": "llama3", "factor": float("nan")}),
        ("factor", {"rope_type": "linear", "factor": 10**400}),
        ("low_freq", {"rope_type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 1}),
        ("short_factor", {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}),
        ("long_factor", {"rope_type": "longrope", "short_factor": [1.0] * 10, "long_factor": "x"}),
        ("original_max", {"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": -3}),
        ("partial_rotary_factor", {"rope_type": "linear", "partial_rotary_factor": 0.5}),
        ("rope_parameters.partial_rotary_factor", {"rope_type": "proportional", "partial_rotary_factor": 1.5}),
        ("rope_theta", {"rope_theta": 1.0}),
        ("beta_slow.*5e-324", {"rope_type": "yarn", "factor": 4.0, "beta_slow": 5e-324}),
        ("factor.*5e-324", {"rope_type": "yarn", "factor": 5e-324}),
        (
            "mscale_all_dim.*-7",
            {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": -7.213475204444817},
        ),
        ("attention_factor.*1e\\+39", {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1e39}),
        ("factor.*5e-324", {"rope_type": "llama3", "factor": 5e-324, "low_freq_factor": 1, "high_freq_factor": 4}),
        ("short_factor.*1e-30", {"rope_type": "longrope", "short_factor": [1e-30] * 10, "long_factor": [1.0] * 10}),
    ],
)
def test_rotary_scaling_that_makes_no_sense_is_refused(folder: Path, word: str, rope: dict[str, Any]) -> None:
    """The parameter stands in the message."""
    edit_config(folder, rope_parameters=rope)
    with pytest.raises(UnsupportedModel, match=word):
        read_checkpoint(folder)


@pytest.mark.parametrize("bound", [0.0, 0, -1.0, 5e-324, 1e7])
def test_a_bound_of_queries_that_leaves_nothing_is_refused(tmp_path: Path, bound: float) -> None:
    """`transformers` clamps to 0 with 0.0; here that means none, as null does there."""
    save_random_checkpoint(tmp_path, family="olmoe", vocab_size=260)
    edit_config(tmp_path, clip_qkv=bound)
    with pytest.raises(UnsupportedModel, match=f"clip_qkv: expected a number from .*found '{float(bound)}'"):
        read_checkpoint(tmp_path)
    edit_config(tmp_path, clip_qkv=None)
    assert read_checkpoint(tmp_path).config.clip_qkv == 0.0


def test_a_number_of_positions_that_no_float_holds_is_refused(folder: Path) -> None:
    """Before anything is computed from it."""
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 10, "long_factor": [1.0] * 10}
    edit_config(folder, max_position_embeddings=10**400, rope_parameters=rope, original_max_position_embeddings=4)
    with pytest.raises(UnsupportedModel, match="max_position_embeddings: expected an integer"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("model.norm.weight", None, "expected one, found none"),
        ("model.norm.weight", torch.ones(71), "expected shape"),
        ("model.norm.weight", torch.ones(72).half(), "for all tensors"),
        ("model.extra.weight", torch.ones(3), "expected none of that name"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    folder: Path, name: str, tensor: torch.Tensor | None, words: str
) -> None:
    """Missing, of another shape or dtype, or unknown."""
    edit_tensors(folder, **{name: tensor})
    with pytest.raises(UnsupportedModel, match=words):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "model.bin", "..safetensors"]
)
def test_an_index_cannot_lead_outside_the_folder(folder: Path, name: str) -> None:
    """Plain file names alone."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    with pytest.raises(UnsupportedModel, match="expected plain"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("file", "content", "fault"),
    [
        ("config.json", "{", InvalidInput),
        ("config.json", "[]", InvalidInput),
        ("config.json", " " * 1_100_000, InvalidInput),
        ("config.json", "[" * 100_000, InvalidInput),
        ("config.json", None, NotFound),
        ("model.safetensors", None, NotFound),
        ("model.safetensors", "not a safetensors file", UnsupportedModel),
        ("model.safetensors.index.json", '{"weight_map": {}}', UnsupportedModel),
        ("model.safetensors.index.json", '{"weight_map": [1]}', UnsupportedModel),
        ("generation_config.json", '{"temperature": NaN}', UnsupportedModel),
        ("generation_config.json", '{"temperature": 7.5}', UnsupportedModel),
        ("generation_config.json", '{"top_p": 0}', UnsupportedModel),
        ("generation_config.json", '{"top_k": 100000000000000000000}', UnsupportedModel),
        ("model.safetensors.index.json", '{"weight_map": {"a": "missing.safetensors"}}', NotFound),
        ("tokenizer.json", "{}", UnsupportedModel),
        ("tokenizer.json", "{", UnsupportedModel),
        ("tokenizer_config.json", "[]", InvalidInput),
        ("chat_template.jinja", "x" * 300_000, InvalidInput),
    ],
)
def test_files_that_are_missing_or_malformed_are_named(
    folder: Path, file: str, content: str | None, fault: type[Exception]
) -> None:
    """Whatever is in them, the answer is a fault of the caller."""
    (folder / file).unlink(missing_ok=True)
    if file == "model.safetensors.index.json":
        (folder / "model.safetensors").unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(fault):
        read_checkpoint(folder)


def test_fields_that_say_what_is_computed_anyway_pass(folder: Path) -> None:
    """As published Qwen3-MoE configurations have them."""
    plain = {"qkv_bias": False, "use_qk_norm": True, "shared_expert_intermediate_size": 0, "quantization_config": None}
    edit_config(folder, **plain, rope_scaling={"rope_type": "default"}, sliding_window=None, max_window_layers=48)
    read_checkpoint(folder)


def test_a_list_of_templates_gives_its_default(folder: Path) -> None:
    """Other forms are no template."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for given, expected in (
        ([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}], b'"chat_template":"d"'),
        ([1], b'"chat_template":null'),
    ):
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": given}))
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        assert expected in (read_checkpoint(folder).tokenizer or b"")


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(folder: Path) -> None:
    """Its ids would be outside the embedding."""
    edit_config(folder, vocab_size=200)
    with pytest.raises(UnsupportedModel, match="expected token ids below vocab_size 200, found 259"):
        read_checkpoint(folder)


@pytest.mark.parametrize("template", ["{% for %}", "{{ 'x' * 9999999999 }}", "{% import_everything %}"])
def test_a_template_that_does_not_compile_is_refused_at_import(folder: Path, template: str) -> None:
    """And not at the first chat."""
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UnsupportedModel, match="chat template: expected one that compiles"):
        read_checkpoint(folder)


def test_a_tied_checkpoint_with_another_output_matrix_is_refused(folder: Path) -> None:
    """transformers would use that matrix; the same values say nothing new and pass."""
    edit_config(folder, tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    edit_tensors(folder, **{"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    assert read_checkpoint(folder).config.tied_embeddings
    edit_tensors(folder, **{"lm_head.weight": tensors["model.embed_tokens.weight"] + 1})
    with pytest.raises(UnsupportedModel, match=r"lm_head\.weight: expected the values of model\.embed_tokens\.weight"):
        read_checkpoint(folder)
