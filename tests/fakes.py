"""Fakes for tests, tested in tests/unit/test_fakes.py."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from blyan.model.config import ModelConfig
from blyan.model.stepping import KVPages, Ready, Run, RunResult, nothing, page_positions


class TokenPages:
    """A stepper that keeps tokens in the pages, and scores a position by all tokens before it that lie there.

    Whatever hands out pages wrongly changes its scores. Scores are integers, so that batches cannot change them.
    """

    def __init__(self, config: ModelConfig, kv: KVPages) -> None:
        self.config = config
        self._tokens = np.full((kv.pages, page_positions), -1, np.int64)
        self.steps: list[list[Run]] = []
        self.fault: BaseException | None = None  # raised by the next step
        self.allowed: threading.Semaphore | None = None  # a step waits for it

    def close(self) -> None:
        """Nothing is held."""

    def step(self, runs: Sequence[Run], ready: Ready = nothing) -> list[RunResult]:
        ready()
        if self.allowed is not None:
            self.allowed.acquire()
        self.steps.append(list(runs))
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        written: set[tuple[int, int]] = set()
        for run in runs:
            for offset, token in enumerate(run.tokens):
                page, place = divmod(run.start + offset, page_positions)
                assert (run.pages[page], place) not in written, "two runs write one place"
                written.add((run.pages[page], place))
                self._tokens[run.pages[page], place] = token
        return [self._result(run) for run in runs]

    def _result(self, run: Run) -> RunResult:
        config, n = self.config, len(run.tokens)
        end = run.start + n
        lie = self._tokens[list(run.pages)].reshape(-1)[:end]
        assert (lie >= 0).all(), "every position before was written"
        rows = [self.scores(config, lie[: end - run.scored + row + 1].tolist()) for row in range(run.scored)]
        scores = np.stack(rows) if rows else np.empty((0, config.vocab_size), np.float32)
        chosen = np.zeros((len(config.moe_layers), n, config.experts_per_token), np.int32)
        chosen[:] = (np.arange(run.start, end)[:, None] + np.arange(config.experts_per_token)) % config.experts
        hidden = torch.tensor(lie[run.start :], dtype=torch.float32)[:, None].repeat(1, config.hidden)
        return RunResult(scores, chosen, hidden if run.hidden else None)

    @staticmethod
    def scores(config: ModelConfig, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Scores [vocab] after these tokens; those of the last four decide most, all of them something."""
        state = 7
        for token in tokens:
            state = (state * 31 + token + 1) % 1_000_003
        numbers = np.arange(config.vocab_size, dtype=np.int64)
        return ((numbers * 7919 + state * 104_729) % 1_009 / 64).astype(np.float32)


class SlowNode:
    """A node that answers every question with the same pieces, and then waits before it ends the answer."""

    def __init__(self, pieces: Sequence[str], pause_seconds: float = 30) -> None:
        self.pieces = pieces
        self.pause_seconds = pause_seconds
        self.broken = False  # it closes the connection in place of an answer
        self.refusal: tuple[int, str] | None = None  # status and code of the error that it answers with
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
                if node.refusal is not None:
                    status, code = node.refusal
                    self._begin("application/json", status)
                    self.wfile.write(json.dumps({"error": {"message": f"refused: {code}", "code": code}}).encode())
                    return
                self._begin("text/event-stream")
                for piece in node.pieces:
                    event = {"choices": [{"delta": {"content": piece}}]}
                    self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
                node._going.wait(node.pause_seconds)
                self.wfile.write(b"data: [DONE]\n\n")

            def _begin(self, kind: str, status: int = 200) -> None:
                self.send_response(status)
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


class SocketPair:
    """Two WebSockets that are each other's other end, in one loop: what one sends the other receives."""

    def __init__(self) -> None:
        self.closed = False
        self.one, self.other = _End(self), _End(self)
        self.one.theirs, self.other.theirs = self.other.frames, self.one.frames


class _End:
    """As `frames.FrameSocket`; `receive` in place of `read` shows what came, None its end."""

    def __init__(self, pair: SocketPair) -> None:
        self.pair = pair
        self.frames: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.theirs = self.frames
        self.flows = asyncio.Event()
        self.flows.set()

    def send_now(self, frame: bytes) -> bool:
        if self.pair.closed:
            raise ConnectionResetError("closed")
        self.theirs.put_nowait(frame)
        return True

    async def send_bytes(self, frame: bytes) -> None:
        self.send_now(frame)

    async def receive(self) -> bytes | None:
        return await self.frames.get()

    async def read(self, take: Callable[[bytes], None]) -> None:
        while (frame := await self.receive()) is not None:
            take(frame)
            await self.flows.wait()

    def hold(self) -> None:
        self.flows.clear()

    def release(self) -> None:
        self.flows.set()

    def shut(self) -> None:
        if not self.pair.closed:
            self.pair.closed = True
            for end in (self.pair.one, self.pair.other):
                end.frames.put_nowait(None)

    async def close(self) -> bool:
        began = not self.pair.closed
        self.shut()
        return began
