"""Go templates as the libraries of models have them, shortened: what each renders, worked out by hand.

The constructs are those of published templates for Qwen3, DeepSeek-R1, Llama 3, Mistral, Phi, Gemma, Command R, Granite
and gpt-oss; the expected texts follow Go's text/template and Ollama's rules for values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from blyan.model.chat_template import TemplateRenderer
from blyan.model.go_to_jinja import translated
from blyan.model.thinking import can_be_told, can_think, thinking_of
from blyan.model.tools import tool_format_of
from blyan.primitives.errors import InvalidInput

QWEN3 = """
{{- $lastUserIdx := -1 -}}
{{- range $idx, $msg := .Messages -}}
{{- if eq $msg.Role "user" }}{{ $lastUserIdx = $idx }}{{ end -}}
{{- end }}
{{- if or .System .Tools }}<|im_start|>system
{{ if .System }}
{{ .System }}
{{- end }}
{{- if .Tools }}

# Tools
<tools>
{{- range .Tools }}
{"type": "function", "function": {{ .Function }}}
{{- end }}
</tools>
Calls go within <tool_call></tool_call>.
{{- end -}}
<|im_end|>
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}
{{- if and $.IsThinkSet (eq $i $lastUserIdx) }}
   {{- if $.Think -}}
      {{- " "}}/think
   {{- else -}}
      {{- " "}}/no_think
   {{- end -}}
{{- end }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if (and $.IsThinkSet (and .Thinking (or $last (gt $i $lastUserIdx)))) -}}
<think>{{ .Thinking }}</think>
{{ end -}}
{{ if .Content }}{{ .Content }}
{{- else if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- else if eq .Role "tool" }}<|im_start|>user
<tool_response>
{{ .Content }}
</tool_response><|im_end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ if and $.IsThinkSet (not $.Think) -}}
<think>

</think>

{{ end -}}
{{ end }}
{{- end }}"""
DEEPSEEK = """{{- if .System }}{{ .System }}{{ end }}
{{- range $i, $_ := .Messages }}
  {{- $last := eq (len (slice $.Messages $i)) 1 }}
  {{- if eq .Role "user" -}}
    <｜User｜>{{ .Content }}
  {{- else if eq .Role "assistant" -}}
    <｜Assistant｜>
    {{- if and $.IsThinkSet (and $last .Thinking) -}}
      <think>
        {{ .Thinking }}
      </think>
    {{- end }}{{ .Content }}{{- if not $last }}<｜end▁of▁sentence｜>{{- end }}
  {{- end }}
  {{- if and $last (ne .Role "assistant") -}}
    <｜Assistant｜>
    {{- if and $.IsThinkSet (not $.Think) -}}
      <think> </think>
    {{ end }}
  {{- end -}}
{{- end -}}
"""
GEMMA = """{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if or (eq .Role "user") (eq .Role "system") }}<start_of_turn>user
{{ .Content }}<end_of_turn>
{{ if $last }}<start_of_turn>model
{{ end }}
{{- else if eq .Role "assistant" }}<start_of_turn>model
{{ .Content }}{{ if not $last }}<end_of_turn>
{{ end }}
{{- end }}
{{- end }}"""
PHI = """{{- if or .System .Tools }}<|system|>{{ if .System }}{{ .System }}{{ end }}
{{- if .Tools }}{{ if not .System }}You have some tools.{{ end }}<|tool|>{{ .Tools }}<|/tool|>
{{- end }}<|end|>
{{- end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if ne .Role "system" }}<|{{ .Role }}|>{{ .Content }}
{{- if .ToolCalls }}<|tool_call|>[{{ range .ToolCalls }}{"name":"{{ .Function.Name }}",
{{- "" }}"arguments":{{ .Function.Arguments }}}{{ end }}]<|/tool_call|>
{{- end }}
{{- if not $last }}<|end|>
{{- end }}
{{- if and (ne .Role "assistant") $last }}<|end|><|assistant|>{{ end }}
{{- end }}
{{- end }}"""
LLAMA2 = """{{- if .Messages }}
{{- range $index, $_ := .Messages }}
{{- if eq .Role "user" }}[INST] {{ if eq $index 0 }}<<SYS>>
{{- if $.System }}
{{ $.System }}
{{ end }}<</SYS>>

{{ end }}{{ .Content }}
{{- else }} [/INST] {{ .Content }}</s><s>
{{- end }}
{{- end }} [/INST]
{{- else -}}
[INST] <<SYS>>{{ if .System }}{{ .System }}{{ end }}<</SYS>>

{{ .Prompt }} [/INST] {{ .Response }}</s>
{{- end -}}"""
COMMAND = """{{- range .Tools }}
def {{ .Function.Name }}(
{{- range $name, $property := .Function.Parameters.Properties }}{{ $name }}: {{ $property.Type }}, {{ end }}):
    '''{{ .Function.Description }}
{{- if .Function.Parameters.Properties }}
    Args:
{{- range $name, $property := .Function.Parameters.Properties }}
        {{ $name }} ({{ $property.Type }}): {{ $property.Description }}
{{- end }}
{{- end }}'''
{{- else }}no tools
{{- end }}
{{- range .Messages }}
{{- if eq .Role "system" }}
{{- continue }}
{{- end }}<{{ .Role }}>{{ .Content }}
{{- end }}{{/* calls within <tool_call> */}}<tool_call>"""
HARMONY = """Reasoning: {{ or .ThinkLevel "medium" }}
{{- range .Tools }}
{{- if not (or (eq .Function.Name "browser.open") (eq .Function.Name "python")) }}
{{if .Function.Description }}// {{ .Function.Description }}
{{ end }}
{{- if and .Function.Parameters.Properties (gt (len .Function.Parameters.Properties) 0) -}}
type {{ .Function.Name }} = (_: {
{{- range $name, $prop := .Function.Parameters.Properties }}
  {{ $name }}: {{ if gt (len $prop.Type) 1 }}{{ range $i, $t := $prop.Type }}{{ if $i }} | {{ end }}
{{- $t }}{{ end }}{{ else }}{{ index $prop.Type 0 }}{{ end }},
{{- end }}
}) => any;
{{- else }}type {{ .Function.Name }} = () => any;
{{- end }}
{{- end }}
{{- end }}
{{- range $i, $msg := .Messages }}<{{ $msg.Role }}
{{- if gt (len $msg.Content) 0 }} {{ $msg.Content }}{{ end }}>{{ end }}<tool_call>"""
GRANITE = """{{- $system := "" }}{{- $thinking := (and .IsThinkSet .Think) }}{{- $documents := 0 }}
{{- range .Messages }}
{{- if (eq .Role "system")}}
{{- if (ne $system "") }}{{- $system = print $system "|" }}{{- end}}
{{- $system = print $system .Content }}
{{- end}}
{{- if (and (ge (len .Role) 7) (eq (slice .Role 0 7) "control")) }}{{- $thinking = true }}{{- end}}
{{- end}}
{{- $system }} {{ if $thinking }}thinks <think>{{ end }}{{ printf "%s has %d%%" .System $documents }}
{{- range .Messages }}{{ if eq .Role "system" }}{{ continue }}{{ end }}
{{- .Content | print "<" | printf "%v>" }}{{ break }}{{ end }}"""

PROPERTIES = {
    "city": {"type": "string", "description": "Where"},
    "days": {"type": ["integer", "null"], "enum": [1, 2]},
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a <city>",
        "parameters": {"type": "object", "required": ["city", "days"], "properties": PROPERTIES},
    },
}
PLAIN = {"type": "function", "function": {"name": "now", "parameters": {}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Łódź", "days": 2}}}


def said(*texts: str) -> list[dict[str, Any]]:
    """`s:`, `u:`, `a:` and `t:` before what each says; a thought of an answer before `#`."""
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    found: list[dict[str, Any]] = []
    for text in texts:
        thought, mark, rest = text[2:].partition("#")
        found.append({"role": roles[text[0]], "content": rest if mark else text[2:]})
        if mark:
            found[-1]["reasoning_content"] = thought
    return found


@pytest.fixture(scope="module")
def renderer() -> Iterator[TemplateRenderer]:
    made = TemplateRenderer(lambda: 0)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("template", "messages", "thinking", "expected"),
    [
        (QWEN3, ["u:Hi"], None, "<|im_start|>user\nHi /think<|im_end|>\n<|im_start|>assistant\n"),
        (QWEN3, ["u:Hi"], True, "<|im_start|>user\nHi /think<|im_end|>\n<|im_start|>assistant\n"),
        (
            QWEN3,
            ["s:S", "u:1", "a:why#2", "u:3"],
            False,
            (
                "<|im_start|>system\n\nS<|im_end|>\n<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
                "<|im_start|>user\n3 /no_think<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
            ),
        ),
        (
            QWEN3,
            ["u:1", "a:why#2"],
            True,
            "<|im_start|>user\n1 /think<|im_end|>\n<|im_start|>assistant\n<think>why</think>\n2",
        ),
        (
            DEEPSEEK,
            ["s:S", "u:1", "a:2", "u:3"],
            None,
            "S<｜User｜>1<｜Assistant｜>2<｜end▁of▁sentence｜><｜User｜>3<｜Assistant｜>",
        ),
        (DEEPSEEK, ["u:1"], False, "<｜User｜>1<｜Assistant｜><think> </think>\n    "),
        (DEEPSEEK, ["u:1", "a:why#2"], True, "<｜User｜>1<｜Assistant｜><think>\n        why\n      </think>2"),
        (
            GEMMA,
            ["u:1", "a:2", "u:3"],
            None,
            (
                "<start_of_turn>user\n1<end_of_turn>\n<start_of_turn>model\n2<end_of_turn>\n"
                "<start_of_turn>user\n3<end_of_turn>\n<start_of_turn>model\n"
            ),
        ),
        (PHI, ["s:S", "u:1"], None, "<|system|>S<|end|><|user|>1<|end|><|assistant|>"),
        (
            LLAMA2,
            ["u:1", "a:2", "u:3"],
            None,
            "[INST] <<SYS>><</SYS>>\n\n1 [/INST] 2</s><s>[INST] 3 [/INST]",
        ),
        (COMMAND, ["s:S", "u:1"], None, "no tools<user>1<tool_call>"),
        (HARMONY, ["u:", "a:2"], None, "Reasoning: medium<user><assistant 2><tool_call>"),
        (GRANITE, ["s:A", "u:1", "s:B", "u:2"], None, "A|B thinks <think>A\n\nB has 0%<1>"),
        (GRANITE, ["u:é"], False, "  has 0%<é>"),
    ],
)
def test_published_templates_render_as_go_renders_them(
    renderer: TemplateRenderer, template: str, messages: list[str], thinking: bool | None, expected: str
) -> None:
    """White space included; a model that thinks does, unless the request says it shall not."""
    assert renderer.render(translated(template), said(*messages), {}, thinking=thinking) == expected


def test_a_model_of_such_a_template_can_be_told_not_to_think(renderer: TemplateRenderer) -> None:
    """And what comes after an empty thought is the answer."""
    for template in (QWEN3, DEEPSEEK, GRANITE):
        jinja = translated(template)
        assert (can_think(jinja), can_be_told(jinja)) == (True, True)
    prompt = renderer.render(translated(QWEN3), said("u:1"), {}, thinking=False)
    assert thinking_of(translated(QWEN3), prompt) == "may"
    assert not can_think(translated(GEMMA))


def test_how_much_to_think_is_told(renderer: TemplateRenderer) -> None:
    """`.ThinkLevel`; and Jinja templates read `reasoning_effort`."""
    assert renderer.render(translated(HARMONY), said("u:1"), {}, thinking="high").startswith("Reasoning: high<user 1>")


def test_calls_and_results_of_tools_stand_in_their_turns(renderer: TemplateRenderer) -> None:
    """As Qwen3's template has them."""
    jinja = translated(QWEN3)
    messages = [*said("u:1"), {"role": "assistant", "content": "", "tool_calls": [CALL]}, *said("t:25")]
    assert tool_format_of(jinja) == "hermes"
    assert renderer.render(jinja, messages, {}) == (
        "<|im_start|>user\n1 /think<|im_end|>\n<|im_start|>assistant\n<tool_call>\n"
        '{"name": "weather", "arguments": {"city":"Łódź","days":2}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n25\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_properties_of_a_tool_are_walked_through(renderer: TemplateRenderer) -> None:
    """In the order in which they were sent; a type of several is printed as Go prints a list."""
    found = renderer.render(translated(COMMAND), said("u:1"), {}, tools=[WEATHER, PLAIN])
    assert found == (
        "\ndef weather(city: string, days: [integer null], ):\n    '''of a <city>\n    Args:\n"
        "        city (string): Where\n        days ([integer null]): '''\ndef now():\n    ''''''<user>1<tool_call>"
    )
    found = renderer.render(translated(HARMONY), said("u:1"), {}, tools=[WEATHER, PLAIN])
    assert found == (
        "Reasoning: medium\n// of a <city>\n"
        "type weather = (_: {\n  city: string,\n  days: integer | null,\n}) => any;\n"
        "type now = () => any;<user 1><tool_call>"
    )


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ range $k, $v := .Function.Arguments }}{{ $k }}={{ $v }};{{ end }}", "city=Łódź;days=2;"),
        ("{{ range .Function.Arguments }}{{ . }};{{ end }}", "Łódź;2;"),
        ("{{ index .Function.Arguments `city` }}{{ index .Function.Arguments `none` }}", "Łódź"),
        ("{{ .ID }} {{ len .Function.Arguments }} {{ .Function.Arguments | json }}", 'c1 2 {"city":"Łódź","days":2}'),
        ("{{ if .Function }}yes{{ end }}{{ if not .Function }}no{{ end }}", "yes"),
        ('{{ if eq (index .Function.Arguments "city") "Łódź" }}there{{ end }}', "there"),
    ],
)
def test_the_arguments_of_a_call_are_read_one_by_one(renderer: TemplateRenderer, template: str, expected: str) -> None:
    """Text as it is, anything else as JSON."""
    jinja = translated("{{ range .Messages }}{{ range .ToolCalls }}" + template + "{{ end }}{{ end }}")
    assert renderer.render(jinja, [{"role": "assistant", "content": "", "tool_calls": [CALL]}], {}) == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ range .Messages }}{{ if eq .Content `2` }}{{ break }}{{ end }}{{ .Content }}{{ end }}", "1"),
        ("{{ range .Messages }}{{ if eq .Content `2` }}{{ continue }}{{ end }}{{ .Content }}{{ end }}", "13"),
        ("{{ range .Messages }}{{ continue }}{{ else }}none{{ end }}|", "|"),
        ("{{ range .Messages }}{{ range $.Messages }}{{ break }}{{ end }}{{ .Content }}{{ end }}", "123"),
        ("{{ (index .Messages 1).Content }}", "2"),
        ("{{ with .System }}s{{ else with (index .Messages 0).Content }}<{{ . }}>{{ end }}", "<1>"),
        ("{{ len .Messages | printf `%d` }}{{ len (index .Messages 0).Role }}{{ `é` | len }}", "342"),
        ("{{ slice (index .Messages 0).Role 1 }}{{ slice `aéb` 0 3 }}{{ range .Messages }}{{ end }}", "seraé"),
        ("{{ print 1 2 `a` 3 }}{{ println `b` `c` }}{{ range .Messages }}{{ end }}", "1 2a3b c\n"),
        (
            "{{ range .Messages }}{{ range .Images }}x{{ else }}-{{ end }}{{ .ToolCallID }}{{ end }}",
            "---",
        ),
    ],
)
def test_loops_are_left_and_values_piped(renderer: TemplateRenderer, template: str, expected: str) -> None:
    """`break`, `continue`, fields of a parenthesis, `else with`, and functions that count bytes."""
    assert renderer.render(translated(template), said("u:1", "a:2", "u:3"), {}) == expected


def test_a_form_of_calls_that_is_not_read_back_leaves_a_template_without_tools(renderer: TemplateRenderer) -> None:
    """Phi-4-mini's marks, or `name[ARGS]` of later Mistrals: their tools cannot be asked for, all else can."""
    assert tool_format_of(translated(PHI)) is None
    later = "{{ range .Messages }}{{ range .ToolCalls }}[TOOL_CALLS]{{ .Function.Name }}[ARGS]{{ end }}{{ end }}"
    later += "{{ .Tools }}"
    assert tool_format_of(translated(later)) is None
    assert renderer.render(translated(PHI), [{"role": "assistant", "content": "", "tool_calls": [CALL]}], {}) == (
        '<|assistant|><|tool_call|>[{"name":"weather","arguments":{"city":"Łódź","days":2}}]<|/tool_call|>'
    )


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ .Prompt }}\n\n{{ html .System }}", r"template line 3: .*\(html \.System\)"),
        ("{{ .Prompt }}\n{{ break }}", r"line 2: .*\{\{ break \}\} outside of a range"),
        ("\n{{ if .Prompt }}\n{{ .System }}", r"line 2: .*without its"),
        ("a\nb\n{{ .Prompt", r"line 3: .*does not end"),
        ("{{ .Prompt }}\n{{ }}", r"line 2: .*an empty action"),
        ("{{ range .Messages }}\n{{ if true }}\n{{ .Colour }}{{ end }}{{ end }}", r"line 3: .*\.Colour"),
        ("{{ .Prompt }}\n{{ .Prompt | .System }}", r"line 2: .*'\|' before something that is no function"),
        ("{{ range .Messages }}{{ end }}\n{{ template `x` . }}", r"line 2: .*\{\{ template \}\}"),
        ("Query: {{ .Query }}\nDocument: {{ .Document }}", r"line 1: .*\.Query"),
        ("{{ .Prompt }}{{ printf .Prompt }}", r"\(printf \.Prompt\)"),
        ('{{ .Prompt }}{{ printf "%q" .Prompt }}', "printf"),
        ('{{ .Prompt }}{{ printf "%d" .Prompt }}', "printf"),
        ('{{ .Prompt }}{{ printf "%s" }}', "printf"),
        ('{{ .Prompt }}{{ printf "" .Prompt }}', "printf"),
    ],
)
def test_a_refusal_names_the_line_and_the_construct(template: str, said: str) -> None:
    """Templates have dozens of lines."""
    with pytest.raises(InvalidInput, match=said):
        translated(template)
