"""`blyan` in processes that are forked from one that has imported everything: real processes, without seconds of start.

The parent runs this file, has one thread and computes nothing. Children die with it, and it dies with who started it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

_preloaded = ("torch", "aiohttp", "jinja2", "tokenizers", "cryptography.x509", "blyan.cli.up", "blyan.api.serve")
_look_seconds = 0.02


class Nursery:
    """The parent of forked commands. A context; its threads may share it."""

    def __enter__(self) -> Nursery:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def popen(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Forked:
        """`blyan` with these arguments, and variables beside those of this process."""
        with tempfile.TemporaryDirectory() as folder:
            said = Path(folder) / "stderr"
            os.mkfifo(said)
            pid = self.ask({"arguments": list(arguments), "environment": dict(environment), "stderr": str(said)})
            return Forked(self, pid, said.open())

    def ask(self, question: Mapping[str, Any]) -> Any:
        """What the parent answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            print(json.dumps(question), file=self._process.stdin, flush=True)
            return json.loads(self._process.stdout.readline())


class Forked:
    """What of `subprocess.Popen` the tests use."""

    def __init__(self, nursery: Nursery, pid: int, stderr: TextIO) -> None:
        self.pid, self.stderr = pid, stderr
        self.returncode: int | None = None
        self._nursery = nursery

    def poll(self) -> int | None:
        """The exit code once it has ended, negative for a signal."""
        if self.returncode is None:
            self.returncode = self._nursery.ask({"pid": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same, waited for; `subprocess.TimeoutExpired`."""
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired("blyan", timeout or 0)
            time.sleep(_look_seconds)
        return code

    def send_signal(self, number: int) -> None:
        """To a process that has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _answered(question: Mapping[str, Any]) -> int | None:
    if "pid" in question:
        ended, status = os.waitpid(question["pid"], os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if ended else None
    pid = os.fork()
    return pid or _run(question)


def _run(question: Mapping[str, Any]) -> int:
    """In the child; it does not return."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.dup2(os.open(question["stderr"], os.O_WRONLY), 2)
    os.environ.update(question["environment"])
    sys.argv = ["blyan", *question["arguments"]]
    code: object = 1
    try:
        from blyan.cli.main import entry

        entry()
        code = 0
    except SystemExit as end:
        code = end.code
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    for module in _preloaded:
        __import__(module)
    for line in sys.stdin:
        print(json.dumps(_answered(json.loads(line))), flush=True)
