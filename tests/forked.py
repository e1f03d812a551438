"""`blyan` in processes that are forked from one that has imported everything: real processes, without seconds of start.

The parent runs this file, has one thread and computes nothing. Children die with it, and it dies with who started it.
What starts an interpreter of its own is what tests of the start itself ask for.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

# What commands import late is here early. That nothing is imported too early is what test_cli_contract looks at.
_preloaded = (
    "torch",
    "aiohttp",
    "jinja2",
    "tokenizers",
    "cryptography.x509",
    "blyan.cli.up",
    "blyan.api.serve",
    "blyan.node.importing",
    "blyan.model.fused_step",
)
_jitted = "fp32/fp32"  # what the built-in model is stored as
_made: list[Nursery] = []


def nursery() -> Nursery:
    """The one of this process: started when it is first asked for, and ended with this process."""
    if not _made or not _made[0].alive:
        _made[:] = [Nursery()]
    return _made[0]


class Nursery:
    """The parent of forked commands. Its threads may share it. As a context it is one that ends there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        atexit.register(self._end)

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        atexit.unregister(self._end)
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def popen(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Forked:
        """`blyan` with these arguments, and variables beside those of this process; the caller reads its stderr."""
        with tempfile.TemporaryDirectory() as folder:
            said = Path(folder) / "stderr"
            os.mkfifo(said)
            pid = self._fork(arguments, environment, os.devnull, os.devnull, str(said))
            return Forked(self, pid, said.open())

    def begin(self, arguments: Sequence[str]) -> Forked:
        """`blyan` with these arguments, that nobody listens to."""
        return Forked(self, self._fork(arguments, {}, os.devnull, os.devnull, os.devnull))

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], timeout: float, typed: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """As `subprocess.run` of a `blyan` with these arguments, variables beside those of this process, and stdin."""
        with tempfile.TemporaryDirectory() as folder:
            stdin, stdout, stderr = (Path(folder) / name for name in ("stdin", "stdout", "stderr"))
            stdin.write_bytes(typed)
            child = Forked(self, self._fork(arguments, environment, str(stdin), str(stdout), str(stderr)))
            try:
                code = child.wait(timeout)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                raise
            return subprocess.CompletedProcess(["blyan", *arguments], code, stdout.read_bytes(), stderr.read_bytes())

    def _fork(self, arguments: Sequence[str], environment: Mapping[str, str], *files: str) -> int:
        """`files`: what stdin, stdout and stderr are opened at."""
        variables = {**os.environ, **environment}
        return self.ask(
            {"arguments": list(arguments), "environment": variables, "folder": str(Path.cwd()), "files": files}
        )

    def ask(self, question: Mapping[str, Any]) -> Any:
        """What the parent answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            print(json.dumps(question), file=self._process.stdin, flush=True)
            return json.loads(self._process.stdout.readline())


class Forked:
    """What of `subprocess.Popen` the tests use."""

    def __init__(self, nursery: Nursery, pid: int, stderr: TextIO | None = None) -> None:
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
        if self.poll() is None:
            handle = os.pidfd_open(
                self.pid
            )  # it is not ours to wait for; what has ended keeps its number till it is asked
            try:
                waited = select.poll()
                waited.register(handle, select.POLLIN)
                ended = waited.poll(None if timeout is None else timeout * 1000)
            finally:
                os.close(handle)
            if not ended:
                raise subprocess.TimeoutExpired("blyan", timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """To a process that has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


_codes: dict[int, int] = {}  # of those that have ended


def _answered(question: Mapping[str, Any]) -> int | None:
    asked = question.get("pid")
    if asked is None:
        pid = os.fork()
        _codes.pop(pid, None)
        return pid or _run(question)
    if asked not in _codes:
        ended, status = os.waitpid(asked, os.WNOHANG)
        if ended:
            _codes[asked] = os.waitstatus_to_exitcode(status)
    return _codes.get(asked)


def _run(question: Mapping[str, Any]) -> int:
    """In the child; it does not return."""
    code: object = 1
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        for number, path in enumerate(question["files"]):
            handle = os.open(path, (os.O_WRONLY | os.O_CREAT) if number else os.O_RDONLY)
            os.dup2(handle, number)
            os.close(handle)
        os.chdir(question["folder"])
        os.environ.clear()
        os.environ.update(question["environment"])
        sys.argv = ["blyan", *question["arguments"]]

        from blyan.cli.main import entry

        entry()
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _leave(code if isinstance(code, int) else int(code is not None))


def _leave(code: int) -> None:
    """As an interpreter ends, but that nothing is taken down."""
    try:
        threading._shutdown()  # waits for threads that are no daemons
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _load() -> None:
    for module in _preloaded:
        __import__(module)
    from blyan.model import fused_compile, jit

    if jit.folder is not None and (jit.folder / fused_compile._mark(_jitted)).exists():
        fused_compile.load(_jitted)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    sys.path[:] = [each for each in sys.path if Path(each) != Path(__file__).parent]
    _load()
    for line in sys.stdin:
        print(json.dumps(_answered(json.loads(line))), flush=True)
