"""Links of a given round trip: what the proxy between takes itself, which no such link has, is part of it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache

from harness import percentile

from chaos_proxy import ChaosProxy

_echo = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    there, _ = server.accept()
    there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while came := there.recv(65536):
        there.sendall(came)
"""
_frame = b"x" * 1000  # about as much as a row of hidden states takes
_asked = 60


def make_far(proxies: Sequence[ChaosProxy], round_trip: float) -> None:
    """From now on a frame and its echo take `round_trip` seconds through each of these, 0: as little as they can."""
    for proxy in proxies:
        proxy.delay(told(round_trip) if round_trip else 0.0)


@cache
def told(round_trip: float) -> float:
    """What a proxy is told, so that a frame and its echo take `round_trip` seconds in the median."""
    return max(0.0, 2 * round_trip - seen(round_trip))


def seen(delay: float) -> float:
    """Seconds in the median from a frame to its echo by another process through a proxy that was told `delay`."""
    with subprocess.Popen([sys.executable, "-c", _echo], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        try:
            with ChaosProxy(int(other.stdout.readline())) as proxy:
                proxy.delay(delay)
                return percentile(_echoes(proxy.port), 0.5)
        finally:
            other.kill()


def _echoes(port: int) -> list[float]:
    found: list[float] = []
    with socket.create_connection(("127.0.0.1", port)) as here:
        here.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(_asked):
            began, left = time.perf_counter(), len(_frame)
            here.sendall(_frame)
            while left:
                left -= len(here.recv(left))
            found.append(time.perf_counter() - began)
    return found
