"""Ports of this machine for servers that end and start again: nobody else is given one meanwhile."""

from __future__ import annotations

import os
import socket
import weakref


def kept_port(owner: object) -> int:
    """A port of loopback, kept while `owner` lives: also while nobody listens there.

    Who asks for any port is given none that a socket is bound to, and so is who connects. Ours is bound and never
    listens; with SO_REUSEADDR on both, which servers set, another may bind and listen beside it (socket(7)).
    """
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(("127.0.0.1", 0))
    port: int = keeper.getsockname()[1]
    weakref.finalize(owner, os.close, keeper.detach())
    return port
