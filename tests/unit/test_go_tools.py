"""Go templates that offer tools: rendered as Jinja, and the calls that a model answers with are read back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from blyan.model.chat_template import TemplateRenderer
from blyan.model.go_to_jinja import translated
from blyan.model.grammar import GrammarVocabulary
from blyan.model.tools import ToolFormat, ToolReader, call_grammar, tool_format_of
from blyan.primitives.errors import InvalidInput
from blyan.wire.tools import Tool, ToolChoice
from checkpoints import save_byte_tokenizer

WEATHER = Tool("weather", "of a <city>", {"type": "object", "properties": {"city": {"type": "string"}}})
TIME = Tool("time", "now", {})
WEATHER_JSON = json.dumps(WEATHER.declared, separators=(",", ":"))
LAST = "{{- $last := eq (len (slice $.Messages $i)) 1 }}"
# as those of Ollama's library for these models, shortened
LLAMA = (
    "{{- if or .System .Tools }}<|system|>{{ if .System }}{{ .System }}{{ end }}{{ if .Tools }} You may call.{{ end }}"
    "{{- end }}{{- range $i, $_ := .Messages }}" + LAST + '{{- if eq .Role "user" }}<|user|>'
    "{{- if and $.Tools $last }}"
    'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.\n'
    "{{ range $.Tools }}{{- . }}\n{{ end }}Question: {{ .Content }}{{- else }}{{ .Content }}{{- end }}"
    '{{- else if eq .Role "assistant" }}<|assistant|>{{- if .ToolCalls }}{{ range .ToolCalls }}'
    '{"name": "{{ .Function.Name }}", "parameters": {{ .Function.Arguments }}}{{ end }}{{ else }}'
    "{{ .Content }}{{ end }}"
    '{{- else if eq .Role "tool" }}<|ipython|>{{ .Content }}{{- end }}{{ if $last }}<|assistant|>{{ end }}{{- end }}'
)
QWEN = (
    "{{- if .Messages }}{{- if or .System .Tools }}<|system|>{{ .System }}{{- if .Tools }}\n<tools>{{- range .Tools }}"
    "\n"
    '{"type": "function", "function": {{ .Function }}}{{- end }}\n</tools>\nReturn calls within '
    "<tool_call></tool_call>.{{- end }}<|end|>{{ end }}{{- range $i, $_ := .Messages }}" + LAST + ""
    '{{- if eq .Role "user" }}<|user|>{{ .Content }}<|end|>{{ else if eq .Role "assistant" }}<|assistant|>'
    "{{ if .Content }}{{ .Content }}{{- else if .ToolCalls }}<tool_call>\n{{ range .ToolCalls }}"
    '{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}\n{{ end }}</tool_call>{{- end }}<|end|>'
    '{{- else if eq .Role "tool" }}<|user|><tool_response>{{ .Content }}</tool_response><|end|>{{ end }}'
    '{{- if and (ne .Role "assistant") $last }}<|assistant|>{{ end }}{{- end }}{{- else }}{{ .Prompt }}{{ end }}'
)
MISTRAL = (
    '{{- range $i, $_ := .Messages }}{{- if eq .Role "user" }}{{- if and (eq (len (slice $.Messages $i)) 1) $.Tools }}'
    "[AVAILABLE_TOOLS] {{ $.Tools }}[/AVAILABLE_TOOLS]{{- end }}[INST] {{ .Content }}[/INST]"
    '{{- else if eq .Role "assistant" }}{{- if .Content }} {{ .Content }}</s>{{- else if .ToolCalls }}[TOOL_CALLS]'
    " ["
    '{{- range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ json .Function.Arguments }}}{{- end }}]'
    "</s>"
    '{{- end }}{{- else if eq .Role "tool" }}[TOOL_RESULTS] {"content": {{ .Content }}}[/TOOL_RESULTS]'
    "{{- end }}{{- end }}"
)
TEMPLATES: dict[ToolFormat, str] = {"llama": LLAMA, "hermes": QWEN, "mistral": MISTRAL}
ASKED: list[dict[str, Any]] = [{"role": "user", "content": "Warm?"}]
CALLED: list[dict[str, Any]] = [
    *ASKED,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Łódź", "n": 1}}}],
    },
    {"role": "tool", "content": "25", "name": "weather"},
    {"role": "tool", "content": "26"},
]
ASKED_PROMPTS: dict[ToolFormat, str] = {
    "llama": "<|system|> You may call.<|user|>Respond in the format "
    '{"name": function name, "parameters": dictionary of argument name and its value}.\n'
    + WEATHER_JSON
    + "\nQuestion: Warm?<|assistant|>",
    "hermes": '<|system|>\n<tools>\n{"type": "function", "function": '
    + json.dumps(WEATHER.declared["function"], separators=(",", ":"))
    + "}\n</tools>\nReturn calls within <tool_call></tool_call>.<|end|><|user|>Warm?<|end|><|assistant|>",
    "mistral": "[AVAILABLE_TOOLS] [" + WEATHER_JSON + "][/AVAILABLE_TOOLS][INST] Warm?[/INST]",
}
ARGUMENTS = '{"city":"Łódź","n":1}'
CALLED_PROMPTS: dict[ToolFormat, str] = {
    "llama": '<|user|>Warm?<|assistant|>{"name": "weather", "parameters": '
    + ARGUMENTS
    + "}<|ipython|>25<|ipython|>26<|assistant|>",
    "hermes": '<|user|>Warm?<|end|><|assistant|><tool_call>\n{"name": "weather", "arguments": '
    + ARGUMENTS
    + "}\n</tool_call><|end|><|user|><tool_response>25</tool_response><|end|>"
    "<|user|><tool_response>26</tool_response><|end|><|assistant|>",
    "mistral": '[INST] Warm?[/INST][TOOL_CALLS] [{"name": "weather", "arguments": '
    + ARGUMENTS
    + '}]</s>[TOOL_RESULTS] {"content": 25}[/TOOL_RESULTS][TOOL_RESULTS] {"content": 26}[/TOOL_RESULTS]',
}


@pytest.fixture(scope="module")
def renderer() -> Iterator[TemplateRenderer]:
    made = TemplateRenderer(lambda: 0)
    yield made
    made.close()


@pytest.mark.parametrize("form", TEMPLATES)
def test_tools_calls_and_results_stand_where_the_template_puts_them(
    form: ToolFormat, renderer: TemplateRenderer
) -> None:
    """And nothing of tools where there are none."""
    jinja = translated(TEMPLATES[form])
    assert tool_format_of(jinja) == form
    assert renderer.render(jinja, ASKED, {}, tools=[WEATHER.declared]) == ASKED_PROMPTS[form]
    assert renderer.render(jinja, CALLED, {}) == CALLED_PROMPTS[form]


def test_two_answers_of_tools_are_two_and_two_of_a_user_are_one(renderer: TemplateRenderer) -> None:
    """Each answer belongs to its call."""
    show = translated("{{ range .Messages }}<{{ .Role }} {{ .ToolName }} {{ .Content }} {{ len .ToolCalls }}>{{ end }}")
    said = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, *CALLED[1:]]
    found = renderer.render(show, said, {})
    assert found == "<user  a\n\nb 0><assistant   1><tool weather 25 0><tool  26 0>"


def test_fields_of_tools_are_printed_one_by_one(renderer: TemplateRenderer) -> None:
    """Text as text, everything else as JSON; `json` quotes."""
    text = (
        "<tool_call>{{ range $n, $t := .Tools }}{{ $n }} {{ .Type }} {{ .Function.Name }} {{ .Function.Description }} "
        "{{ $t.Function.Parameters }} {{ json .Function.Name }};{{ end }}{{ with index .Tools 0 }}{{ . }}{{ end }}"
        "{{ len .Tools }}{{ range .Messages }}{{ end }} {{ currentDate }}"
    )
    tools = [TIME.declared, WEATHER.declared]
    found = renderer.render(translated(text), ASKED, {}, tools=tools)
    assert found.startswith('<tool_call>0 function time now {} "time";1 function weather of a <city> {"type":"object",')
    assert found.endswith(json.dumps(TIME.declared, separators=(",", ":")) + "2 1970-01-01")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ .Prompt }}{{ .Tools }}", r"\.Tools without \.Messages"),
        ("{{ range .Messages }}{{ .ToolCalls }}{{ end }}", "which is no text"),
        ("{{ range .Messages }}{{ range .ToolCalls }}{{ . }}{{ end }}{{ end }}", "which is no text"),
        ("{{ range .Messages }}{{ range .ToolCalls }}{{ .Function.Index }}{{ end }}{{ end }}", r"\.Function\.Index"),
        ("{{ range .Messages }}{{ end }}{{ range $k, $v := .Tools.Function }}{{ end }}", r"\.Tools\.Function"),
    ],
)
def test_what_has_no_place_or_is_not_known_is_refused_with_the_reason(template: str, said: str) -> None:
    """Not left out in silence."""
    with pytest.raises(InvalidInput, match=said):
        translated(template)


# calls as Llama writes them: JSON and nothing around it

CALL = '{"name": "weather", "parameters": {"city": "Łódź"}}'


def read(text: str, size: int) -> tuple[str, list[tuple[str, Any]]]:
    reader = ToolReader("llama", (WEATHER, TIME))
    said, calls = "", []
    for begin in range(0, len(text), size):
        more, found = reader.feed(text[begin : begin + size])
        said, calls = said + more, calls + found
    more, found = reader.finish()
    assert reader.calls == len(calls + found)
    return said + more, [(call.name, json.loads(call.arguments)) for call in calls + found]


@pytest.mark.parametrize(
    ("text", "said", "count"),
    [
        (CALL, "", 1),
        (f"\n{CALL}; {CALL}\n", "", 2),
        (CALL[:-2], CALL[:-2], 0),
        (f"{CALL} and so on", f"{CALL} and so on", 0),
        (CALL.replace("weather", "other"), CALL.replace("weather", "other"), 0),
        (f"So: {CALL}", f"So: {CALL}", 0),
        ('{"names": 1}', '{"names": 1}', 0),
        ('{"na', '{"na', 0),
        ("", "", 0),
    ],
)
def test_an_answer_of_calls_alone_is_calls_and_any_other_is_text(text: str, said: str, count: int) -> None:
    """However it is cut into pieces."""
    for size in range(1, len(text) + 2):
        found, calls = read(text, size)
        assert (found, calls) == (said, [("weather", {"city": "Łódź"})] * count)


@pytest.mark.parametrize(
    ("choice", "text", "fine"),
    [
        (ToolChoice((WEATHER, TIME)), CALL, True),
        (ToolChoice((WEATHER, TIME)), f"{CALL}; {CALL}", True),
        (ToolChoice((WEATHER, TIME), parallel=False), f"{CALL}; {CALL}", False),
        (ToolChoice((WEATHER, TIME)), "It is {warm}.", True),
        (ToolChoice((WEATHER, TIME), required=True), "It is warm.", False),
        (ToolChoice((TIME,)), CALL, False),
        (ToolChoice((WEATHER, TIME)), CALL.replace('"Łódź"', "3"), False),
    ],
)
def test_the_grammar_of_bare_calls(tmp_path: Path, choice: ToolChoice, text: str, fine: bool) -> None:
    """What begins like a call is one; names and arguments are those of the tools."""
    save_byte_tokenizer(tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    following = GrammarVocabulary(tokenizer, 300).compile(call_grammar("llama", choice, {}, None), (256,), "x").begin()
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    allowed = True
    for token in tokens:
        allowed = (
            allowed and not following.ended and bool(np.isfinite(following.allowed(np.zeros(300, np.float32))[token]))
        )
        if allowed:
            following.take(token)
    whole = following.ended or bool(np.isfinite(following.allowed(np.zeros(300, np.float32))[256]))
    assert (allowed and whole) is fine
