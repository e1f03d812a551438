"""A port that is kept is there for the server that it was chosen for, whenever it starts."""

from __future__ import annotations

import errno
import gc
import socket
import struct

import pytest

from kept_ports import kept_port

IP_LOCAL_PORT_RANGE = 51  # ip(7), since Linux 6.3; Python 3.11 has no name for it


class Owner:
    """Whose port it is."""


def any_port_of(port: int) -> socket.socket:
    """A socket on any port that is free of a range of one."""
    found = socket.socket()
    found.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("=I", port << 16 | port))
    try:
        found.bind(("127.0.0.1", 0))
    except OSError:
        found.close()
        raise
    return found


def test_a_kept_port_is_given_to_nobody_who_asks_for_any() -> None:
    """Before a server listens there, and between two that do."""
    owner = Owner()
    port = kept_port(owner)
    for _ in range(2):
        with pytest.raises(OSError) as found:
            any_port_of(port)
        assert found.value.errno == errno.EADDRINUSE
        with (
            socket.create_server(("127.0.0.1", port)) as server,  # with SO_REUSEADDR, as servers of nodes
            socket.create_connection(("127.0.0.1", port)),
            server.accept()[0],
        ):
            pass


def test_it_is_given_to_others_when_its_owner_is_gone() -> None:
    owner = Owner()
    port = kept_port(owner)
    del owner
    gc.collect()
    with any_port_of(port) as taken:
        assert taken.getsockname() == ("127.0.0.1", port)


def test_who_calls_a_kept_port_where_nobody_listens_is_refused() -> None:
    owner = Owner()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", kept_port(owner)))
