"""Fakes for tests, tested in tests/unit/test_fakes.py."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Self

from blyan.inference.session import Delta, Event, Finished


class StepByStep:
    """A generation whose events come when the test allows them."""

    def __init__(self, name: str, events: int, log: list[str] | None = None) -> None:
        self._name = name
        self._events = events
        self._log = log if log is not None else []
        self.allowed = threading.Semaphore(0)

    def __iter__(self) -> Iterator[Event]:
        for number in range(self._events):
            self.allowed.acquire()
            self._log.append(f"{self._name}{number}")
            yield Delta(f"{self._name}{number}", (), ())
        yield Finished("stop", 1, self._events)


class SlowNode:
    """A node that answers every question with the same pieces, and then waits before it ends the answer."""

    def __init__(self, pieces: Sequence[str], pause_seconds: float = 30) -> None:
        self.pieces = pieces
        self.pause_seconds = pause_seconds
        self.broken = False  # it closes the connection in place of an answer
        self.asked: list[Any] = []
        self._going = threading.Event()
        node = self

        class Answers(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._begin("application/json")
                self.wfile.write(b'{"data": [{"id": "slow"}]}')

            def do_POST(self) -> None:
                node.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                if node.broken:
                    return
                self._begin("text/event-stream")
                for piece in node.pieces:
                    event = {"choices": [{"delta": {"content": piece}}]}
                    self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
                node._going.wait(node.pause_seconds)
                self.wfile.write(b"data: [DONE]\n\n")

            def _begin(self, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._going.set()
        self._server.shutdown()
        self._server.server_close()
