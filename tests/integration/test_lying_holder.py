"""A node of the swarm that gives other bytes than it says it holds: nothing of them is kept, and it is known for it."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blyan.model.manifest import read_manifest
from swarm_in_process import Member, answer, experts_of, joined, serving_member, until
from swarm_nodes import everything, nothing, part_of_builtin, position


@contextlib.contextmanager
def lying(liar: Member) -> Iterator[int]:
    """A bit of every expert turns under a node that has verified its files, and goes on giving them; how many.

    Through mappings written to before: so the file's times stay what they were when it was hashed.
    """
    store = liar.node.ground.store
    (hosted,) = liar.peering.holdings.models()
    blocks = read_manifest(store, hosted.manifest_id).blocks.items()
    experts = [block for part, block in blocks if position(part) is not None]
    with contextlib.ExitStack() as stack:
        for block in experts:
            path = store.path(block.payload)
            path.chmod(0o600)
            mapping = stack.enter_context(mmap.mmap(stack.enter_context(path.open("r+b")).fileno(), 0))
            middle = block.length // 2
            mapping[middle] ^= 0  # this page can be written to from here on
            store.open(block.payload)
            mapping[middle] ^= 1
            assert store.state(block.payload)[0] == "verified", "it has not noticed"
        yield len(experts)


async def test_experts_that_a_linked_node_lies_about_come_from_another(tmp_path: Path) -> None:
    """The answer is computed with what was verified, and the liar is down for what it gave."""
    part_of_builtin(tmp_path / "gateway", nothing, trunk=True)
    for name in ("liar", "honest"):
        part_of_builtin(tmp_path / name, everything, trunk=False)
    async with contextlib.AsyncExitStack() as stack:

        async def member(folder: Path, **network: Any) -> Member:
            return (await stack.enter_async_context(serving_member(folder, **network)))[0]

        gateway = await member(tmp_path / "gateway")
        liar = await member(tmp_path / "liar", join=(gateway.join_url,), roles=("expert",))
        assert stack.enter_context(lying(liar)) == 32
        honest = await member(tmp_path / "honest", join=(gateway.join_url,), roles=("expert",))
        taker = await member(joined(tmp_path / "taker"), join=(gateway.join_url,), roles=("expert",), memory="1GiB")
        keys = [each.peering.identity.key.public for each in (liar, honest)]
        await until(lambda: len(experts_of(taker)) == 32, "every expert taken", 40)
        store = taker.node.ground.store
        assert all(store.verify(payload) for payload in store.payloads()), "nothing wrong was kept"
        failures = [dict(taker.peering.registry.measurements.of(key).failures) for key in keys]
        assert failures[0].get("corrupt", 0) >= 1, "known for it by its key"
        assert failures[1] == {}
        assert await answer(gateway) == "12 + 30 = 42"
