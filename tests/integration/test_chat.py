"""`blyan chat` without a terminal of its own: one question, lines of a pipe, and nodes that answer badly."""

import http.server
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from forked import nursery


class Answers(http.server.BaseHTTPRequestHandler):
    """A node that sends what it was told to, and notes what it was asked."""

    events: ClassVar[list[bytes]] = []
    asked: ClassVar[list[Any]] = []
    models: ClassVar[object] = {"data": [{"id": "far"}]}
    pause_seconds: ClassVar[float] = 0

    def do_GET(self) -> None:
        self._send(json.dumps(self.models).encode())

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"])
        self._send(b"".join(b"data: " + event + b"\n\n" for event in self.events))
        time.sleep(self.pause_seconds)

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def far() -> Iterator[type[Answers]]:
    answers = type("TheseAnswers", (Answers,), {"asked": [], "events": [saying("fine"), b"[DONE]"]})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        server.daemon_threads = True
        answers.url = f"http://127.0.0.1:{server.server_port}"  # pyright: ignore[reportAttributeAccessIssue]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield answers
        server.shutdown()


def saying(text: str) -> bytes:
    return json.dumps({"choices": [{"delta": {"content": text}}]}).encode()


def ask(far: Any, *arguments: str, typed: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
    return nursery().run(["chat", *arguments, "--node", far.url], {}, 30, typed or b"")


def test_a_thought_is_no_part_of_the_answer(far: type[Answers]) -> None:
    """It goes to stderr where somebody looks, into a field of its own with --json, and an answer cut in it says so."""
    thinking = json.dumps({"choices": [{"delta": {"reasoning_content": "so\x1b[2J"}}]}).encode()
    far.events = [thinking, saying("42"), b"[DONE]"]
    done = ask(far, "hi")
    assert (done.stdout, b"so" in done.stderr) == (b"42\n", False)
    assert b"so[2J\n\n" in ask(far, "hi", "--verbose").stderr
    shown = json.loads(ask(far, "hi", "--json").stdout)
    assert (shown["content"], shown["thought"]) == ("42", "so\x1b[2J")
    cut = json.dumps({"choices": [{"delta": {}, "finish_reason": "length"}]}).encode()
    far.events = [thinking, cut, b"[DONE]"]
    assert b"cut off while it thought" in ask(far, "hi").stderr


def test_what_a_model_says_cannot_command_the_terminal(far: type[Answers]) -> None:
    """Escape sequences, bells, C1 and carriage returns go; tabs, line ends and Korean stay; errors likewise."""
    far.events = [saying("a\x1b]0;title\x07b\x9b2J\r\tc\n\ud800한"), b"[DONE]"]
    assert ask(far, "hi").stdout.decode() == "a]0;titleb2J\tc\n한\n"
    far.events = [json.dumps({"error": {"message": "bad\x1b[2J", "code": "x"}}).encode()]
    assert b"\x1b" not in ask(far, "hi").stderr


@pytest.mark.parametrize(
    "events",
    [
        [b"{}"],
        [b"[]"],
        [b'{"choices": 3}'],
        [b'{"choices": [{}]}'],
        [b'{"choices": [{"delta": {"content": 3}}]}'],
        [b"{"],
        [b'{"error": "x"}'],
        [b'{"error": null}'],
        [],
    ],
)
def test_an_answer_that_is_none_is_the_nodes_fault(far: type[Answers], events: list[bytes]) -> None:
    """Exit 6 and no traceback, also where the stream ends without saying so."""
    far.events = events
    done = ask(far, "hi")
    assert done.returncode == 6
    assert done.stderr.startswith(b"blyan: ")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("models", [[], {"data": [3]}, {"data": 3}, {"data": [{"id": 3}]}])
def test_a_model_list_that_is_none_is_the_nodes_fault(far: type[Answers], models: object) -> None:
    """Exit 6 and no traceback."""
    far.models = models
    done = ask(far, "hi")
    assert (done.returncode, b"Traceback" in done.stderr) == (6, False)


def test_lines_of_a_pipe_are_turns_and_stdout_is_the_answers_alone(far: type[Answers]) -> None:
    """No prompt signs; the conversation goes along; an empty line ends it."""
    done = ask(far, typed="one\n둘\n\nthree\n".encode())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"fine\nfine\n", b"")
    assert [[message["content"] for message in messages] for messages in far.asked] == [["one"], ["one", "fine", "둘"]]
    done = ask(far, typed=b"\xff\n")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"expected UTF-8" in done.stderr


def on_a_terminal(far: Any) -> tuple["subprocess.Popen[bytes]", int]:
    """`blyan chat` on a pseudo-terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "blyan", "chat", "--node", far.url],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    return process, ours


def shown(terminal: int, word: bytes) -> None:
    """Read until the terminal shows the word."""
    seen = b""
    while word not in seen:
        assert select.select([terminal], [], [], 10)[0], f"expected {word!r}, found {seen!r}"
        seen += os.read(terminal, 4096)


def test_ctrl_c_ends_a_chat_at_once(far: type[Answers]) -> None:
    """At the prompt: 130, without Enter. In the middle of an answer: see test_chat_terminal."""
    process, terminal = on_a_terminal(far)
    try:
        shown(terminal, b"> ")
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert time.monotonic() - started < 2
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def test_ctrl_c_ends_one_question_in_the_middle_of_its_answer(far: type[Answers]) -> None:
    """There is no conversation to keep: 130, what had come stays on stdout."""
    far.pause_seconds = 20
    far.events = [saying("beginning")]
    command = [sys.executable, "-m", "blyan", "chat", "hi", "--node", far.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.read(9) == b"beginning"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        assert (process.returncode, out, b"Traceback" in err) == (130, b"\n", False)
    finally:
        process.kill()
        process.wait()


def test_all_of_stdin_is_one_question(far: type[Answers]) -> None:
    """Where the prompt is a dash; a line of a pipe is never a command."""
    assert ask(far, "-", typed="하나\n\n/save x\n".encode()).stdout == b"fine\n"
    assert far.asked[-1] == [{"role": "user", "content": "하나\n\n/save x"}]
    assert ask(far, typed=b'/bye\n"""a\n').stdout == b"fine\nfine\n"
    assert [each["content"] for each in far.asked[-1]] == ["/bye", "fine", '"""a']


def test_a_question_without_a_word_is_a_mistake_of_usage(far: type[Answers]) -> None:
    """An empty pipe or variable in a script is not taken for an answer."""
    for done in (ask(far, "-", typed=b""), ask(far, "-", typed=b" \n"), ask(far, ""), ask(far, " ", "--json")):
        assert (done.returncode, b"expected a question, found none" in done.stderr) == (2, True), done.stderr


def test_chat_in_json_is_one_object_an_answer(far: type[Answers]) -> None:
    """Text, how it ended, usage and speed; --verbose says the same on stderr."""
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    end = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    far.events = [saying("하\x9b"), json.dumps(end).encode(), json.dumps(usage).encode(), b"[DONE]"]
    done = ask(far, "--json", "--verbose", typed=b"one\ntwo\n")
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["model"], first["content"], first["finish_reason"]) == ("far", "하\x9b", "stop")
    assert second["usage"] == {"prompt_tokens": 3, "completion_tokens": 2}
    assert b"3 tokens in, 2 out" in done.stderr
    assert b"\x9b" not in done.stdout.replace("하".encode(), b"")
