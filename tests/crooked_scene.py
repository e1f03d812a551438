"""Where crooked nodes appear: a gateway and an honest expert node, in processes, for tests of several files.

The honest node holds all experts but one. Of that one a crooked node alone says that it holds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from blyan.primitives.ids import PayloadId
from lone_expert import ALONE, DOES_WITHOUT, NEEDS_IT
from nodes import install_builtin, serving
from swarm_nodes import Heard, Swarm, SwarmNode, ask, nothing, part_of_builtin

CALL_SECONDS = 3


@dataclass(frozen=True)
class Scene:
    """What tests of this file share."""

    gateway: SwarmNode
    folder: Path  # a data directory with everything
    manifest: PayloadId
    expected: dict[str, Heard]  # of one node, by prompt

    @property
    def url(self) -> str:
        return f"wss://127.0.0.1:{self.gateway.peer_port}"

    async def ask(self, prompt: str) -> Heard:
        return await ask(self.gateway.url, prompt, max_tokens=16)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A gateway and an honest expert node, in processes."""
    root = tmp_path_factory.mktemp("hostile")
    manifest = part_of_builtin(root / "gateway", nothing, True)
    part_of_builtin(root / "honest", lambda layer, expert: (layer, expert) != ALONE, False)
    install_builtin(root / "whole")

    async def answers() -> dict[str, Heard]:
        async with serving(root / "whole") as client:
            url = str(client.make_url("/")).rstrip("/")
            return {prompt: await ask(url, prompt, max_tokens=16) for prompt in (DOES_WITHOUT, NEEDS_IT)}

    gateway = SwarmNode(root / "gateway", call_seconds=str(CALL_SECONDS))
    with Swarm(gateway, [SwarmNode(root / "honest")], direct=True):
        yield Scene(gateway, root / "whole", manifest, asyncio.run(answers()))
