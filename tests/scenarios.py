"""What a node does with its disk, as scenarios to interrupt: prepare, act, and what must hold whatever was cut off.

`act` calls `acknowledge(text)` for everything it has promised to somebody. `check` opens what is left, as a start does,
and gets what was acknowledged before the cut; then it does the same work again, which must succeed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blyan.chain.archive import export_archive, import_archive
from blyan.chain.chains import Chains
from blyan.chain.entries import ExpertBody, PayloadReference
from blyan.primitives.errors import NotFound
from blyan.primitives.ids import EntryId, PayloadId
from blyan.primitives.keys import Key
from blyan.primitives.limits import subtile_bytes
from blyan.storage.blob_store import BlobStore
from blyan.storage.tile import index_of, subtile_slice

Acknowledge = Callable[[str], None]

KEY = Key.from_seed(bytes(range(32)))
NEXT = Key.from_seed(bytes([9] * 32))


def now() -> int:
    """A clock that stands still."""
    return 1_700_000_000


def data_of(name: str, length: int) -> bytes:
    """Bytes that are the same in every process."""
    return hashlib.shake_256(name.encode()).digest(length)


@dataclass(frozen=True)
class Scenario:
    """Something to interrupt."""

    name: str
    prepare: Callable[[Path], None]
    act: Callable[[Path, Acknowledge], None]
    check: Callable[[Path, list[str]], None]
    again: Callable[[Path, Acknowledge], None] | None = None  # the same work by the next process; None: as before


def store_of(folder: Path) -> BlobStore:
    return BlobStore(folder / "blobs", writable=True)


def chains_of(folder: Path, key: Key = KEY) -> Chains:
    return Chains(folder / "chain", key.public, store_of(folder))


def everything_stored_is_whole(store: BlobStore) -> None:
    for payload in store.payloads():
        store.open(payload)


# Blobs


def _put_prepare(folder: Path) -> None:
    store = store_of(folder)
    damaged = store.put([data_of("damaged", 700_000)]).payload
    path = store.path(damaged)
    path.chmod(0o644)
    path.write_bytes(b"\0" * 700_000)


def _put(folder: Path, acknowledge: Acknowledge) -> None:
    """New payloads, one that is there, one whose file was damaged; a pin, and a sweep that spares it."""
    store = store_of(folder)
    for name, length in (("a", 300_000), ("b", 10), ("a", 300_000), ("damaged", 700_000)):
        acknowledge(f"put {store.put([data_of(name, length)]).payload}")
    pinned = store.put([data_of("pinned", 5_000)]).payload
    store.pin(pinned, "kept")
    acknowledge(f"pinned {pinned}")
    gone = store.put([data_of("gone", 5_000)]).payload
    kept = [payload for payload in store.payloads() if payload != gone]
    store.sweep([payload for payload in kept if payload != pinned])
    acknowledge(f"swept {gone}")


def _put_check(folder: Path, acknowledged: list[str]) -> None:
    store = store_of(folder)
    damaged = index_of(data_of("damaged", 700_000)).payload_id
    for payload in store.payloads():
        if payload != damaged or f"put {damaged}" in acknowledged:
            store.open(payload)
    for text in acknowledged:
        verb, payload = text.split()
        if verb == "put":
            store.open(PayloadId(payload))
        elif verb == "pinned":
            assert PayloadId(payload) in store.pins()
        else:
            try:
                store.size(PayloadId(payload))
            except NotFound:
                continue
            raise AssertionError(f"{payload} came back")
    _put(folder, lambda _text: None)
    for payload in store_of(folder).payloads():
        store.verify(payload)


# A payload that comes in subtiles

_INCOMING = data_of("incoming", 18 * subtile_bytes + 5)


def _receive(folder: Path, acknowledge: Acknowledge) -> None:
    index = index_of(_INCOMING)
    store = store_of(folder)
    incoming = store.begin(index.payload_id, index.length, index.encode())
    with contextlib.closing(incoming):  # what a process holds alone ends with it
        for number in incoming.missing():
            incoming.write(number, _INCOMING[subtile_slice(number)])
            if number % 6 == 5:
                incoming.sync()
                acknowledge(f"synced {number}")
        incoming.finish()
    acknowledge("finished")


def _receive_check(folder: Path, acknowledged: list[str]) -> None:
    index = index_of(_INCOMING)
    store = store_of(folder)
    everything_stored_is_whole(store)
    for payload in store.unfinished():
        if "finished" not in acknowledged:
            store.verify_unfinished(payload)
    if "finished" in acknowledged:
        assert list(store.payloads()) == [index.payload_id]
    elif not list(store.payloads()):
        incoming = store.begin(index.payload_id, index.length, index.encode())
        missing = set(incoming.missing())
        for text in acknowledged:
            assert not missing & set(range(int(text.split()[1]) + 1)), "a synced subtile is not fetched twice"
        incoming.close()
    _receive(folder, lambda _text: None)
    assert bytes(store_of(folder).verify(index.payload_id).mapping) == _INCOMING


def _receive_again(folder: Path, acknowledge: Acknowledge) -> None:
    store = store_of(folder)
    if payloads := list(store.payloads()):
        store.verify(payloads[0])
        acknowledge("finished")
    else:
        _receive(folder, acknowledge)


# Chains


def _append(folder: Path, key: Key, count: int, begin: int, acknowledge: Acknowledge) -> None:
    chains = chains_of(folder, key)
    chains.recover(key)
    genesis = chains.start(key, now)
    acknowledge(f"meta {genesis}")
    made: list[EntryId] = []
    for number in range(begin, begin + count):
        block = PayloadReference(
            PayloadId(hashlib.sha256(b"%d" % number).hexdigest()), 4096, "application/vnd.blyan.tensorblock"
        )
        made.append(chains.append(ExpertBody("m", number % 5, number), (genesis,), block, key, now))
    chains.publish(key)
    for identity in made:
        acknowledge(f"parameter {identity}")


def _grow(folder: Path, acknowledge: Acknowledge) -> None:
    """Commits of several sizes, across a full tile."""
    for begin, count in ((0, 3), (3, 1), (4, 255), (259, 2)):
        _append(folder, KEY, count, begin, acknowledge)


def _promised(chains: Chains) -> set[str]:
    return {
        f"{name} {hashlib.sha256(bytes(1) + raw).hexdigest()}"
        for name, log in chains.logs.items()
        for raw in log.entries(0, log.checkpoint.size)
    }


def _chain_check(folder: Path, acknowledged: list[str], key: Key = KEY) -> None:
    chains = chains_of(folder, key)
    chains.verify(processes=0)
    missing = {text for text in acknowledged if text.startswith(("meta ", "parameter "))} - _promised(chains)
    assert not missing, f"acknowledged and lost: {missing}"
    _append(folder, key, 2, 1_000, lambda _text: None)
    again = chains_of(folder, key)
    assert again.recover(key) == [], "the first recovery cleared up everything"
    again.verify(processes=0)


def _snapshot(folder: Path, acknowledge: Acknowledge) -> None:
    _append(folder, KEY, 5, 0, acknowledge)
    acknowledge(f"state {chains_of(folder).snapshot(KEY).payload}")
    _append(folder, KEY, 5, 5, acknowledge)
    acknowledge(f"state {chains_of(folder).snapshot(KEY).payload}")


def _snapshot_check(folder: Path, acknowledged: list[str]) -> None:
    chains = chains_of(folder)
    states = [text for text in acknowledged if text.startswith("state ")]
    if states:
        assert chains.joint.state is not None
        assert len(states) < 2 or states[-1] == f"state {chains.joint.state.payload}"
    _chain_check(folder, acknowledged)


def _rotate(folder: Path, acknowledge: Acknowledge) -> None:
    _append(folder, KEY, 3, 0, acknowledge)
    chains = chains_of(folder)
    acknowledge(f"meta {chains.rotate(KEY, NEXT, now)}")
    acknowledge("rotated")
    _append(folder, NEXT, 3, 3, acknowledge)


def _rotate_again(folder: Path, acknowledge: Acknowledge) -> None:
    chains = chains_of(folder)
    if chains.state.sequencer == NEXT.public:
        _append(folder, NEXT, 3, 3, acknowledge)
        acknowledge("rotated")
    else:
        _rotate(folder, acknowledge)


def _rotate_check(folder: Path, acknowledged: list[str]) -> None:
    chains = chains_of(folder)
    if not chains.created:
        assert not acknowledged
        return
    assert chains.state.sequencer in (KEY.public, NEXT.public, None)
    if "rotated" in acknowledged:
        assert chains.state.sequencer == NEXT.public
    _chain_check(folder, acknowledged, NEXT if chains.state.sequencer == NEXT.public else KEY)


def _nothing(_folder: Path) -> None:
    """Begin with an empty disk."""


def _archive_prepare(folder: Path) -> None:
    """An archive of another node's chains, as a file beside the disk that may fail."""
    source = folder.parent / "source"
    if not source.exists():
        _append(source, KEY, 300, 0, lambda _text: None)
        chains_of(source).snapshot(KEY)
        _append(source, KEY, 7, 300, lambda _text: None)
        export_archive(chains_of(source), source / "archive")


def _archive(folder: Path, acknowledge: Acknowledge) -> None:
    import_archive(folder / "chain", store_of(folder), folder.parent / "source" / "archive")
    for text in sorted(_promised(chains_of(folder))):
        acknowledge(text)


def _archive_again(folder: Path, acknowledge: Acknowledge) -> None:
    chains_of(folder).recover(KEY)
    _archive(folder, acknowledge)


def _archive_check(folder: Path, acknowledged: list[str]) -> None:
    chains = chains_of(folder)
    if acknowledged:
        assert _promised(chains) == set(acknowledged)
    else:
        assert not chains.created or _promised(chains) == _promised(chains_of(folder.parent / "source"))
    import_archive(folder / "chain", store_of(folder), folder.parent / "source" / "archive")
    _chain_check(folder, acknowledged)


# A whole data directory


def _ground(folder: Path, acknowledge: Acknowledge) -> None:
    """A first start, a payload that is pinned, and entries; in a directory that is not there yet."""
    from nodes import writing

    with writing(folder / "data") as ground:
        acknowledge(f"meta {ground.chains.newest('meta')}")
        payload = ground.store.put([data_of("pinned", 5_000)]).payload
        acknowledge(f"put {payload}")
        ground.store.pin(payload, "kept")
        acknowledge(f"pinned {payload}")
        block = PayloadReference(payload, 5_000, "application/vnd.blyan.tensorblock")
        parents = (ground.chains.newest("meta"),)
        identity = ground.chains.append(ExpertBody("m", 0, 0), parents, block, ground.key, now)
        ground.chains.publish(ground.key)  # in this thread, so that it is the one that is killed
        acknowledge(f"parameter {identity}")


def _ground_again(folder: Path, acknowledge: Acknowledge) -> None:
    """The next process relies on what it finds."""
    from nodes import writing

    with writing(folder / "data") as ground:
        for text in sorted(_promised(ground.chains)):
            acknowledge(text)
        for payload in ground.store.payloads():
            acknowledge(f"put {payload}")
        for payload in ground.store.pins():
            acknowledge(f"pinned {payload}")


def _ground_check(folder: Path, acknowledged: list[str]) -> None:
    from nodes import writing

    with writing(folder / "data") as ground:
        ground.chains.verify(processes=0)
        missing = {text for text in acknowledged if text.startswith(("meta ", "parameter "))} - _promised(ground.chains)
        assert not missing, f"acknowledged and lost: {missing}"
        for text in acknowledged:
            verb, name = text.split()
            if verb == "put":
                ground.store.verify(PayloadId(name))
            elif verb == "pinned":
                assert PayloadId(name) in ground.store.pins()
    with writing(folder / "data") as ground:
        assert ground.found == (), "the first start cleared up everything"


SCENARIOS = {
    each.name: each
    for each in (
        Scenario("put, pin and sweep", _put_prepare, _put, _put_check),
        Scenario("receive subtiles", _nothing, _receive, _receive_check, _receive_again),
        Scenario("append and checkpoint", _nothing, _grow, _chain_check),
        Scenario("snapshot", _nothing, _snapshot, _snapshot_check),
        Scenario("rotate the key", _nothing, _rotate, _rotate_check, _rotate_again),
        Scenario("first start", _nothing, _ground, _ground_check, _ground_again),
        Scenario("import an archive", _archive_prepare, _archive, _archive_check, _archive_again),
    )
}


def _bundle(folder: Path) -> Path:
    return folder.parent / "bundle"


def _model_prepare(folder: Path) -> None:
    """A small model as a bundle, beside the disk that may fail."""
    from blyan.model.hf_import import read_checkpoint
    from blyan.model.request_defaults import RequestDefaults
    from blyan.node.importing import write_bundle
    from checkpoints import save_random_checkpoint

    if not _bundle(folder).exists():
        save_random_checkpoint(folder.parent / "hf", num_hidden_layers=2, num_experts=3, num_experts_per_tok=2)
        checkpoint = read_checkpoint(folder.parent / "hf")
        write_bundle(checkpoint, "m", "Apache-2.0", "test", _bundle(folder), RequestDefaults())


def _model_import(folder: Path, acknowledge: Acknowledge) -> None:
    """Everything that `blyan model import` does on a new data directory."""
    from blyan.node.publish import install_bundle
    from nodes import writing

    with writing(folder) as ground:
        published = install_bundle(ground, _bundle(folder))
        acknowledge(f"published {published.model.manifest}")
    acknowledge("closed")


def _model_check(folder: Path, acknowledged: list[str]) -> None:
    from blyan.node.catalogue import manifests_of
    from blyan.node.checkup import check_up
    from blyan.node.data_directory import open_ground
    from blyan.node.writer import left_unclean
    from nodes import writing

    with writing(folder) as ground:
        assert (left_unclean(folder) is None) or "closed" not in acknowledged
        models = manifests_of(ground)
        for text in acknowledged:
            if text.startswith("published"):
                assert [text.split()[1]] == [version.manifest for version, _ in models.values()]
        for _, manifest in models.values():
            for block in manifest.blocks.values():
                ground.store.verify(block.payload)
    _model_import(folder, lambda _text: None)
    found = check_up(open_ground(folder), deep=True)
    assert found.damage == []
    assert left_unclean(folder) is None


# Through a whole node, with its threads: killed, not cut.
KILLED = {**SCENARIOS, "import a model": Scenario("import a model", _model_prepare, _model_import, _model_check)}
