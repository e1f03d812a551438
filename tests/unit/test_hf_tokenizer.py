"""Tokenizers of checkpoint folders: sentencepiece models, added tokens, templates; compared with `transformers`."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file

from blyan.model.hf_import import read_checkpoint
from blyan.model.tokenizer import parse_payload
from blyan.primitives.errors import InvalidInput, UnsupportedModel
from checkpoints import save_byte_tokenizer, save_random_checkpoint


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


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors") | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")


def test_a_sentencepiece_model_takes_the_place_of_a_missing_tokenizer_json(folder: Path) -> None:
    """With its special tokens, which tokenizer_config.json may name otherwise."""
    sink = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a few words of text, and a few more"] * 9),
        model_writer=sink,
        model_type="bpe",
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(sink.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "add_bos_token": True}))
    payload = read_checkpoint(folder).tokenizer
    assert payload is not None
    held = parse_payload(payload, 1_000)
    assert held.special == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    ids = held.encode("a few words", add_special=True, tokens_max=100)
    assert ids[0] == 1
    assert ids[1:] == sentencepiece.SentencePieceProcessor(model_proto=sink.getvalue()).encode("a few words")
    assert held.decode(ids) == "a few words"
    (folder / "tokenizer.model").write_bytes(b"\x0a\xff\xff\xff\xff\x7f")
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.model: expected"):
        read_checkpoint(folder)
    (folder / "tokenizer.model").write_bytes(sink.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": "yes"}))
    with pytest.raises(UnsupportedModel, match="add_bos_token"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": {"260": {"content": "<|new|>", "special": True}}}),
        ("tokenizer_config.json", {"extra_special_tokens": {"new_token": "<|new|>"}}),
        ("tokenizer_config.json", {"additional_special_tokens": ["<|new|>"]}),
        ("added_tokens.json", {"<|new|>": 260}),
    ],
)
def test_tokens_that_the_folder_adds_are_tokens(folder: Path, file: str, content: dict[str, Any]) -> None:
    """As `transformers` has them, where its class for the family adds none of its own."""
    from transformers import PreTrainedTokenizerFast

    edit_config(folder, vocab_size=300)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        edit_tensors(folder, **{name: torch.zeros(300, load_file(folder / "model.safetensors")[name].shape[1])})
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    if file == "tokenizer_config.json":
        content = settings | content
    (folder / file).write_text(json.dumps(content))
    payload = read_checkpoint(folder).tokenizer
    assert payload is not None
    ours = parse_payload(payload, 300).encode("hi<|new|>", add_special=True, tokens_max=100)
    assert ours == PreTrainedTokenizerFast.from_pretrained(folder)("hi<|new|>").input_ids
    assert ours[-1] == 260


def test_an_added_token_whose_id_cannot_be_is_refused(folder: Path) -> None:
    """The next id is 260, not 299."""
    (folder / "added_tokens.json").write_text(json.dumps({"<|new|>": 299}))
    with pytest.raises(UnsupportedModel, match="expected id 299, found 260"):
        read_checkpoint(folder)
    (folder / "added_tokens.json").write_text(json.dumps({"<|new|>": "x"}))
    with pytest.raises(UnsupportedModel, match="expected an id below"):
        read_checkpoint(folder)


def test_special_tokens_of_the_older_file_are_known_to_the_template(folder: Path) -> None:
    """special_tokens_map.json, where tokenizer_config.json says nothing."""
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<|user|>", "eos_token": "<|system|>"}))
    payload = read_checkpoint(folder).tokenizer
    assert payload is not None
    assert parse_payload(payload, 260).special == {"bos_token": "<|user|>", "eos_token": "<|end|>"}


def test_a_list_of_templates_without_a_default_is_refused(folder: Path) -> None:
    """As `transformers` does when it is asked to chat."""
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = [{"name": "tool_use", "template": "t"}]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UnsupportedModel, match="one named default"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("file", "changes", "field"),
    [
        ("tokenizer_config.json", {"bos_token": "\ud800"}, "bos_token"),
        ("tokenizer_config.json", {"chat_template": "a\ud800"}, "chat_template"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"260": {"content": "\udfff", "special": True}}},
            "added_tokens_decoder.260.content",
        ),
        ("tokenizer_config.json", {"extra_special_tokens": ["\udfff"]}, "extra_special_tokens"),
        ("special_tokens_map.json", {"pad_token": {"content": "\ud800"}}, "pad_token.content"),
        ("added_tokens.json", {"\ud800": 259}, "a name"),
        ("config.json", {"torch_dtype": "\ud800"}, "torch_dtype"),
        ("config.json", {"\ud800": 1}, "a name"),
        ("generation_config.json", {"stop_strings": ["\ud800"]}, "stop_strings"),
    ],
)
def test_text_that_is_no_unicode_is_refused_with_file_and_field(
    folder: Path, file: str, changes: dict[str, Any], field: str
) -> None:
    """JSON can spell half of a character; whole ones pass."""
    path = folder / file
    said = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(said | changes))
    with pytest.raises(InvalidInput, match=f"{file}: {field}: expected Unicode text, found "):
        read_checkpoint(folder)


def test_whole_characters_may_be_spelled_as_escapes(folder: Path) -> None:
    """A pair of surrogates is one."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": "\U0001f600"}))
    assert "ud83d" in path.read_text()
    assert "\U0001f600".encode() in (read_checkpoint(folder).tokenizer or b"")


def test_lone_surrogates_in_other_files_are_refused_too(folder: Path) -> None:
    """By who reads them."""
    whole = json.loads((folder / "tokenizer.json").read_text())
    whole["added_tokens"][0]["content"] = "\ud800"
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(UnsupportedModel, match=r"tokenizer"):
        read_checkpoint(folder)
    (folder / "chat_template.jinja").write_bytes(b"\xed\xa0\x80")
    with pytest.raises(InvalidInput, match=r"chat_template\.jinja: expected UTF-8"):
        read_checkpoint(folder)


@pytest.mark.parametrize("value", [True, "yes"])
@pytest.mark.parametrize("name", ["split_special_tokens", "add_prefix_space"])
def test_settings_by_which_transformers_gets_other_ids_are_refused(folder: Path, name: str, value: object) -> None:
    """By name."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {name: value}))
    with pytest.raises(UnsupportedModel, match=name):
        read_checkpoint(folder)
    path.write_text(json.dumps(settings | {name: False}))
    read_checkpoint(folder)


def test_a_prefix_that_the_tokenizer_adds_itself_may_be_said(folder: Path) -> None:
    """And denying it is refused."""
    whole = json.loads((folder / "tokenizer.json").read_text())
    whole["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [whole["pre_tokenizer"] | {"add_prefix_space": True}],
    }
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"add_prefix_space": True}))
    read_checkpoint(folder)
    path.write_text(json.dumps(settings | {"add_prefix_space": False}))
    with pytest.raises(UnsupportedModel, match="add_prefix_space: expected true"):
        read_checkpoint(folder)
