"""Chat templates: messages to the prompt text that a model was trained on, rendered by a limited subprocess.

One worker process serves all models of the node, one rendering at a time; past the deadline it is killed and the next
rendering starts a new one. `template_worker` is the other end and says what the limits are for.
"""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, Unavailable

_answer_bytes_max = 8 * limits.rendered_prompt_bytes_max  # JSON escapes make a character up to six bytes, plus slack


class TemplateRenderer:
    """Owns the worker process; threads may share it."""

    def __init__(self, seconds_max: float = limits.template_seconds_max) -> None:
        self._seconds_max = seconds_max
        self._worker: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()  # held while a rendering is under way

    def render(self, template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, str]) -> str:
        """The prompt for `messages` with the generation prompt added; `InvalidInput` if the template refuses them."""
        request = {
            "template": template,
            "variables": {**variables, "messages": list(messages), "add_generation_prompt": True},
        }
        with self._lock:
            try:
                answer = self._exchange(json.dumps(request).encode("ascii") + b"\n")
            except (OSError, ValueError) as reason:
                self._end()
                raise InvalidInput(
                    f"chat template: expected a prompt within {self._seconds_max:g} s and "
                    f"{limits.template_memory_bytes_max >> 20} MiB, found {reason}"
                ) from None
        if "error" in answer:
            raise InvalidInput(f"chat template refused the messages: {answer['error']}")
        return str(answer["text"])

    def close(self) -> None:
        """End the worker process."""
        with self._lock:
            self._end()

    def _exchange(self, line: bytes) -> dict[str, Any]:
        worker = self._worker
        if worker is None or worker.poll() is not None:
            worker = self._worker = self._start()
        assert worker.stdin is not None and worker.stdout is not None, "started with pipes"
        worker.stdin.write(line)
        worker.stdin.flush()
        raw = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(worker.stdout, selectors.EVENT_READ)
            while not raw.endswith(b"\n"):
                # each wait restarts the clock, but a rendering answers in one line at its end
                if not selector.select(self._seconds_max):
                    raise ValueError("none in time")
                piece = worker.stdout.read1(limits.MIB)  # pyright: ignore[reportAttributeAccessIssue]
                if not piece:
                    raise ValueError(f"its process ended with {worker.wait()}")
                raw += piece
                if len(raw) > _answer_bytes_max:
                    raise ValueError(f"more than {_answer_bytes_max} bytes")
        return json.loads(raw)

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                [sys.executable, "-I", "-m", "blyan.model.template_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={},
                close_fds=True,
            )
        except OSError as reason:
            raise Unavailable(f"chat template: expected to start a worker process, found {reason}") from None

    def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    pipe.close()
