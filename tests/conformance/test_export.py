"""What comes out is what went in: every family, exported, loads in `transformers` with the same bits."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from blyan.model.hf_config import config_from_hf
from blyan.model.hf_import import read_checkpoint
from blyan.node.builtin import bundle_folder, install
from blyan.node.data_directory import open_ground
from blyan.node.export import export_model
from blyan.primitives.errors import InvalidInput
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from family_cases import CASES
from nodes import import_into, writing

pytestmark = pytest.mark.oracle


def exported(folder: Path, name: str = "random") -> Path:
    export_model(open_ground(folder / "data"), name, folder / "out", lambda _done, _total: None)
    return folder / "out"


@pytest.mark.parametrize("case", CASES)
def test_every_configuration_comes_back_from_its_export(tmp_path: Path, case: str) -> None:
    """Our reading of the exported config.json is our reading of the original, and every tensor has the same bits."""
    save_random_checkpoint(tmp_path / "hf", **CASES[case][2])
    import_into(tmp_path / "data", tmp_path / "hf", "random")
    out = exported(tmp_path)
    before, after = read_checkpoint(tmp_path / "hf"), read_checkpoint(out)
    assert before.config == after.config
    assert before.generation == after.generation
    given, found = load_file(tmp_path / "hf" / "model.safetensors"), load_file(out / "model.safetensors")
    assert given.keys() == found.keys()
    assert all(torch.equal(given[name], found[name]) and given[name].dtype == found[name].dtype for name in found)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe"])
def test_transformers_computes_the_same_from_the_export(tmp_path: Path, family: str) -> None:
    """Logits equal bit for bit, and the tokenizer with its template is there."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    width = "intermediate_size" if family in ("mixtral", "olmoe") else "moe_intermediate_size"
    # transformers multiplies half-precision experts only in rows of 16 bytes
    reference = save_random_checkpoint(tmp_path / "hf", family=family, dtype="bfloat16", vocab_size=260, **{width: 56})
    save_byte_tokenizer(tmp_path / "hf")
    import_into(tmp_path / "data", tmp_path / "hf", "random")
    out = exported(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(out)
    tokens = torch.arange(40).unsqueeze(0)
    with torch.inference_mode():
        assert torch.equal(reference(tokens).logits, again(tokens).logits)
    original, tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf"), AutoTokenizer.from_pretrained(out)
    asked: list[Any] = [{"role": "user", "content": "héllo"}]
    assert original.apply_chat_template(asked, tokenize=False) == tokenizer.apply_chat_template(asked, tokenize=False)
    assert original("héllo").input_ids == tokenizer("héllo").input_ids


def test_the_built_in_model_comes_back(tmp_path: Path) -> None:
    """Imported again, its export has the payload ids of the shipped blocks."""
    with writing(tmp_path / "data") as ground:
        first = install(ground)
        export_model(ground, "blyan-genesis", tmp_path / "out", lambda _done, _total: None)
    second = import_into(tmp_path / "again", tmp_path / "out", "blyan-genesis")
    manifests = [json.loads((bundle_folder() / "manifest.json").read_text())]
    manifests.append(json.loads(open_ground(tmp_path / "again").store.read(second.model.manifest, bytes_max=1 << 24)))
    assert manifests[0]["parts"] == manifests[1]["parts"]
    assert manifests[0]["architecture"] == manifests[1]["architecture"]
    assert first.blocks == second.blocks


def test_nothing_is_written_over(tmp_path: Path) -> None:
    """A folder with something in it stays as it is, and a failed export leaves nothing."""
    save_random_checkpoint(tmp_path / "hf")
    import_into(tmp_path / "data", tmp_path / "hf", "random")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(InvalidInput, match="to be absent or empty, found something there"):
        exported(tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "hf", "out"]


def test_a_folder_that_cannot_be_is_refused_before_the_weights(tmp_path: Path) -> None:
    """Not after hours of writing."""
    save_random_checkpoint(tmp_path / "hf")
    import_into(tmp_path / "data", tmp_path / "hf", "random")
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    written: list[int] = []
    with pytest.raises(InvalidInput, match="a link to nothing"):
        export_model(
            open_ground(tmp_path / "data"), "random", tmp_path / "out", lambda done, _total: written.append(done)
        )
    assert not written


def test_a_large_model_is_written_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an index that transformers follows."""
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr("blyan.model.hf_export._shard_bytes_max", 200_000)
    reference = save_random_checkpoint(tmp_path / "hf")
    import_into(tmp_path / "data", tmp_path / "hf", "random")
    out = exported(tmp_path)
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 3
    assert all(path.stat().st_size < 400_000 for path in out.glob("*.safetensors"))
    again = AutoModelForCausalLM.from_pretrained(out)
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in reference.state_dict().items())


def test_the_config_is_read_by_field_name_not_by_family_luck() -> None:
    """A config of one family with another's fields is refused."""
    from blyan.primitives.errors import UnsupportedModel

    with pytest.raises(UnsupportedModel, match="clip_qkv"):
        config_from_hf({"model_type": "mixtral", "clip_qkv": 1.0})


def test_a_real_sentencepiece_tokenizer_survives_import_and_export(tmp_path: Path) -> None:
    """Mistral's own: `transformers` cuts with the export as sentencepiece does with the original."""
    import sentencepiece
    from transformers import AutoTokenizer

    original = Path(str(resources.files("mistral_common"))) / "data" / "tokenizer.model.v1"
    save_random_checkpoint(tmp_path / "hf", family="mixtral", vocab_size=32_000, hidden_size=32, intermediate_size=24)
    shutil.copyfile(original, tmp_path / "hf" / "tokenizer.model")
    import_into(tmp_path / "data", tmp_path / "hf", "random")
    tokenizer = AutoTokenizer.from_pretrained(exported(tmp_path))
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(original))
    for text in ("Hello world", "  naïve café  — 서울의 아침\n", "def f(x):\n    return 2 * x"):
        ids = tokenizer(text).input_ids
        assert ids == [1, *theirs.encode(text)]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


def test_generation_fields_that_are_not_honoured_come_back_too(tmp_path: Path) -> None:
    """With the beginning and filling tokens, in both files."""
    save_random_checkpoint(tmp_path / "hf", bos_token_id=5, pad_token_id=6)
    said = {"bos_token_id": 5, "pad_token_id": 6, "eos_token_id": 7, "max_new_tokens": 99, "repetition_penalty": 1.05}
    (tmp_path / "hf" / "generation_config.json").write_text(json.dumps(said))
    import_into(tmp_path / "data", tmp_path / "hf", "random")
    out = exported(tmp_path)
    found = json.loads((out / "generation_config.json").read_text())
    assert said.items() <= found.items()
    config = json.loads((out / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (5, 7, 6)
