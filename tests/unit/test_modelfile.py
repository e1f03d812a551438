"""Modelfiles and create requests: read as Ollama reads them, refused by line or field."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blyan.primitives.errors import InvalidInput, PayloadTooLarge
from blyan.wire.modelfile import Modelfile, modelfile_text, parse_modelfile
from blyan.wire.ollama_create import digest_of, parse_copy, parse_create, parse_delete, parse_pull, recipe_of

FULL = '''# a comment

from base:latest
PARAMETER temperature 0.7
parameter stop "<|end|>"
PARAMETER stop User:
PARAMETER num_ctx	4096
PARAMETER seed 7
SYSTEM """You are
"brief".
"""
SYSTEM Be brief.
TEMPLATE """{{ .Prompt }}
 "" """
MESSAGE user Is it?
MESSAGE assistant """It
is."""
LICENSE MIT
LICENSE "two
lines"
'''


def test_every_instruction_is_read() -> None:
    """In any case of letters, over lines where it is quoted, the last SYSTEM and TEMPLATE, all others in order."""
    assert parse_modelfile(FULL) == Modelfile(
        base="base:latest",
        parameters=[
            ("temperature", "0.7"),
            ("stop", "<|end|>"),
            ("stop", "User:"),
            ("num_ctx", "4096"),
            ("seed", "7"),
        ],
        system="Be brief.",
        template='{{ .Prompt }}\n "" ',
        messages=[("user", "Is it?"), ("assistant", "It\nis.")],
        license=["MIT", "two\nlines"],
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a FROM line, found none"),
        ("SYSTEM x", "expected a FROM line"),
        ("FROM", "expected a FROM line"),
        ("FROM a\nFROM b", "line 2: expected one FROM"),
        ("FROM a\n\nWIZARD x", "line 3: expected one of FROM, PARAMETER.*found 'WIZARD'"),
        ('FROM a\nSYSTEM """x\ny', 'line 2: expected """'),
        ('FROM a\nSYSTEM "x', 'line 2: expected "'),
        ("FROM a\nPARAMETER seed", "line 2: expected a name and a value"),
        ("FROM a\nMESSAGE wizard x", "line 2: expected system, user, assistant"),
        ("FROM a\nMESSAGE user", "line 2: expected a role and a text"),
    ],
)
def test_what_is_no_modelfile_is_refused_by_its_line(text: str, said: str) -> None:
    """Counted from one."""
    with pytest.raises(InvalidInput, match=said):
        parse_modelfile(text)


def test_a_modelfile_has_a_limit() -> None:
    """Before anything of it is read."""
    with pytest.raises(PayloadTooLarge):
        parse_modelfile("x" * ((2 << 20) + 1))


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=40).filter(
    lambda text: '"""' not in text
)


@given(
    st.from_regex(r"[a-z0-9][a-z0-9.-]{0,9}", fullmatch=True),
    st.lists(st.tuples(st.sampled_from(["stop", "seed"]), TEXTS), max_size=3),
    st.none() | TEXTS,
    st.none() | TEXTS,
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS), max_size=3),
    st.lists(TEXTS, max_size=2),
)
def test_what_is_written_is_read_back(
    base: str,
    parameters: list[tuple[str, str]],
    system: str | None,
    template: str | None,
    messages: list[tuple[str, str]],
    license: list[str],  # noqa: A002 - the field's name
) -> None:
    """Whatever the texts are, but for three quotation marks in a row."""
    made = Modelfile(base, parameters, system, template, messages, license)
    assert parse_modelfile(modelfile_text(made)) == made


@given(st.text(max_size=200))
def test_whatever_comes_is_read_or_refused(text: str) -> None:
    """Never another error."""
    try:
        found = parse_modelfile(f"FROM a\n{text}")
    except InvalidInput:
        return
    assert found.base == "a"


def test_a_modelfile_and_the_fields_of_newer_clients_mean_the_same() -> None:
    """Parameters are numbers in one and texts in the other."""
    older = parse_create({"name": "new", "modelfile": FULL})
    fields = {
        "model": "new:latest",
        "from": "base",
        "parameters": {"temperature": 0.7, "stop": ["<|end|>", "User:"], "num_ctx": 4096, "seed": 7},
        "system": "Be brief.",
        "template": '{{ .Prompt }}\n "" ',
        "messages": [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "It\nis."}],
        "license": ["MIT", "two\nlines"],
    }
    assert older == parse_create(fields)
    assert (older.model, older.stream, older.recipe.base) == ("new", True, "base")
    assert recipe_of(FULL) == older.recipe


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"from": "a", "adapters": {"x": "y"}}, "adapters: expected none"),
        ({"modelfile": "FROM a\nADAPTER ./x"}, "ADAPTER: expected none"),
        ({"from": "a", "files": {"x": "sha256:" + "a" * 64}}, "from: .*found both"),
        ({}, "from: .*found neither"),
        ({"from": "a", "quantize": "q8_0"}, "quantize: expected it with files"),
        ({"files": {"x": "sha256:" + "a" * 64}, "quantize": "q3_K_L"}, "quantize: expected one of .*q4_k_m"),
        ({"files": {"../x": "sha256:" + "a" * 64}}, "files: expected plain file names"),
        ({"files": {"a..b": "sha256:" + "a" * 64}}, "files: expected plain file names"),
        ({"files": {"m.gguf": "sha256:" + "a" * 64}}, "files: expected safetensors"),
        ({"files": {"x": "sha256:a"}}, "digest: expected sha256:"),
        ({"files": []}, "files: expected an object"),
        ({"from": "m.gguf"}, "found a GGUF file"),
        ({"from": 1}, "from: expected"),
        ({"from": "a", "system": 1}, "system: expected text"),
        ({"from": "a", "messages": [{"role": "tool", "content": "x"}]}, "messages: expected role"),
        ({"from": "a", "messages": {}}, "messages: expected at most"),
        ({"from": "a", "license": [1]}, "license: expected texts"),
        ({"from": "a", "parameters": {"wizard": 1}}, "wizard: expected a known option"),
        ({"from": "a", "parameters": {"mirostat": 2}}, "mirostat: expected none"),
        ({"from": "a", "parameters": []}, "parameters: expected an object"),
        ({"modelfile": "FROM a\nPARAMETER temperature warm"}, "temperature: expected a number"),
        ({"modelfile": "FROM a", "system": "x"}, "system: expected it in the Modelfile"),
        ({"from": "a", "path": "/etc"}, "path: expected a Modelfile"),
        ({"from": "./here"}, "from: expected a model's name, found the path"),
        ({"from": "hf.co/a/b"}, "from: expected a name or name:tag"),
        ({"from": "a", "model": "a b"}, "model: expected a name or name:tag"),
        ({"from": "a", "model": "../x"}, "model: expected a name or name:tag"),
        ({"from": "a", "model": "a:b:c"}, "model: expected a name or name:tag"),
        ({"from": "a", "wizard": 1}, "wizard: expected a known field"),
        ({"from": "a", "stream": 1}, "stream: expected true or false"),
    ],
)
def test_what_is_not_provided_is_refused_by_its_name(body: dict[str, Any], said: str) -> None:
    """Each with what was found."""
    with pytest.raises(InvalidInput, match=said):
        parse_create({"model": "new", **body})


def test_quantising_is_mapped_and_digests_are_of_both_spellings() -> None:
    """`sha256:` in requests, `sha256-` in file names."""
    found = parse_create({"model": "n", "files": {"x": "sha256:" + "a" * 64}, "quantize": "q4_K_M"}).recipe
    assert (found.scheme, found.files, found.base) == ("int4", {"x": "a" * 64}, None)
    assert digest_of("sha256-" + "b" * 64) == "b" * 64
    for wrong in ("md5:" + "a" * 64, "sha256:" + "A" * 64, "sha256:../x", None, 5):
        with pytest.raises(InvalidInput, match="digest"):
            digest_of(wrong)


def test_copies_deletes_and_pulls_are_read() -> None:
    """Names in their one spelling, without `:latest`; another tag is a part of it."""
    assert parse_copy({"source": "a:v1", "destination": "b:v1.2-q4_0"}) == ("a:v1", "b:v1.2-q4_0")
    assert parse_copy({"source": "a:latest", "destination": "b"}) == ("a", "b")
    assert parse_delete({"model": "a:latest"}) == parse_delete({"name": "a"}) == "a"
    assert parse_pull({"model": "a", "stream": False, "insecure": True}).stream is False
    assert parse_pull({"model": "a", "from": ["http://b:1#k"]}).sources == ("http://b:1#k",)
    for named in ("http://b", [1], ["x"] * 65, {"a": 1}):
        with pytest.raises(InvalidInput, match="from: expected a list of at most 64"):
            parse_pull({"model": "a", "from": named})
    for wrong in (lambda: parse_copy({"source": "a"}), lambda: parse_delete({}), lambda: parse_pull({"model": 1})):
        with pytest.raises(InvalidInput, match=r"(model|source|destination): expected a name"):
            wrong()
