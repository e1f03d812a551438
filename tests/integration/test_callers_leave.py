"""Callers that leave without a word: what they held and where they stood is free within a second.

A real node in its own process, with two places; what it holds is read from /metrics.
"""

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, running
from running_node import RunningNode

PLACES = 2
WITHIN_S = 1.0
RUNNING, WAITING = "blyan_generations_running", "blyan_generations_waiting"
USED = 'blyan_kv_pages{state="used"}'


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("leaving")
    save_random_checkpoint(folder / "hf", max_position_embeddings=65_536, vocab_size=260)
    save_byte_tokenizer(folder / "hf")
    import_into(folder / "data", folder / "hf", "talkative")
    (folder / "data/node.toml").write_text(
        f'[inference]\nkv_memory = "256MiB"\nrunning_max = {PLACES}\n[metrics]\nlisten = "127.0.0.1:0"\n'
    )
    with running(folder / "data") as made:
        yield made


def asked(node: RunningNode, *, stream: bool, prompt: int = 40) -> socket.socket:
    """A connection over which a completion was asked for that lasts for minutes."""
    host, _, port = node.url.removeprefix("http://").partition(":")
    said = {"model": "talkative", "prompt": [1] * prompt, "max_tokens": 60_000, "stream": stream, "ignore_eos": True}
    body = json.dumps(said).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(body)}\r\n"
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    return connection


def closed(connection: socket.socket) -> None:
    """As a program that ends does it."""
    connection.close()


def reset(connection: socket.socket) -> None:
    """RST in place of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def settled(node: RunningNode, wanted: Callable[[dict[str, float]], bool], within: float) -> dict[str, float]:
    """The metrics once they are as wanted; the test fails with the last ones if that takes longer."""
    deadline = time.monotonic() + within
    while not wanted(found := node.metrics()):
        if time.monotonic() > deadline:
            last = [(each, found[each]) for each in (RUNNING, WAITING, USED)]
            pytest.fail(f"expected it within {within} s, found {last}")
        time.sleep(0.02)
    return found


def depth(running: int, waiting: int) -> Callable[[dict[str, float]], bool]:
    return lambda found: (found[RUNNING], found[WAITING]) == (running, waiting)


@pytest.mark.parametrize("leave", [closed, reset])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_caller_that_leaves_frees_pages_and_place_within_a_second(
    node: RunningNode, leave: Callable[[socket.socket], None], stream: bool
) -> None:
    """Only pages that were kept for prompts that begin alike are not blank afterwards."""
    connections = [asked(node, stream=stream) for _ in range(PLACES)]
    found = settled(node, lambda found: found[RUNNING] == PLACES and found[USED] > PLACES, 10)
    assert found[WAITING] == 0
    for connection in connections:
        leave(connection)
    settled(node, lambda found: depth(0, 0)(found) and found[USED] == 0, WITHIN_S)


@pytest.mark.parametrize("leave", [closed, reset])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_caller_that_leaves_the_queue_frees_its_place_in_it(
    node: RunningNode, leave: Callable[[socket.socket], None], stream: bool
) -> None:
    """Those that run are not touched; whoever comes next is."""
    first, second = (asked(node, stream=True) for _ in range(PLACES))
    settled(node, depth(PLACES, 0), 10)
    gone, kept = (asked(node, stream=stream) for _ in range(2))
    settled(node, depth(PLACES, 2), 10)
    leave(gone)
    settled(node, depth(PLACES, 1), WITHIN_S)
    leave(first)
    settled(node, depth(PLACES, 0), WITHIN_S)  # `kept` runs in its place
    leave(kept)
    settled(node, depth(1, 0), WITHIN_S)
    leave(second)
    settled(node, lambda found: depth(0, 0)(found) and found[USED] == 0, WITHIN_S)


def test_a_caller_that_leaves_while_its_prompt_is_read_frees_it(node: RunningNode) -> None:
    """No token had been sent to it."""
    connection = asked(node, stream=False, prompt=5_000)
    settled(node, depth(1, 0), 10)
    reset(connection)
    settled(node, lambda found: depth(0, 0)(found) and found[USED] == 0, WITHIN_S)


def test_the_delay_of_the_event_loop_is_measured_while_somebody_asks(node: RunningNode) -> None:
    """By the node itself, where everything else is that an operator looks at."""
    before = node.metrics()["blyan_event_loop_delay_seconds_count"]
    connection = asked(node, stream=True)
    settled(node, lambda found: found["blyan_event_loop_delay_seconds_count"] >= before + 10, 10)
    closed(connection)
