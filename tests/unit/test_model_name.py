"""Names of models: one spelling each, with or without a tag, safe on the chain and in file names."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blyan.primitives.errors import InvalidInput
from blyan.primitives.model_name import canonical_name, file_stem, model_name_pattern, parse_model_name, tagged


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("brief", "brief"),
        ("brief:latest", "brief"),
        ("brief:v1", "brief:v1"),
        ("Qwen3.5-0.6B:q4_K_M", "Qwen3.5-0.6B:q4_K_M"),
        ("brief:latest2", "brief:latest2"),
        ("a" * 128 + ":" + "b" * 80, "a" * 128 + ":" + "b" * 80),
    ],
)
def test_a_name_has_one_spelling(asked: str, name: str) -> None:
    """Without a tag it is the latest; shown with a tag it says so."""
    assert parse_model_name(asked, "model") == canonical_name(asked) == name
    assert parse_model_name(tagged(name), "model") == name


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        ":v1",
        "brief:",
        "a:b:c",
        "brief:v1:latest",
        "a:latest:latest",
        "../a",
        "a/b",
        "a b",
        "brief:.v",
        ".a",
        "a\n",
        "a" * 129,
        "a:" + "b" * 81,
        None,
        5,
    ],
)
def test_what_is_no_name_is_refused_with_what_was_found(wrong: object) -> None:
    """A tag of a tag too: both spellings would be one model and another."""
    with pytest.raises(InvalidInput, match="destination: expected a name or name:tag"):
        parse_model_name(wrong, "destination")


@given(st.from_regex(model_name_pattern, fullmatch=True))
def test_every_name_is_a_part_of_a_file_name_of_its_own(name: str) -> None:
    """No separator, no colon, nothing hidden, and short enough for every file system."""
    stem = file_stem(name)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]*", stem)
    assert len(stem) + len(".journal") < 255
    assert stem.replace("@", ":") == name
