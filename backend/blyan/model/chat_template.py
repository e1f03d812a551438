"""Chat templates: messages to the prompt text that a model was trained on, rendered by a limited subprocess.

One worker process serves all models of the node, one rendering at a time; past the deadline it is killed and the next
rendering starts a new one. Killing it is also what ends a write or read that waits for it. `template_worker` is the
other end and says what the limits are for.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from blyan.primitives import limits
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.errors import InvalidInput, Unavailable, UnsupportedModel

plain_template: Final = (
    "{{ bos_token }}{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}\n\n{% endfor %}"
    "Assistant:"
)
plain_stops: Final = ("\nUser:", "\nSystem:")  # or a model that only continues text plays the other part too

# Private-use characters, which no template looks for: where the prompt ends whose last message is continued.
_end_mark: Final = "\ue000blyan:end\ue001"

_answer_bytes_max = 8 * limits.rendered_prompt_bytes_max  # JSON escapes make a character up to six bytes, plus slack


class TemplateRenderer:
    """Owns the worker process; threads may share it."""

    def __init__(self, now: UnixSeconds | None = None, seconds_max: float = limits.template_seconds_max) -> None:
        """`now` is the time that templates may write; only who renders no prompts does without it."""
        self._now = now
        self._seconds_max = seconds_max
        self._worker: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()  # held while a rendering is under way

    def render(
        self,
        template: str,
        messages: Sequence[Mapping[str, Any]],
        variables: Mapping[str, str],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        continue_final: bool = False,
        thinking: bool | str | None = None,
    ) -> str:
        """The prompt for `messages`, which may use `tools`, with the generation prompt added.

        With `continue_final` it ends where the last message's text ends. `thinking` turns the model's thinking on or
        off where the template lets it; a text says how much, to templates that write it.

        `InvalidInput` if the template refuses them or takes too long, `UnsupportedModel` if it reaches out of its
        sandbox, `Unavailable` if the worker is busy or dies.
        """
        assert self._now is not None, "a clock came with the renderer"
        if continue_final:
            messages = [*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + _end_mark}]
        given: dict[str, Any] = {**variables, "messages": list(messages), "tools": list(tools) or None}
        given["add_generation_prompt"] = not continue_final
        if thinking is not None:
            given["enable_thinking"] = thinking is not False
        if isinstance(thinking, str):
            given["reasoning_effort"] = thinking
        answer = self._ask(template, given, _local(self._now()), check=False)
        if answer.get("forbidden"):
            raise UnsupportedModel(
                f"chat template: expected one that stays within its sandbox, found {answer['error']}",
                hint="the model's template is to blame, not the messages: import the model again with another one",
            )
        if "error" in answer:
            raise InvalidInput(f"chat template refused the messages: {answer['error']}")
        text = str(answer["text"])
        if not continue_final:
            return text
        end = text.rfind(_end_mark)
        if end < 0:
            raise InvalidInput(
                "continue_final_message: expected a chat template that ends with the last message as it stands, "
                "found one that changes it",
                hint="ask again without continue_final_message",
            )
        return text[:end]

    def check(self, template: str) -> None:
        """Compile a template and render a message with it; `InvalidInput` if it is none, or breaks the limits."""
        given = {"messages": [{"role": "user", "content": "hello"}], "tools": None}
        answer = self._ask(template, given, 0, check=True)
        if answer.get("forbidden"):
            raise InvalidInput(f"chat template: expected one that stays within its sandbox, found {answer['error']}")
        if "error" in answer:
            raise InvalidInput(f"chat template: expected one that compiles and stays small, found {answer['error']}")

    def _ask(self, template: str, variables: Mapping[str, Any], now: int, *, check: bool) -> dict[str, Any]:
        # None for what transformers passes and a chat here has not: many templates ask whether it `is none`
        given = {"add_generation_prompt": True, **variables, "documents": None}
        request = {"template": template, "check": check, "now": now, "variables": given}
        line = json.dumps(request).encode("ascii") + b"\n"
        if not self._lock.acquire(timeout=self._seconds_max):
            raise Unavailable(
                f"chat template: expected the worker free within {self._seconds_max:g} s, found it busy",
                hint="try again in some seconds",
            )
        try:
            return self._answer(line)
        except BaseException:
            self._end()  # it may still owe an answer, which would be taken for the next one's
            raise
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the worker process, and with it a rendering that is under way."""
        worker = self._worker
        if worker is not None:
            worker.kill()  # whoever holds the lock waits for this process
        with self._lock:
            self._end()

    def _answer(self, line: bytes) -> dict[str, Any]:
        worker = self._worker
        if worker is None or worker.poll() is not None:
            self._end()
            worker = self._worker = self._start()
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            worker.kill()

        timer = threading.Timer(self._seconds_max, expire)
        timer.start()
        try:
            raw = _exchange(worker, line)
        finally:
            timer.cancel()
            timer.join()  # from here on it kills nobody
        if raw.endswith(b"\n") and not expired.is_set():
            return json.loads(raw)
        self._end()
        if not expired.is_set() and len(raw) <= _answer_bytes_max:
            raise Unavailable(
                f"chat template: expected an answer, found that the worker ended with {worker.returncode}"
            )
        raise InvalidInput(
            f"chat template: expected a prompt within {self._seconds_max:g} s and "
            f"{limits.template_memory_bytes_max >> 20} MiB, found "
            + ("none in time" if expired.is_set() else f"more than {_answer_bytes_max} bytes")
        )

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                [sys.executable, "-I", "-m", "blyan.model.template_worker", str(self._seconds_max)],
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
                    with contextlib.suppress(OSError):  # what could not be written to it
                        pipe.close()


def _local(seconds: int) -> int:
    """Seconds that UTC would have to show what this machine's clock shows: the worker knows no time zone."""
    offset = datetime.fromtimestamp(seconds, UTC).astimezone().utcoffset() or timedelta()
    return seconds + int(offset.total_seconds())


def _exchange(worker: subprocess.Popen[bytes], line: bytes) -> bytes:
    """One line there and one back; less than a line if the worker ends before it has answered."""
    assert worker.stdin is not None and worker.stdout is not None, "started with pipes"
    try:
        worker.stdin.write(line)
        worker.stdin.flush()
        return worker.stdout.readline(_answer_bytes_max + 1)
    except BrokenPipeError:
        return b""
