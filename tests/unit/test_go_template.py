"""Go templates as Jinja: rendered as Ollama renders them, or refused by the name of what is not translated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.model.chat_template import TemplateRenderer
from blyan.model.given_template import is_jinja
from blyan.model.go_to_jinja import translated
from blyan.primitives.errors import InvalidInput

CHATML = (
    "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    "{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
    "{{ .Response }}<|im_end|>\n"
)
MESSAGES = """{{- if .System }}<|system|>
{{ .System }}<|end|>
{{ end }}
{{- range $i, $m := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "user" }}<|user|>
{{ .Content }}<|end|>
{{ if $last }}<|assistant|>
{{ end }}
{{- else if eq $m.Role "assistant" }}<|assistant|>
{{ $m.Content }}{{ if not $last }}<|end|>
{{ end }}
{{- end }}
{{- end }}"""


def said(*texts: str) -> list[dict[str, Any]]:
    """`s:`, `u:` and `a:` before what each says."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[text[0]], "content": text[2:]} for text in texts]


@pytest.fixture(scope="module")
def renderer() -> Iterator[TemplateRenderer]:
    made = TemplateRenderer(lambda: 0)
    yield made
    made.close()


CASES: dict[str, tuple[str, list[str], str]] = {
    "one turn, up to the response": (
        CHATML,
        ["s:S", "u:U"],
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n",
    ),
    "no system": (CHATML, ["u:U"], "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"),
    "turns before it are whole": (
        "[{{ .System }}|{{ .Prompt }}|{{ .Response }}]",
        ["s:S", "u:1", "a:2", "u:3"],
        "[S|1|2][|3|",
    ),
    "an answer that was begun goes on": ("[{{ .Prompt }}|{{ .Response }}]", ["u:1", "a:2"], "[1|2"),
    "a system message between turns": (
        "[{{ .System }}|{{ .Prompt }}|{{ .Response }}]",
        ["u:1", "a:2", "s:S", "u:3"],
        "[|1|2][S|3|",
    ),
    "two of one role are one": ("[{{ .Prompt }}|{{ .Response }}]", ["u:1", "u:2"], "[1\n\n2|"),
    "the response is added where none is": ("{{ .Prompt }}>", ["u:1", "a:2", "u:3"], "1>23>"),
    "a response within a block": (
        "{{ .Prompt }}{{ if true }}A:{{ .Response }}\n{{ end }}!",
        ["u:1", "a:2", "u:3"],
        "1A:2\n!3A:",
    ),
    "trim markers": ("a \n\t{{- .Prompt -}} \n b{{- /* c */ -}}  c", ["u:1"], "a1bc"),
    "a comment without markers": ("a {{/* }} {{ .No }} */}} b{{ .Prompt }}", ["u:1"], "a  b1"),
    "else": ("{{ if .System }}S{{ else }}N{{ end }}{{ .Prompt }}", ["u:1"], "N1"),
    "else if": ('{{ if eq .Prompt "1" }}A{{ else if eq .Prompt "2" "3" }}B{{ else }}C{{ end }}', ["u:3"], "B"),
    "with and its dot": ("{{ with .Prompt }}<{{ . }}>{{ else }}-{{ end }}", ["u:1"], "<1>"),
    "or prints the first that is something": ('{{ or .System "none" }}{{ .Prompt }}', ["u:1"], "none1"),
    "strings of both kinds": ('{{ "a\\n\\"}}" }}{{ `{{b` }}{{ .Prompt }}', ["u:1"], 'a\n"}}{{b1'),
    "text that Jinja would read": ("{ '% }{'# {{ .Prompt }}\\ é 😀", ["u:1"], "{ '% }{'# 1\\ é 😀"),
    "white space that Jinja would take": (
        "\n  {{ if .Prompt }}\n\n x {{ end }}\n\n{{ .Prompt }}",
        ["u:1"],
        "\n  \n\n x \n\n1",
    ),
    "messages": (
        MESSAGES,
        ["s:S", "u:1", "a:2", "u:3"],
        "<|system|>\nS<|end|>\n<|user|>\n1<|end|>\n<|assistant|>\n2<|end|>\n<|user|>\n3<|end|>\n<|assistant|>\n",
    ),
    "messages that an answer ends": (MESSAGES, ["u:1", "a:2"], "<|user|>\n1<|end|>\n<|assistant|>\n2"),
    "all system messages together": (
        "{{ .System }}|{{ range .Messages }}{{ .Role }},{{ end }}",
        ["s:A", "u:1", "s:B"],
        "A\n\nB|system,user,system,",
    ),
    "a range within a range": (
        (
            "{{ range $i, $a := .Messages }}{{ range $.Messages }}{{ $a.Content }}{{ .Content }} {{ end }}{{ $i }}"
            "{{ end }}"
        ),
        ["u:1", "a:2"],
        "11 12 021 22 1",
    ),
    "a variable that a loop sets": (
        '{{ $x := "" }}{{ range .Messages }}{{ if eq .Role "user" }}{{ $x = .Content }}{{ end }}{{ end }}{{ $x }}',
        ["u:1", "a:2", "u:3", "a:4"],
        "3",
    ),
    "a variable of an inner block hides and does not change": (
        '{{ $x := "o" }}{{ range .Messages }}{{ $x := .Content }}{{ $x }}{{ end }}{{ $x }}',
        ["u:1"],
        "1o",
    ),
    "index and comparison": (
        "{{ if gt (len .Messages) 1 }}{{ with index .Messages 1 }}{{ .Content }}{{ end }}{{ end }}",
        ["u:1", "a:2"],
        "2",
    ),
}
REFUSED = {
    "{{ .Prompt }}{{ .Images }}": r"\.Images",
    "{{ html .Prompt }}": r"\(html \.Prompt\)",
    "{{ .Prompt | printf }}": r"\(printf \.Prompt\)",
    '{{ template "x" }}': "template",
    '{{ define "x" }}{{ end }}': "define",
    "{{ .Prompt }}{{ break }}": "break",
    "{{ range .Prompt }}{{ end }}": "no list and no map",
    "{{ .Prompt }}{{ end }}": "outside of a block",
    "{{ if .Prompt }}": "without its",
    "{{ .Prompt ": "does not end",
    "{{ }}{{ .Prompt }}": "an empty action",
    "{{ $x }}{{ .Prompt }}": r"\$x, which was not declared",
    "{{ if eq .Prompt 1 }}{{ end }}": r"\(eq \.Prompt 1\)",
    "{{ eq .Prompt .System }}": "which is no text",
    "{{ .Messages }}": "which is no text",
    "{{ len true }}": "len",
    "{{ if .Prompt }}{{ .Response }}{{ else }}x{{ end }}": "one branch of two",
    "{{ if .Prompt }}a{{ else }}b{{ else }}c{{ end }}": "else",
    "nothing of it": "expected one that uses",
    "{{ .System }}": "expected one that uses",
    "{{ (.Prompt }}": "does not close",
    "{{ /* never }}{{ .Prompt }}": "does not end",
    "{{ if .Prompt }}" * 70: "more than 64",
}


@pytest.mark.parametrize("name", CASES)
def test_it_renders_what_go_renders(name: str, renderer: TemplateRenderer) -> None:
    """White space included."""
    template, messages, expected = CASES[name]
    assert not is_jinja(template)
    assert renderer.render("{{ '' if true }}" + translated(template), said(*messages), {}) == expected


@pytest.mark.parametrize("template", REFUSED)
def test_what_is_not_translated_is_refused_by_its_name(template: str) -> None:
    """A template that is nearly right would prompt a model wrongly in silence."""
    with pytest.raises(InvalidInput, match=REFUSED[template]):
        translated(template)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", True),
        ("{{ messages[0].content }}", True),
        ("{{ bos_token }}{{ messages }}", True),
        ("{{ .Prompt }}", False),
        ("{{- if .System }}{{ end }}", False),
        ("{{ range $m := .Messages }}{{ end }}", False),
        ("text", False),
        ('{{ printf "%s" .Prompt }}', False),
        ("{{ json $.Messages }}", False),
        ("{{ (index .Messages 0).Content }}", False),
        ("{{ unknown .Prompt }}", False),
        ("{{ .Prompt }} {% in text {# too", False),
        ("{{/* {% if %} */}}{{ .Prompt }}", False),
        ("{{ messages[0].content + ' .Prompt' }}", True),
        ("{#- a comment -#}{{ messages }}", True),
        ("{%- set x = '.Prompt' %}{{ x }}", True),
    ],
)
def test_jinja_is_told_from_go(template: str, expected: bool) -> None:
    """By its statements, and by what an action begins with."""
    assert is_jinja(template) is expected


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40).filter(lambda text: "{{" not in text and "\r" not in text), st.text(max_size=20))
def test_any_text_stands_as_it_is(renderer: TemplateRenderer, text: str, prompt: str) -> None:
    """Around what a user says, whatever either holds."""
    found = renderer.render(translated("a" + text + "b{{ .Prompt }}"), [{"role": "user", "content": prompt}], {})
    assert found == "a" + text + "b" + prompt


PIECES = ["{{", "}}", "{{ end }}", "{{ if .Prompt }}", " - ", "/*", "*/", '"', "`", "(", "$x := ", ".Messages", "a"]
PIECES += ["{{ else }}", "{{ range .Messages }}", "{{-", "-}}", "\n", ".Prompt", "{{ .Response }}"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_whatever_comes_is_translated_or_refused(pieces: list[str]) -> None:
    """Never another error."""
    with contextlib.suppress(InvalidInput):
        assert isinstance(translated("".join(pieces)), str)
