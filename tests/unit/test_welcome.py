"""What is taken of an answerer before it proved who it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from blyan.network.connection import Connection
from blyan.network.dialling import Dialler
from blyan.network.handshake import Challenge, Swarm
from blyan.primitives import limits
from blyan.primitives.clock import system_entropy
from blyan.primitives.keys import Key
from swarms import node, said


class Asked:
    """A connection that only notes how large a frame may be."""

    async def upgraded(self, _host: str, _path: str, _fields: object, _nonce: bytes, frame_bytes_max: int) -> Any:
        self.allowed = frame_bytes_max
        raise ConnectionResetError("enough")


async def test_an_answerer_that_proved_nothing_may_send_no_large_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blyan.network.dialling.proofs", lambda *_: {})
    key = Key.from_seed(bytes(32))
    identity = SimpleNamespace(key=key, boot="00" * 16)
    dialler = Dialler(cast(Any, identity), cast(Swarm, None), {}, lambda: 0.0, system_entropy)
    asked = Asked()
    challenge = Challenge(node(1), "00" * 16, "00" * 32, "00" * 32)
    with pytest.raises(ConnectionResetError):
        await dialler._proved(cast(Connection, asked), "host", "url", challenge, said(1))
    assert asked.allowed == limits.link_handshake_bytes_max
