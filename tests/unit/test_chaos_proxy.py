"""The proxy that tests put between nodes does what it is told, and nothing else."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from chaos_proxy import ChaosProxy


@contextlib.contextmanager
def echoing() -> Iterator[int]:
    """A server that sends back what it gets, and ends when nothing more comes."""

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while piece := connection.recv(1 << 16):
                connection.sendall(piece)
            connection.sendall(b"end")

    def accept(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        yield server.getsockname()[1]


@pytest.fixture
def proxy() -> Iterator[ChaosProxy]:
    with echoing() as port, ChaosProxy(port) as made:
        yield made


def connect(proxy: ChaosProxy) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


def read(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count and (piece := connection.recv(count - len(found))):
        found += piece
    return found


def test_what_goes_in_comes_out(proxy: ChaosProxy) -> None:
    """A megabyte, byte for byte, and the end of it."""
    sent = bytes(range(256)) * 4096
    with connect(proxy) as there:
        threading.Thread(target=there.sendall, args=(sent,), daemon=True).start()
        assert read(there, len(sent)) == sent
        there.shutdown(socket.SHUT_WR)
        assert read(there, 10) == b"end"


def test_a_delay_is_of_the_round_trip_and_costs_no_throughput(proxy: ChaosProxy) -> None:
    """Forty pieces sent one after the other all come after one delay, in order."""
    proxy.delay(0.2)
    with connect(proxy) as there:
        began = time.monotonic()
        for number in range(40):
            there.sendall(bytes([number]))
            time.sleep(0.002)
        first = read(there, 1)
        waited = time.monotonic() - began
        assert first + read(there, 39) == bytes(range(40))
        assert 0.2 <= waited < 1.5
        assert time.monotonic() - began < 2  # forty delays would be eight seconds


def test_jitter_keeps_the_order(proxy: ChaosProxy) -> None:
    """Whatever each piece draws."""
    proxy.delay(0.01, jitter_s=0.1)
    with connect(proxy) as there:
        for number in range(50):
            there.sendall(bytes([number]))
            time.sleep(0.001)
        assert read(there, 50) == bytes(range(50))


def test_a_throttled_way_is_as_slow_as_it_is_told(proxy: ChaosProxy) -> None:
    """A hundred kilobytes at two hundred a second take half a second."""
    proxy.up.bytes_per_s = 200_000
    with connect(proxy) as there:
        began = time.monotonic()
        threading.Thread(target=there.sendall, args=(bytes(100_000),), daemon=True).start()
        read(there, 100_000)
        assert 0.45 <= time.monotonic() - began < 1.5


def test_a_black_hole_swallows_and_says_nothing(proxy: ChaosProxy) -> None:
    """The connection stays; what comes after it is healed passes, what it swallowed is gone."""
    with connect(proxy) as there:
        there.sendall(b"before")
        assert read(there, 6) == b"before"
        proxy.black_hole()
        there.sendall(b"lost")
        there.settimeout(0.2)
        with pytest.raises(TimeoutError):
            there.recv(1)
        proxy.heal()
        there.settimeout(5)
        there.sendall(b"after")
        assert read(there, 5) == b"after"


def test_a_reset_is_one(proxy: ChaosProxy) -> None:
    """The peer's next read fails with it; new connections work."""
    with connect(proxy) as there:
        there.sendall(b"x")
        read(there, 1)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            there.recv(1)
    with connect(proxy) as again:
        again.sendall(b"y")
        assert read(again, 1) == b"y"


def test_half_a_close_ends_one_way_alone(proxy: ChaosProxy) -> None:
    """The target's last words still come."""
    with connect(proxy) as there:
        there.sendall(b"x")
        read(there, 1)
        proxy.half_close()
        assert read(there, 3) == b"end"


def test_a_corrupted_piece_differs_in_one_bit(proxy: ChaosProxy) -> None:
    """And the next one does not."""
    with connect(proxy) as there:
        proxy.down.corrupt = 1
        there.sendall(bytes(64))
        assert sum(each.bit_count() for each in read(there, 64)) == 1
        there.sendall(bytes(64))
        assert read(there, 64) == bytes(64)


def test_a_target_that_is_not_there_is_waited_for_if_there_is_patience(proxy: ChaosProxy) -> None:
    """Without it who connects is reset."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen: nobody else is there meanwhile
        target, proxy.target = proxy.target, taken.getsockname()[1]
        with pytest.raises(ConnectionResetError), connect(proxy) as there:
            there.recv(1)
        proxy.patience_s = 5
        with connect(proxy) as there:
            there.sendall(b"x")
            time.sleep(0.1)
            proxy.target = target
            assert read(there, 1) == b"x"
