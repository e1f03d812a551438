"""What a member of a swarm may not do to a node by what it says, and what one mistake may not end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from blyan.model.manifest import read_manifest
from blyan.network.answers import Handler, Prompt, frame_of
from blyan.network.link import Link
from blyan.network.thread import kept
from blyan.node import builtin
from blyan.node.backup import back_up, restore
from blyan.node.config import read_config
from blyan.node.holdings import HeldModel, read_held, write_held
from blyan.node.model_changes import remove_model
from blyan.node.publish import publish_held
from blyan.node.swarm_secret import read_swarm, write_swarm
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, StorageFull, Unavailable
from blyan.primitives.ids import PayloadId
from blyan.wire.framing import Message
from blyan.wire.peer import want_url
from nodes import writing
from swarms import said


@pytest.mark.parametrize(
    "host", ["a..b", "x" * 64, "a" * 63 + ("." + "a" * 63) * 4, "-", "ex ample", "[zz]", "a/b", "ü"]
)
def test_an_address_that_no_resolver_takes_is_no_address(host: str) -> None:
    with pytest.raises(InvalidInput):
        want_url(f"wss://{host}:1", "peer", "wss")


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "node-1.example.org", "host_2", "a"])
def test_addresses_and_names_are_taken(host: str) -> None:
    want_url(f"wss://{host}:1", "peer", "wss")


def test_models_held_in_part_are_bounded_and_readable(tmp_path: Path) -> None:
    """A full list is read again; one more is refused, and changes nothing."""
    full = {PayloadId(f"{number:064x}"): HeldModel("x" * 60, True) for number in range(limits.held_models_max)}
    write_held(tmp_path, full)
    assert read_held(tmp_path) == full
    with pytest.raises(StorageFull):
        write_held(tmp_path, {**full, PayloadId("f" * 64): HeldModel("one", True)})
    assert read_held(tmp_path) == full


class NeverRead:
    """A fake of a WebSocket: gives requests for ever, and takes no answer."""

    def __init__(self) -> None:
        self.given = 0
        self.held = False
        self.stopped = asyncio.Event()

    def send_now(self, _frame: bytes) -> bool:
        return False

    async def send_bytes(self, _frame: bytes) -> None:
        await self.stopped.wait()

    async def read(self, take: Callable[[bytes], None]) -> None:
        while not self.held and not self.stopped.is_set():
            self.given += 1
            take(frame_of({"kind": "ping", "id": self.given}))
        await self.stopped.wait()

    def hold(self) -> None:
        self.held = True

    def release(self) -> None:
        pytest.fail("there is no room")

    def shut(self) -> None:
        self.stopped.set()

    async def close(self) -> bool:
        self.stopped.set()
        return True


async def answer_later(_link: Link, _message: Message) -> Message:
    return Message({}, ())


ANSWERS = {"task": answer_later, "now": Prompt(lambda _link, _message: Message({}, ()))}


@pytest.mark.parametrize("handler", ANSWERS.values(), ids=ANSWERS.keys())
async def test_a_peer_that_reads_no_answers_is_read_no_more(handler: Handler) -> None:
    socket = NeverRead()
    link = Link(socket, said(1), {"ping": handler}, lambda: 0.0, dialled=False)
    reading = asyncio.create_task(link.run())
    await asyncio.wait_for(until_held(socket), 5)
    assert socket.given == limits.link_waiting_max + 1
    socket.stopped.set()
    await asyncio.wait_for(reading, 5)


async def until_held(socket: NeverRead) -> None:
    while not socket.held:  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0)


async def test_work_that_fails_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blyan.network.thread._again_seconds", 0.0)
    began = 0

    async def work() -> None:
        nonlocal began
        began += 1
        if began < 3:
            raise ValueError("a mistake")

    await asyncio.wait_for(kept("work", work), 5)
    assert began == 3


async def test_work_that_is_cancelled_has_ended_by_then() -> None:
    ended = False

    async def work() -> None:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            ended = True

    task = asyncio.create_task(kept("work", work))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended


@pytest.mark.parametrize("removed", [False, True], ids=["another is there", "it was removed"])
def test_a_member_replaces_no_model_by_its_name(tmp_path: Path, removed: bool) -> None:
    """Neither one that people ask for, nor one that its owner took away."""
    with writing(tmp_path) as ground:
        made = builtin.install(ground).model
        manifest = read_manifest(ground.store, made.manifest)
        publish_held(ground, manifest)  # the very same: nothing happens
        if removed:
            remove_model(ground, made.name)
        else:
            manifest = replace(manifest, version="999.0.0")
        before = ground.chains.joint.height
        with pytest.raises(Unavailable, match="expected nothing of this name"):
            publish_held(ground, manifest)
        assert ground.chains.joint.height == before


def test_a_newer_version_of_the_swarms_model_takes_its_place(tmp_path: Path) -> None:
    """An older one is not wanted, and of two with the same number the first stays."""
    with writing(tmp_path) as ground:
        made = builtin.install(ground).model
        write_held(tmp_path, {made.manifest: HeldModel(made.name, True)})
        manifest = read_manifest(ground.store, made.manifest)
        for version, kept in [("0.0.1", made.version), ("999.0.0", "999.0.0"), ("998.0.0", "999.0.0")]:
            publish_held(ground, replace(manifest, version=version))
            held = ground.chains.state.current(made.name)
            assert held is not None
            write_held(tmp_path, {held.manifest: HeldModel(made.name, True)})
            assert held.version == kept
        with pytest.raises(Unavailable, match="found another model"):
            publish_held(ground, replace(manifest, version="999.0.0", license="another"))


def test_a_backup_with_keys_keeps_the_swarm(tmp_path: Path) -> None:
    """A node that is restored is of the swarm that it was of, and knows of which models it holds a part."""
    held = {PayloadId("a" * 64): HeldModel("big", False)}
    with writing(tmp_path / "node") as ground:
        write_swarm(tmp_path / "node", bytes(range(16)))
        write_held(tmp_path / "node", held)
        back_up(ground, tmp_path / "kept", keys=True, progress=lambda _done, _total: None)
    restore(read_config(tmp_path / "again", {}, {}), tmp_path / "kept", lambda _done, _total: None)
    assert read_swarm(tmp_path / "again") == read_swarm(tmp_path / "node")
    assert read_held(tmp_path / "again") == held
