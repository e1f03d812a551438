"""generation_config.json: honoured, or said and carried; nothing of it is dropped without a word."""

import json
from pathlib import Path
from typing import Any

import pytest

from blyan.model.hf_config import config_from_hf
from blyan.model.hf_generation import Generation, read_generation
from blyan.model.manifest import extras_text, parse_extras
from blyan.model.request_defaults import RequestDefaults, nothing_said
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, UnsupportedModel

CONFIG: dict[str, Any] = {"model_type": "qwen3_moe", "vocab_size": 300}


def read(folder: Path, said: dict[str, Any] | None, **config: Any) -> Generation:
    if said is not None:
        (folder / "generation_config.json").write_text(json.dumps(said))
    raw = CONFIG | config
    return read_generation(folder, raw, config_from_hf(raw))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("max_length", 10, "max_length '10' is not honoured"),
        ("min_length", 5, "min_length '5' is not honoured"),
        ("guidance_scale", 1.5, "guidance_scale '1.5' is not honoured"),
        ("forced_decoder_ids", [[1, 2]], "forced_decoder_ids '[[1, 2]]' is not honoured"),
        ("top_h", 0.3, "top_h '0.3' is not honoured"),
        ("watermarking_config", {"bias": 2.0}, "watermarking_config \"{'bias': 2.0}\" is not honoured"),
        ("no_repeat_ngram_size", True, "no_repeat_ngram_size 'True' is not honoured"),
        ("dola_layers", "low", "dola_layers 'low' is not honoured"),
        ("of_the_future", 0, "of_the_future '0' is not known, and not honoured"),
    ],
)
def test_what_answers_would_show_and_will_not_is_said_and_carried(
    tmp_path: Path, name: str, value: Any, words: str
) -> None:
    """By name and value; an export gives it back."""
    found = read(tmp_path, {name: value})
    assert found.notes == (f"generation_config.json: {words}",)
    assert parse_extras(found.extras) == {name: value}


def test_what_a_request_gets_when_it_says_nothing_is_honoured(tmp_path: Path) -> None:
    """Penalty, limit, cut and stop strings, without a note; an export gives them back."""
    said = {"max_new_tokens": 2048, "repetition_penalty": 1.05, "min_p": 0.1, "stop_strings": ["\n\n", "END"]}
    found = read(tmp_path, said)
    assert found.requests == RequestDefaults(stop=("\n\n", "END"), tokens_max=2048, min_p=0.1, repetition_penalty=1.05)
    assert (found.notes, parse_extras(found.extras)) == ((), said)
    assert read(tmp_path, {"stop_strings": "END"}).requests.stop == ("END",)
    assert read(tmp_path, {}).requests == nothing_said


def test_what_asks_for_nothing_is_not_said(tmp_path: Path) -> None:
    """Defaults, null, and how something is computed."""
    said = {"max_length": 20, "num_beams": 1, "min_p": None, "repetition_penalty": 1, "use_cache": False}
    honoured = {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "do_sample": True, "eos_token_id": 3}
    assert read(tmp_path, said | honoured | {"bos_token_id": 1, "transformers_version": "5.0"}).notes == ()


def test_beginning_and_filling_tokens_are_carried(tmp_path: Path) -> None:
    """Those of config.json where generation_config.json says none; null there says that there is none."""
    assert parse_extras(read(tmp_path, None, bos_token_id=1, pad_token_id=2).extras) == {
        "bos_token_id": 1,
        "pad_token_id": 2,
    }
    found = read(tmp_path, {"bos_token_id": 7, "pad_token_id": None}, bos_token_id=1, pad_token_id=2)
    assert parse_extras(found.extras) == {"bos_token_id": 7}
    assert read(tmp_path, {}).extras == ""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"do_sample": "yes"}, "do_sample"),
        ({"pad_token_id": "x"}, "pad_token_id"),
        ({"min_p": float("nan")}, "min_p"),
        ({"repetition_penalty": 0}, "generation_config.json: repetition_penalty"),
        ({"max_new_tokens": "many"}, "max_new_tokens"),
        ({"stop_strings": [1]}, "stop_strings"),
        ({"bad_words_ids": [[1]] * limits.generation_extras_bytes_max}, "generation_config.json: expected at most"),
    ],
)
def test_what_is_no_such_value_is_refused(tmp_path: Path, said: dict[str, Any], words: str) -> None:
    """By name, before it is carried."""
    with pytest.raises(UnsupportedModel, match=words):
        read(tmp_path, said)


def test_the_end_is_the_class_of_transformers_where_no_file_says_one(tmp_path: Path) -> None:
    """Mixtral's is 2; a generation_config.json without one says that there is none."""
    mixtral = {"model_type": "mixtral", "vocab_size": 300}
    assert read(tmp_path, None, **mixtral).defaults.eos == (2,)
    assert read(tmp_path, None, **mixtral, eos_token_id=None).defaults.eos == ()
    assert read(tmp_path, None, model_type="olmoe").defaults.eos == ()  # 50279 is beyond this vocabulary
    assert read(tmp_path, {}, **mixtral).defaults.eos == ()


@pytest.mark.parametrize("text", ["[]", "{", "{ }", '{"b":1,"a":2}', "{}", '{"a": 1}'])
def test_extras_have_one_spelling(text: str) -> None:
    """So that one model has one manifest."""
    with pytest.raises(InvalidInput, match="generation_extras"):
        parse_extras(text)
    assert parse_extras(extras_text({"b": 1.5, "a": "x"})) == {"a": "x", "b": 1.5}
