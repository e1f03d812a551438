"""What an operator sees of a node's HTTP: ids, log lines, metrics, limits, and answers to what is no request."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from blyan.api import door
from blyan.api.app import build_app
from blyan.api.metrics import build_metrics_app
from blyan.api.sending import send_piece
from blyan.api.state import node_key
from blyan.api.traffic import traffic_key
from blyan.node.http_config import MetricsConfig
from blyan.node.logs import JsonLines, fields_attribute
from blyan.primitives import limits
from blyan.primitives.errors import Denied
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, serving

SECRET = "a-prompt-that-nobody-may-log"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ops")
    save_random_checkpoint(folder / "hf", vocab_size=260)
    save_byte_tokenizer(folder / "hf")
    import_into(folder / "data", folder / "hf", "random")
    return folder / "data"


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[TestClient]:
    async with serving(data_dir) as made:
        yield made


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": "random", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 5} | changes


async def counted(client: TestClient) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its labels' values."""
    node = client.app[node_key]
    async with TestClient(TestServer(build_metrics_app(node))) as scraper:
        text = await (await scraper.get("/metrics")).text()
    return {
        (sample.name, *sample.labels.values()): sample.value for family in prometheus(text) for sample in family.samples
    }


# ids and lines


async def test_an_id_that_came_is_kept_and_another_is_made(client: TestClient) -> None:
    """In the header of every answer and in the body of errors."""
    given = await client.get("/v1/models/none", headers={"X-Request-Id": "mine-1"})
    assert given.headers["X-Request-Id"] == (await given.json())["error"]["request_id"] == "mine-1"
    made = await client.get("/v1/models/none", headers={"X-Request-Id": "not well-formed"})
    assert re.fullmatch("[0-9a-f]{16}", made.headers["X-Request-Id"])


async def test_the_last_event_of_a_failed_stream_has_the_id(client: TestClient, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "request_seconds_max", 0.0)
    response = await client.post("/v1/completions", json={"model": "random", "prompt": [1], "stream": True})
    body = await response.text()
    error = json.loads(body.strip().removeprefix("data: "))["error"]
    assert error["request_id"] == response.headers["X-Request-Id"]


async def test_each_request_is_one_line_without_what_the_caller_wrote(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Template for path; no query, no header, no prompt, no answer. (aiohttp's own lines are off in a served node.)"""
    caplog.set_level(logging.DEBUG)
    hidden = {"Authorization": f"Bearer {SECRET}", "Cookie": SECRET, "X-Api-Key": SECRET}
    answered = await client.post("/v1/chat/completions", json=chat(), headers=hidden)
    said = (await answered.json())["choices"][0]["message"]["content"]
    await client.get(f"/v1/models/{SECRET}", params={"token": SECRET})
    await client.get(f"/{SECRET}?key={SECRET}")
    await client.get("/livez")
    records = [record for record in caplog.records if record.name == "blyan.requests"]
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name.startswith("blyan")]
    fields = [getattr(record, fields_attribute) for record in records]
    assert [(each["method"], each["route"], each["status"]) for each in fields] == [
        ("POST", "/v1/chat/completions", 200),
        ("GET", "/v1/models/{id}", 404),
        ("GET", "unmatched", 404),
        ("GET", "/livez", 200),
    ]
    assert fields[0]["completion_tokens"] == 5
    assert fields[0]["outcome"] == "length"
    assert records[3].levelno == logging.DEBUG
    written = json.dumps(lines)
    assert SECRET not in written
    assert len(said) < 3 or said not in written


async def test_the_compute_thread_logs_with_the_request_s_id(
    client: TestClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generation that fails by a mistake of ours is found by the id that the caller has."""
    from blyan.inference import session

    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError(SECRET)

    monkeypatch.setattr(session, "decode", broken)
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(JsonLines().format(record))

    handler = Kept()
    logging.getLogger("blyan.inference").addHandler(handler)
    try:
        await client.post("/v1/chat/completions", json=chat(), headers={"X-Request-Id": "find-me"})
    finally:
        logging.getLogger("blyan.inference").removeHandler(handler)
    [line] = [json.loads(line) for line in lines]
    assert line["request"] == "find-me"
    assert SECRET not in "".join(lines)


# metrics


async def test_requests_tokens_and_ends_are_counted(client: TestClient) -> None:
    await client.post("/v1/chat/completions", json=chat())
    await (await client.post("/v1/chat/completions", json=chat(stream=True))).read()
    await client.post("/api/embed", json={"model": "random", "input": "abc"})
    await client.get("/v1/models/none")
    found = await counted(client)
    assert found["blyan_http_requests_total", "POST", "/v1/chat/completions", "200"] == 2
    assert found["blyan_http_requests_total", "GET", "/v1/models/{id}", "404"] == 1
    assert found["blyan_http_request_seconds_count", "POST", "/v1/chat/completions"] == 2
    assert found["blyan_generations_total", "length"] == 2
    assert found["blyan_generations_total", "embedded"] == 1
    assert found["blyan_tokens_total", "completion"] == 10
    assert found["blyan_tokens_total", "prompt"] > 2 * len(SECRET)
    assert found["blyan_time_to_first_token_seconds_count",] == 2
    assert found["blyan_inter_token_seconds_count",] == 8
    assert found["blyan_http_requests_in_flight",] == 0
    assert found["blyan_bytes_verified_total",] > 0
    assert found["blyan_blocks_corrupt",] == 0
    assert (found["blyan_models", "ready"], found["blyan_models", "refused"]) == (1, 0)
    assert found["blyan_chain_entries", "parameter"] > 0
    assert found["process_resident_memory_bytes",] > 1e6


async def test_strangers_add_no_label_values(client: TestClient) -> None:
    """However many paths, methods, models and ids they try."""
    for number, method in enumerate(("TRACE", "PROPFIND", "MKCOL")):
        await client.get(f"/nowhere/{number}")
        await client.request(method, "/v1/models")
        await client.post("/v1/chat/completions", json=chat(model=f"model-{number}"))
        await client.get(f"/v1/models/{number}", headers={"X-Request-Id": f"id-{number}"})
    labels = {value for _, *values in await counted(client) for value in values}
    assert not {label for label in labels if re.search(r"nowhere|TRACE|PROPFIND|model-|id-\d", label)}
    found = await counted(client)
    assert found["blyan_http_requests_total", "GET", "unmatched", "404"] == 3
    assert found["blyan_http_requests_total", "other", "unmatched", "405"] == 3


async def test_a_caller_that_leaves_is_counted_as_such(client: TestClient) -> None:
    response = await client.post("/v1/chat/completions", json=chat(stream=True, max_tokens=100))
    await response.content.readline()
    response.close()
    async with asyncio.timeout(10):
        while ("blyan_generations_total", "cancelled") not in (found := await counted(client)):
            pass
    assert found["blyan_tokens_total", "completion"] >= 1


async def test_metrics_come_as_openmetrics_for_who_accepts_them(client: TestClient) -> None:
    node = client.app[node_key]
    async with TestClient(TestServer(build_metrics_app(node))) as scraper:
        response = await scraper.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        assert {family.name for family in openmetrics(await response.text())} >= {"blyan_tokens", "blyan_models"}
    assert (await client.get("/metrics")).status == 404


async def test_metrics_answer_names_of_their_own_alone(data_dir: Path) -> None:
    """As the API does; and nothing else is there."""
    async with (
        serving(data_dir, metrics={"listen": "127.0.0.1:0"}) as client,
        TestClient(TestServer(build_metrics_app(client.app[node_key]))) as scraper,
    ):
        assert (await scraper.get("/metrics", headers={"Host": "evil.example"})).status == 403
        assert (await scraper.get("/v1/models")).status == 404


def test_metrics_off_loopback_are_denied_unless_that_is_allowed() -> None:
    with pytest.raises(Denied, match=r"metrics\.listen"):
        MetricsConfig(listen="0.0.0.0:9645")
    assert MetricsConfig(listen="0.0.0.0:9645", allow_remote=True).address == ("0.0.0.0", 9645)
    assert MetricsConfig().address is None


# limits


@asynccontextmanager
async def at_the_door(client: TestClient) -> AsyncIterator[int]:
    """The port of real doors, as a served node has them."""
    runner = web.AppRunner(build_app(client.app[node_key]), handler_cancellation=True)
    await runner.setup()
    listening, port = await door.listen(runner, "127.0.0.1", 0, lambda: "made-here")
    try:
        yield port
    finally:
        listening.close()
        await runner.cleanup()


async def sent(port: int, raw: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and JSON body of what comes back for these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, json.loads(body)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"no http at all\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nbad header\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: 1\r\n" * 500 + b"\r\n", 400),
        (b"POST /api/show HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n", 400),
    ],
)
async def test_what_is_no_request_is_answered_in_our_shape(client: TestClient, raw: bytes, status: int) -> None:
    async with at_the_door(client) as port:
        found, headers, body = await sent(port, raw)
    assert found == status
    assert headers["x-request-id"] == "made-here"
    assert headers["x-content-type-options"] == "nosniff"
    assert body["error"]["code"] in ("invalid_input", "payload_too_large")


async def test_an_expectation_that_we_do_not_know_is_417(client: TestClient) -> None:
    async with at_the_door(client) as port:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 0\r\n"
        status, _, body = await sent(port, head + b"Expect: miracles\r\n\r\n")
    assert (status, body["error"]["code"]) == (417, "invalid_input")


async def test_too_many_connections_are_cut(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "connections_max", 1)
    async with at_the_door(client) as port:
        _, first = await asyncio.open_connection("127.0.0.1", port)
        reader, second = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        first.close()
        second.close()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
async def test_a_body_that_does_not_come_is_408(client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(limits, "body_seconds_max", 0.2)

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"model":'
        await asyncio.sleep(3)
        yield b"1}"

    response = await client.post(path, data=slowly(), headers={"Content-Type": "application/json"})
    body = await response.json()
    assert response.status == 408
    assert ("within 0.2 s" in body["error"]) if path == "/api/chat" else (body["error"]["code"] == "request_timeout")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
async def test_a_body_too_large_or_too_deep_is_refused_in_the_dialect(client: TestClient, path: str) -> None:
    large = await client.post(path, json={"model": "x" * limits.request_body_bytes_max})
    deep: Any = "x"
    for _ in range(limits.body_depth_max + 1):
        deep = [deep]
    nested = await client.post(path, json={"model": deep})
    assert (large.status, nested.status) == (413, 400)
    for body in (await large.json(), await nested.json()):
        error = body["error"]
        assert isinstance(error, str if path.startswith("/api") else dict)
        assert "expected at most" in (error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/show", {"model": "nobody"}),
        ("POST", "/api/copy", {"source": "nobody", "destination": "x"}),
        ("DELETE", "/api/delete", {"model": "nobody"}),
        ("POST", "/api/pull", {"model": "nobody"}),
        ("POST", "/api/push", {"model": "nobody"}),
    ],
)
async def test_a_request_that_only_names_things_is_small(
    client: TestClient, method: str, path: str, body: dict[str, str]
) -> None:
    """64 KiB; a template, a prompt or a list of files may be larger."""
    for padding, large in (("", False), (" " * limits.small_body_bytes_max, True)):
        response = await client.request(method, path, data=json.dumps(body) + padding)
        assert (response.status == 413) is large
        assert '"error":' in await response.text()


async def test_a_small_body_that_unpacks_to_a_large_one_is_refused(client: TestClient) -> None:
    """The limit holds for what is unpacked."""
    import gzip

    packed = gzip.compress(b" " * (limits.request_body_bytes_max + 1))
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    response = await client.post("/v1/completions", data=packed, headers=headers)
    assert response.status == 413


@pytest.mark.parametrize("path", ["/v1/models", "/api/tags"])
async def test_too_many_requests_under_way_are_429_and_health_is_answered(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(limits, "requests_in_flight_max", 0)
    response = await client.get(path)
    assert response.status == 429
    assert int(response.headers["Retry-After"]) > 0
    assert (await client.get("/livez")).status == 200
    assert (await client.get("/readyz")).status == 200


async def test_a_query_that_says_a_name_twice_is_refused(client: TestClient) -> None:
    response = await client.get("/chain/parameter/find?model=a&model=b")
    assert response.status == 400


async def test_while_draining_requests_are_refused_and_readyz_says_why(client: TestClient) -> None:
    assert await client.app[traffic_key].drained(1)
    refused = await client.get("/v1/models")
    ready = await client.get("/readyz")
    assert (refused.status, ready.status) == (503, 503)
    assert "Retry-After" in refused.headers
    assert "draining" in await ready.text()
    assert (await client.get("/livez")).status == 200


@pytest.mark.parametrize("size", [512, 65_536])
async def test_a_reader_that_stands_still_loses_its_connection(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """And what it would have read is bounded by the buffers of the sockets."""
    monkeypatch.setattr(limits, "send_seconds_max", 0.3)
    ended: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()

    async def endless(request: web.Request) -> web.StreamResponse:
        response, pieces = web.StreamResponse(), 0
        await response.prepare(request)
        try:
            while True:
                await send_piece(request, response, b"x" * size)
                pieces += 1
        except ConnectionError as reason:
            ended.set_result((type(reason).__name__, pieces))
            raise

    app = web.Application()
    app.router.add_get("/", endless)
    async with TestServer(app) as server, asyncio.timeout(15):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        name, pieces = await ended
        assert name == "ReaderStalled"
        assert pieces * size < 64 * limits.MIB
        writer.close()
        del reader


async def test_the_openai_client_has_the_id_of_its_request(client: TestClient) -> None:
    async with openai.AsyncOpenAI(base_url=str(client.make_url("/v1")), api_key="none", max_retries=0) as theirs:
        with pytest.raises(openai.NotFoundError) as caught:
            await theirs.models.retrieve("none", extra_headers={"X-Request-Id": "mine-2"})
    assert caught.value.request_id == "mine-2"
