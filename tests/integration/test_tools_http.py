"""Tools and forms of answers over HTTP, with the official clients: a random model cannot help but follow a grammar."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest
from aiohttp.test_utils import TestClient

from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, serving

# as Qwen3's, shortened
HERMES = """{%- if tools %}<|system|># Tools
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
Answer with <tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|end|>{%- endif %}
{%- for message in messages %}<|{{ 'user' if message.role == 'tool' else message.role }}|>
{%- if message.role == 'tool' %}<tool_response>{{ message.content }}</tool_response>
{%- else %}{{ message.content }}{%- endif %}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|end|>
{%- endfor %}{%- if add_generation_prompt %}<|assistant|>{%- endif %}"""
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Seoul", "Paris"]},
                "day": {"type": "integer", "minimum": 0, "maximum": 9},
            },
            "required": ["city", "day"],
            "additionalProperties": False,
        },
    },
}
KIND: dict[str, Any] = {
    "type": "object",
    "properties": {"kind": {"enum": ["good", "bad"]}, "rate": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["kind", "rate"],
    "additionalProperties": False,
}
ASKED: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    save_random_checkpoint(folder / "hf", vocab_size=260, max_position_embeddings=4096)
    save_byte_tokenizer(folder / "hf", template=HERMES)
    import_into(folder / "data", folder / "hf", "random")
    save_byte_tokenizer(folder / "hf")
    import_into(folder / "data", folder / "hf", "toolless")
    thinking = "{{ messages[0].content }}{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}"
    save_byte_tokenizer(folder / "hf", template=thinking)
    import_into(folder / "data", folder / "hf", "thinker")
    return folder / "data"


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[TestClient]:
    async with serving(data_dir) as made:
        yield made


def official(client: TestClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=str(client.make_url("/v1")), api_key="none", max_retries=0)


async def test_a_required_call_is_made_and_its_result_goes_back(client: TestClient) -> None:
    """The name is a tool's and the arguments follow its schema; the template sees call and result."""
    theirs = official(client)
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        made: Any = await theirs.chat.completions.create(
            model="random", messages=ASKED, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False, seed=3
        )
        answer = made.choices[0]
        assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)
        (call,) = answer.message.tool_calls
        assert (call.type, call.function.name) == ("function", "weather")
        arguments = json.loads(call.function.arguments)
        assert arguments["city"] in ("Seoul", "Paris")
        assert 0 <= arguments["day"] <= 9
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    said: list[Any] = [*ASKED, answer.message.model_dump(exclude_none=True), result]
    without = await theirs.chat.completions.create(model="random", messages=ASKED, max_tokens=1)
    following = await theirs.chat.completions.create(model="random", messages=said, tools=[WEATHER], max_tokens=1)
    assert without.usage is not None
    assert following.usage is not None
    assert following.usage.prompt_tokens > without.usage.prompt_tokens + 200


async def test_a_streamed_call_comes_as_a_delta(client: TestClient) -> None:
    """Whole, with an id, and nothing of it as text; each of several answers has its own."""
    chunks = [
        chunk
        async for chunk in await official(client).chat.completions.create(
            model="random", messages=ASKED, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, n=2,
            stream=True,
        )
    ]  # fmt: skip
    for index in range(2):
        choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        calls = [call for choice in choices for call in choice.delta.tool_calls or []]
        assert len(calls) == 1
        assert calls[0].function is not None
        assert calls[0].function.arguments is not None
        assert json.loads(calls[0].function.arguments)["city"] in ("Seoul", "Paris")
        assert (calls[0].index, bool(calls[0].id), calls[0].function.name) == (0, True, "weather")
        assert "".join(choice.delta.content or "" for choice in choices) == ""
        assert choices[-1].finish_reason == "tool_calls"


async def test_a_go_template_with_tools_makes_a_model_that_calls_them(client: TestClient) -> None:
    """In both dialects; without tools in the template they are refused."""
    template = """{{ if .Tools }}<|system|>Call within <tool_call></tool_call>: {{ .Tools }}<|end|>{{ end }}
{{- range .Messages }}<|{{ .Role }}|>{{ .Content }}{{ range .ToolCalls }}<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
</tool_call>{{ end }}<|end|>{{ end }}<|assistant|>"""
    theirs = ollama.AsyncClient(host=str(client.make_url("/")))
    await theirs.create("caller:go", from_="toolless", template=template)
    assert "tools" in ((await theirs.show("caller:go")).capabilities or [])
    made: Any = await official(client).chat.completions.create(
        model="caller:go", messages=ASKED, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, seed=3
    )
    (call,) = made.choices[0].message.tool_calls
    assert call.function.name == "weather"
    said = [
        *ASKED,
        {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Paris"}}}]},
        {"role": "tool", "tool_name": "weather", "content": "25"},
    ]
    options = {"num_predict": 1}
    told = await theirs.chat("caller:go", messages=said, tools=[WEATHER], options=options)
    less = await theirs.chat("caller:go", messages=ASKED, options=options)
    assert (told.prompt_eval_count or 0) > (less.prompt_eval_count or 0) + 300
    await theirs.create("other", from_="toolless", template="{{ .Tools }}{{ range .Messages }}{{ end }}x")
    assert "tools" not in ((await theirs.show("other")).capabilities or [])
    with pytest.raises(ollama.ResponseError, match="tools: expected a model whose chat template has tools"):
        await theirs.chat("other", messages=ASKED, tools=[WEATHER])
    for name in ("caller:go", "other"):
        await theirs.delete(name)


async def test_auto_lets_the_model_speak_and_none_takes_the_tools_away(client: TestClient) -> None:
    """A random model says something."""
    theirs = official(client)
    spoken = await theirs.chat.completions.create(
        model="random", messages=ASKED, tools=[WEATHER], max_tokens=20, seed=1
    )
    assert spoken.choices[0].message.content
    assert spoken.choices[0].finish_reason == "length"
    plain = await theirs.chat.completions.create(model="random", messages=ASKED, max_tokens=20, seed=1)
    without = await theirs.chat.completions.create(
        model="random", messages=ASKED, tools=[WEATHER], tool_choice="none", max_tokens=20, seed=1
    )
    assert without.choices[0].message.content == plain.choices[0].message.content


async def test_json_follows_the_schema(client: TestClient) -> None:
    """Greedy or drawn, whole or streamed, in chat and with tools beside it."""
    theirs = official(client)
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "kind", "strict": True, "schema": KIND}}
    seen: set[str] = set()
    for seed in range(4):
        made: Any = await theirs.chat.completions.create(
            model="random", messages=ASKED, response_format=wanted, seed=seed, temperature=1.5
        )
        assert made.choices[0].finish_reason == "stop"
        found = json.loads(made.choices[0].message.content)
        assert set(found) == {"kind", "rate"}
        assert found["kind"] in ("good", "bad")
        assert found["rate"] in range(1, 6)
        seen.add(json.dumps(found))
    assert len(seen) > 1
    stream: Any = await theirs.chat.completions.create(
        model="random", messages=ASKED, response_format=wanted, stream=True, temperature=0
    )
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert set(json.loads(text)) == {"kind", "rate"}
    free: Any = await theirs.chat.completions.create(
        model="random", messages=ASKED, response_format={"type": "json_object"}, max_tokens=30, logprobs=True
    )
    assert free.choices[0].message.content.lstrip().startswith("{")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "what"}}}},
            "response_format",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}},
            "response_format",
        ),
        ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [WEATHER], "model": "toolless"}, "tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            "messages",
        ),
    ],
)
async def test_what_cannot_be_followed_is_refused_by_its_parameter(
    client: TestClient, changes: dict[str, Any], param: str
) -> None:
    """Before anything is computed."""
    response = await client.post("/v1/chat/completions", json={"model": "random", "messages": ASKED} | changes)
    assert (response.status, (await response.json())["error"]["param"]) == (400, param)


async def test_arguments_are_free_where_a_schema_makes_no_grammar(client: TestClient) -> None:
    """Unless the tool is strict."""
    odd: Any = {"type": "object", "properties": {"a": {"type": "integer"}}, "not": {"required": ["b"]}}
    tool: Any = {"type": "function", "function": {"name": "odd", "parameters": odd}}
    theirs = official(client)
    made = await theirs.chat.completions.create(
        model="random", messages=ASKED, tools=[tool], max_tokens=2, logprobs=True, top_logprobs=1
    )
    assert made.choices
    tool = {"type": "function", "function": tool["function"] | {"strict": True}}
    with pytest.raises(openai.BadRequestError) as refused:
        await theirs.chat.completions.create(model="random", messages=ASKED, tools=[tool])
    assert refused.value.param == "tools"


async def test_ollama_s_client_calls_tools_and_asks_for_json(client: TestClient) -> None:
    """Arguments are objects there; what a model can do is shown."""
    theirs = ollama.AsyncClient(host=str(client.make_url("/")))
    assert "tools" in ((await theirs.show("random")).capabilities or [])
    assert "tools" not in ((await theirs.show("toolless")).capabilities or [])
    for stream in (False, True):
        options = {"seed": 2, "num_predict": 200}
        made: Any = await theirs.generate("random", "hello", format=KIND, options=options, stream=stream)
        text = "".join([part.response async for part in made]) if stream else made.response
        assert set(json.loads(text)) == {"kind", "rate"}
    said: list[Any] = [
        *ASKED,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "weather", "arguments": {"day": 1}}}],
        },
        {"role": "tool", "tool_name": "weather", "content": "sunny"},
    ]
    answer = await theirs.chat("random", messages=said, tools=[WEATHER], options={"num_predict": 4})
    assert answer.message.content
    with pytest.raises(ollama.ResponseError, match="tools: expected a model whose chat template has tools"):
        await theirs.chat("toolless", messages=said, tools=[WEATHER])


async def test_a_thought_is_no_part_of_the_answer(client: TestClient) -> None:
    """In both dialects, whole and streamed; a request may do without it."""
    theirs, other = official(client), ollama.AsyncClient(host=str(client.make_url("/")))
    made: Any = await theirs.chat.completions.create(model="thinker", messages=ASKED, max_tokens=9, seed=1)
    thought = made.choices[0].message.reasoning_content
    assert thought
    assert made.choices[0].message.content == ""
    stream: Any = await theirs.chat.completions.create(
        model="thinker", messages=ASKED, max_tokens=9, seed=1, stream=True
    )
    deltas = [chunk.choices[0].delta async for chunk in stream]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == thought
    assert "".join(delta.content or "" for delta in deltas) == ""
    plain: Any = await theirs.chat.completions.create(
        model="thinker", messages=ASKED, max_tokens=9, seed=1, reasoning_effort="none"
    )
    assert plain.choices[0].message.content
    assert not hasattr(plain.choices[0].message, "reasoning_content")
    options = {"num_predict": 9, "seed": 1}
    answer = await other.chat("thinker", messages=ASKED, options=options, think=True)
    assert (answer.message.thinking, answer.message.content) == (thought, "")
    answer = await other.chat("thinker", messages=ASKED, options=options, think=False)
    assert (answer.message.thinking, bool(answer.message.content)) == (None, True)
    parts = [part async for part in await other.generate("thinker", "hello", options=options, stream=True, think=True)]
    assert "".join(part.thinking or "" for part in parts) == thought
    assert "thinking" in ((await other.show("thinker")).capabilities or [])
    with pytest.raises(ollama.ResponseError, match="think: expected a model that thinks"):
        await other.chat("toolless", messages=ASKED, think=True)
    with pytest.raises(openai.BadRequestError) as refused:
        await theirs.chat.completions.create(model="toolless", messages=ASKED, reasoning_effort="low")
    assert refused.value.param == "reasoning_effort"


async def test_an_answer_can_be_sent_back_as_it_came(client: TestClient) -> None:
    """With its thought, by both clients, as their tool loops do; empty fields of newer clients too."""
    theirs, other = official(client), ollama.AsyncClient(host=str(client.make_url("/")))
    made: Any = await theirs.chat.completions.create(model="thinker", messages=ASKED, max_tokens=5, seed=1)
    again: list[Any] = [*ASKED, made.choices[0].message, *ASKED]
    assert (await theirs.chat.completions.create(model="thinker", messages=again, max_tokens=2)).choices
    answer = await other.chat("thinker", messages=ASKED, options={"num_predict": 5, "seed": 1})
    assert (await other.chat("thinker", messages=[*ASKED, answer.message, *ASKED], options={"num_predict": 2})).done
    message = {"role": "assistant", "content": "x", "annotations": [], "audio": None}
    body = {"model": "random", "messages": [*ASKED, message, *ASKED], "max_tokens": 1}
    assert (await client.post("/v1/chat/completions", json=body)).status == 200


async def test_every_streamed_choice_says_its_role(client: TestClient) -> None:
    """Once, before its first piece."""
    stream: Any = await official(client).chat.completions.create(
        model="random", messages=ASKED, n=3, max_tokens=2, stream=True
    )
    roles = [(choice.index, choice.delta.role) async for chunk in stream for choice in chunk.choices]
    assert [index for index, role in roles if role == "assistant"] == [0, 1, 2]


async def test_ollama_s_log_probabilities_are_the_openai_ones(client: TestClient) -> None:
    """Whole and streamed, with alternatives."""
    asked: dict[str, Any] = {"model": "random", "messages": ASKED, "logprobs": True, "top_logprobs": 2}
    body = await (await client.post("/v1/chat/completions", json=asked | {"max_tokens": 5, "seed": 1})).json()
    expected = body["choices"][0]["logprobs"]["content"]
    other = ollama.AsyncClient(host=str(client.make_url("/")))
    options = {"num_predict": 5, "seed": 1}
    whole = await other.chat("random", messages=ASKED, options=options, logprobs=True, top_logprobs=2)
    parts = [
        part
        async for part in await other.chat(
            "random", messages=ASKED, options=options, logprobs=True, top_logprobs=2, stream=True
        )
    ]
    streamed = [one for part in parts for one in part.logprobs or []]
    for found in (list(whole.logprobs or []), streamed):
        assert [(one.token, one.logprob) for one in found] == [(one["token"], one["logprob"]) for one in expected]
        assert [len(one.top_logprobs or []) for one in found] == [2] * 5
