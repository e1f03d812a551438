"""Signatures of many entries, checked on every processor while the caller goes on folding.

Verification is one elliptic-curve operation per entry and does not batch, so it is spread over processes: each gets
entries through a pipe (`chain/signature_worker`) and says which one is bad. A few are checked here, and so is whatever
comes while every process has enough to do: no processor waits for another.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from blyan.chain.signature_worker import first_bad
from blyan.primitives.errors import IntegrityFault, Unavailable

_batch_entries: Final = 64  # about 4 ms of work
_alone_below: Final = 512  # entries that are not worth a process
_queue_batches: Final = 4  # under way in one process
_pipe_bytes: Final = 1 << 20  # what Linux grants anyone: a queue of usual entries fits


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    sent: list[list[str]] = field(default_factory=list[list[str]])  # what to call the entries of batches under way

    def answered(self) -> bool:
        """Whether an answer, or the end, can be read without waiting."""
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], 0)[0])


class SignatureCheck:
    """Feed it entries that `parse_entry` accepted; leaving the `with` block waits, and raises for a bad signature."""

    def __init__(self, workers: int) -> None:
        """`workers` processes beside this one at most; none for a short chain."""
        self._workers_max = workers
        self._workers: list[_Worker] = []
        self._batch: list[bytes] = []
        self._names: list[str] = []
        self._fed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._send()
                for worker in self._workers:
                    while worker.sent:
                        self._receive(worker)
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.communicate()

    def feed(self, raw: bytes, name: str) -> None:
        """Check one entry, now or soon; `name` is what an error calls it."""
        self._batch.append(raw)
        self._names.append(name)
        self._fed += 1
        if len(self._batch) == _batch_entries:
            self._send()

    def _send(self) -> None:
        batch = b"".join(len(raw).to_bytes(2, "big") + raw for raw in self._batch)
        names, self._batch, self._names = self._names, [], []
        if self._fed > _alone_below and not self._workers:
            self._workers = [_start() for _ in range(self._workers_max)]
        for worker in self._workers:
            while worker.sent and worker.answered():
                self._receive(worker)
        idlest = min(self._workers, key=lambda worker: len(worker.sent), default=None)
        if idlest is None or len(idlest.sent) >= _queue_batches:
            _want_good(first_bad(batch), names)
            return
        assert idlest.process.stdin is not None
        try:
            idlest.process.stdin.write(len(batch).to_bytes(4, "little") + batch)
            idlest.process.stdin.flush()
        except BrokenPipeError:
            raise _ended(idlest) from None
        idlest.sent.append(names)

    def _receive(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        answer = os.read(worker.process.stdout.fileno(), 4)  # unbuffered, so that `answered` sees what there is
        if len(answer) != 4:
            raise _ended(worker)
        _want_good(int.from_bytes(answer, "little", signed=True), worker.sent.pop(0))


def _start() -> _Worker:
    command = [sys.executable, "-I", "-m", "blyan.chain.signature_worker"]
    pipe = subprocess.PIPE
    return _Worker(subprocess.Popen(command, stdin=pipe, stdout=pipe, pipesize=_pipe_bytes))


def _ended(worker: _Worker) -> Unavailable:
    return Unavailable(
        f"signature check: expected process {worker.process.pid} to answer, found it ended with "
        f"{worker.process.wait(timeout=10)}",
        hint="try again; less memory may be needed by others",
    )


def _want_good(bad: int, names: list[str]) -> None:
    if bad >= 0:
        raise IntegrityFault(
            f"entry signature: expected one by its author, found one that does not verify at {names[bad]}"
        )
