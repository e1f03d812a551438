"""Programs as people have them, against a real node: the official openai and ollama clients, and a framework on top.

Whole and streamed, synchronous and not; each refusal as the exception that programs catch; and a stream that is closed
gives its place to the next.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from blyan.primitives import limits
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, running, serving
from running_node import RunningNode

# making and starting the node is the first test's, on a machine with other work
pytestmark = pytest.mark.timeout(60)
MESSAGES: list[Any] = [{"role": "user", "content": "hello"}]
GREEDY = {"temperature": 0, "num_predict": 12}
LONG = 7000


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("clients")
    save_random_checkpoint(folder / "hf", vocab_size=260, max_position_embeddings=8192)
    save_byte_tokenizer(folder / "hf")
    import_into(folder / "data", folder / "hf", "random")
    with running(folder / "data") as node:
        yield node


@pytest.fixture
def client(node: RunningNode) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{node.url}/v1", api_key="none", max_retries=0, timeout=15) as made:
        yield made


def asynchronous(node: RunningNode) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{node.url}/v1", api_key="none", max_retries=0, timeout=15)


# openai


def test_openai_sync_whole_and_streamed_are_equal(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="random", messages=MESSAGES, max_tokens=12, temperature=0)
    with client.chat.completions.create(
        model="random", messages=MESSAGES, max_tokens=12, temperature=0, stream=True
    ) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert len({chunk.id for chunk in chunks}) == 1


async def test_openai_async_whole_streamed_and_many_at_once_are_equal(node: RunningNode) -> None:
    async with asynchronous(node) as client:
        wholes = await asyncio.gather(
            *(client.completions.create(model="random", prompt="x", max_tokens=9, temperature=0) for _ in range(6))
        )
        text = ""
        async for chunk in await client.completions.create(
            model="random", prompt="x", max_tokens=9, temperature=0, stream=True
        ):
            text += chunk.choices[0].text
    assert {whole.choices[0].text for whole in wholes} == {text}


def test_openai_helper_for_streams_gathers_the_answer(client: openai.OpenAI) -> None:
    """The client's own accumulator, stricter about chunks than a loop; it refuses to parse what a length cut off."""
    with client.chat.completions.stream(model="random", messages=MESSAGES, max_tokens=8, temperature=0) as stream:
        kinds = {event.type for event in stream}
        with pytest.raises(openai.LengthFinishReasonError) as caught:
            stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    whole = client.chat.completions.create(model="random", messages=MESSAGES, max_tokens=8, temperature=0)
    assert caught.value.completion.choices[0].message.content == whole.choices[0].message.content


def test_openai_lists_retrieves_and_embeds(client: openai.OpenAI) -> None:
    """Floats and the base64 that the client asks for by itself."""
    assert [model.id for model in client.models.list()] == ["random"]
    assert client.models.retrieve("random").owned_by == "blyan"
    default = client.embeddings.create(model="random", input=["a", "b"])
    floats = client.embeddings.create(model="random", input=["a", "b"], encoding_format="float")
    assert [each.index for each in default.data] == [0, 1]
    for one, other in zip(default.data, floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "status", "body"),
    [
        (openai.NotFoundError, 404, {"model": "none"}),
        (openai.BadRequestError, 400, {"messages": []}),
        (openai.BadRequestError, 400, {"temperature": 9}),
        (openai.BadRequestError, 400, {"max_tokens": 100_000}),
        (openai.BadRequestError, 400, {"extra_body": {"no_such_parameter": 1}}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_openai_refusals_are_its_own_exceptions(
    client: openai.OpenAI, kind: type[openai.APIStatusError], status: int, body: dict[str, Any], stream: bool
) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**{"model": "random", "messages": MESSAGES, "stream": stream, **body})
    assert type(caught.value) is kind
    assert caught.value.status_code == status
    assert caught.value.code
    assert caught.value.request_id
    assert "expected" in caught.value.message


def test_openai_names_the_parameter_that_is_wrong(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="random", messages=MESSAGES, top_p=7)
    assert caught.value.param == "top_p"
    assert caught.value.type == "invalid_request_error"


def test_openai_other_statuses_are_its_own_exceptions(node: RunningNode) -> None:
    """403 for another Host, 413 for a body above the limit."""
    headers = {"Host": "evil.example"}
    stranger = openai.OpenAI(base_url=f"{node.url}/v1", api_key="x", max_retries=0, default_headers=headers)
    with stranger, pytest.raises(openai.PermissionDeniedError):
        stranger.models.list()
    with openai.OpenAI(base_url=f"{node.url}/v1", api_key="x", max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            client.completions.create(model="random", prompt="x" * (5 << 20))
        assert caught.value.status_code == 413
        with pytest.raises(openai.NotFoundError):
            client.moderations.create(input="x")  # a route that is not here


async def test_openai_a_full_queue_is_a_rate_limit_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than run and wait together; those that were taken go on, and all is free again when they are closed."""
    monkeypatch.setattr(limits, "generations_queued_client_max", 20)
    save_random_checkpoint(tmp_path / "hf", vocab_size=260, max_position_embeddings=8192)
    save_byte_tokenizer(tmp_path / "hf")
    import_into(tmp_path / "data", tmp_path / "hf", "random")
    async with (
        serving(tmp_path / "data", inference={"running_max": 4}) as server,
        openai.AsyncOpenAI(base_url=str(server.make_url("/v1")), api_key="none", max_retries=0, timeout=15) as client,
    ):

        async def begin() -> Any:
            try:
                return await client.completions.create(
                    model="random", prompt="x", max_tokens=LONG, stream=True, extra_body={"ignore_eos": True}
                )
            except openai.APIStatusError as refused:
                return refused

        tasks = [asyncio.create_task(begin()) for _ in range(40)]
        async with asyncio.timeout(15):
            # the first to end: what was taken goes on for minutes
            for ended in asyncio.as_completed(tasks):
                if isinstance(await ended, Exception):
                    break
        refused = [task.result() for task in tasks if task.done() and isinstance(task.result(), Exception)]
        assert {type(each) for each in refused} == {openai.RateLimitError}
        assert all(int(each.response.headers["Retry-After"]) > 0 for each in refused)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, openai.AsyncStream):
                await result.close()
        async with asyncio.timeout(10):
            await client.completions.create(model="random", prompt="x", max_tokens=1)


def test_openai_a_closed_stream_frees_its_place(client: openai.OpenAI) -> None:
    """Twelve that are begun and closed, and the next answers as soon as the first did."""
    for _ in range(12):
        stream = client.completions.create(
            model="random", prompt="x", max_tokens=LONG, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        stream.close()
    began = time.monotonic()
    client.completions.create(model="random", prompt="x", max_tokens=1)
    assert time.monotonic() - began < 3


async def test_openai_a_cancelled_task_frees_its_place(node: RunningNode) -> None:
    """Whole answers too, which have sent nothing yet."""
    async with asynchronous(node) as client:
        waiting = [
            asyncio.create_task(
                client.completions.create(model="random", prompt="x", max_tokens=LONG, extra_body={"ignore_eos": True})
            )
            for _ in range(8)
        ]
        await asyncio.sleep(0.3)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        async with asyncio.timeout(3):
            await client.completions.create(model="random", prompt="x", max_tokens=1)


# ollama


def test_ollama_sync_whole_and_streamed_are_equal(node: RunningNode) -> None:
    client = ollama.Client(host=node.url)
    whole = client.chat("random", messages=MESSAGES, options=GREEDY)
    parts = list(client.chat("random", messages=MESSAGES, options=GREEDY, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert parts[-1].done
    assert parts[-1].eval_count == whole.eval_count == 12
    assert client.generate("random", "x", options=GREEDY).response


async def test_ollama_async_whole_and_streamed_are_equal(node: RunningNode) -> None:
    client = ollama.AsyncClient(host=node.url)
    whole = await client.generate("random", "x", options=GREEDY)
    text = ""
    async for part in await client.generate("random", "x", options=GREEDY, stream=True):
        text += part.response
    assert text == whole.response
    assert len((await client.embed("random", ["a", "b"])).embeddings) == 2
    assert [model.model for model in (await client.ps()).models] == ["random:latest"]


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        (404, {"model": "none"}),
        (400, {"model": "random", "options": {"temperature": 9}}),
        (400, {"model": "random", "options": {"mirostat": 2}}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_ollama_refusals_are_response_errors(
    node: RunningNode, status: int, asked: dict[str, Any], stream: bool
) -> None:
    client: Any = ollama.Client(host=node.url)
    with pytest.raises(ollama.ResponseError) as caught:
        list(client.chat(messages=MESSAGES, stream=stream, **asked))
    assert caught.value.status_code == status
    assert caught.value.error
    assert not caught.value.error.startswith("{")  # text, not the body


def test_ollama_a_route_that_is_not_here_is_a_response_error(node: RunningNode) -> None:
    """In this dialect's words, although no handler of it was reached."""
    response = httpx.post(f"{node.url}/api/no-such-route", json={})
    assert response.status_code == 404
    assert isinstance(response.json()["error"], str)
    denied = httpx.get(f"{node.url}/api/tags", headers={"Host": "evil.example"})
    assert (denied.status_code, type(denied.json()["error"])) == (403, str)


def test_ollama_a_closed_stream_frees_its_place(node: RunningNode) -> None:
    client = ollama.Client(host=node.url)
    for _ in range(12):
        stream = client.generate("random", "x", options={"num_predict": LONG, "temperature": 1}, raw=True, stream=True)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    began = time.monotonic()
    client.generate("random", "x", options={"num_predict": 1})
    assert time.monotonic() - began < 3


async def test_ollama_a_cancelled_task_frees_its_place(node: RunningNode) -> None:
    client = ollama.AsyncClient(host=node.url)
    waiting = [
        asyncio.create_task(client.generate("random", "x", options={"num_predict": LONG}, raw=True)) for _ in range(8)
    ]
    await asyncio.sleep(0.3)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(3):
        await client.generate("random", "x", options={"num_predict": 1})


# a framework on top: langchain-openai


@pytest.fixture
def framework(node: RunningNode) -> ChatOpenAI:
    return ChatOpenAI(
        model="random",
        base_url=f"{node.url}/v1",
        api_key="none",
        temperature=0,
        max_tokens=10,
        max_retries=0,
        timeout=15,
    )


def test_langchain_chats_streams_and_batches(framework: ChatOpenAI) -> None:
    """The same answer each way, with its usage."""
    messages = [SystemMessage("Be brief."), HumanMessage("hello")]
    whole = framework.invoke(messages)
    streamed = list(framework.stream(messages))
    assert "".join(str(chunk.content) for chunk in streamed) == whole.content
    assert whole.response_metadata["finish_reason"] == "length"
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == 10
    assert [each.content for each in framework.batch([messages, messages])] == [whole.content] * 2


async def test_langchain_chats_and_streams_asynchronously(framework: ChatOpenAI) -> None:
    whole = await framework.ainvoke("hello")
    text = ""
    async for chunk in framework.astream("hello"):
        text += str(chunk.content)
    assert text == whole.content


def test_langchain_raises_the_client_s_errors(framework: ChatOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        framework.bind(model="none").invoke("hello")
    with pytest.raises(openai.BadRequestError):
        list(framework.bind(temperature=9).stream("hello"))


def test_langchain_embeds(node: RunningNode) -> None:
    """It sends token ids of its own tokenizer unless it is told not to; ours is asked by text."""
    embeddings = OpenAIEmbeddings(
        model="random", base_url=f"{node.url}/v1", api_key="none", check_embedding_ctx_length=False
    )
    vectors = embeddings.embed_documents(["a", "b"])
    assert len(vectors) == 2
    assert embeddings.embed_query("a") == pytest.approx(vectors[0], abs=1e-6)
