"""The sequencer: many submits, one commit; refused ones leave no trace; what is acknowledged is durable."""

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blyan.chain.chains import Chains
from blyan.chain.entries import ExpertBody, PayloadReference
from blyan.chain.sequencer import Draft, Previous, Sequencer
from blyan.chain.snapshot import encode
from blyan.primitives import limits
from blyan.primitives.errors import Denied, EntryRefused, InvalidInput, QueueFull, Unavailable
from blyan.primitives.ids import EntryId, PayloadId
from blyan.primitives.keys import Key
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore

KEY = Key.from_seed(bytes(range(32)))
OTHER = Key.from_seed(bytes([7] * 32))
BLOCK = PayloadReference(PayloadId("cd" * 32), 4096, "application/vnd.blyan.tensorblock")
UNKNOWN = EntryId("ab" * 32)


def now() -> int:
    return 1_700_000_000


def opened(folder: Path) -> Chains:
    return Chains(folder, KEY.public, BlobStore(folder / "blobs", writable=True))


def begun(folder: Path) -> tuple[Chains, EntryId]:
    chains = opened(folder)
    return chains, chains.start(KEY, now)


def expert(number: int, *parents: EntryId | Previous) -> Draft:
    return Draft(ExpertBody("m", 0, number), parents, BLOCK)


class HeldDisk:
    """Stops the first write of a joint checkpoint until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        self.commits = 0
        write = durable.write_file

        def held(target: Path, data: bytes, mode: int = 0o644) -> None:
            if target.name == "joint":
                self.commits += 1
                self.reached.set()
                assert self.go.wait(10)
            write(target, data, mode)

        monkeypatch.setattr(durable, "write_file", held)


def test_what_is_acknowledged_is_durable(tmp_path: Path) -> None:
    """A future's ids are those of entries that another opening finds."""
    chains, genesis = begun(tmp_path)
    with Sequencer(chains, KEY, now) as sequencer:
        (identity,) = sequencer.submit([expert(0, genesis)]).result(10)
        assert opened(tmp_path).newest("parameter") == identity


def test_submits_that_wait_share_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One runs, fifty wait, and two commits are made."""
    chains, genesis = begun(tmp_path)
    disk = HeldDisk(monkeypatch)
    with Sequencer(chains, KEY, now) as sequencer:
        futures = [sequencer.submit([expert(0, genesis)])]
        assert disk.reached.wait(10)
        futures += [sequencer.submit([expert(number, genesis)]) for number in range(1, 51)]
        assert not any(future.done() for future in futures)
        disk.go.set()
        assert len({future.result(10)[0] for future in futures}) == 51
    assert disk.commits == 2
    assert opened(tmp_path).verify()[1].size == 51


def test_drafts_of_one_submit_may_build_on_each_other(tmp_path: Path) -> None:
    """A parent may be an earlier draft, which has no id yet; a later one may not."""
    chains, genesis = begun(tmp_path)
    with Sequencer(chains, KEY, now) as sequencer:
        first, _ = sequencer.submit([expert(0, genesis), expert(1, Previous(0))]).result(10)
        with pytest.raises(InvalidInput, match="before number 1"):
            sequencer.submit([expert(2, genesis), expert(3, Previous(1))]).result(10)
    entries = list(opened(tmp_path).logs["parameter"].entries(0, 2))
    assert f'"parents":["{first}"]'.encode() in entries[1]


def test_a_refused_submit_fails_alone_and_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its first drafts were valid and others of the same commit stand before and after it."""
    chains, genesis = begun(tmp_path)
    disk = HeldDisk(monkeypatch)
    with Sequencer(chains, KEY, now) as sequencer:
        running = sequencer.submit([expert(0, genesis)])
        assert disk.reached.wait(10)
        before = sequencer.submit([expert(1, genesis)])
        refused = sequencer.submit([expert(2, genesis), expert(3, UNKNOWN)])
        after = sequencer.submit([expert(4, genesis), expert(5, Previous(0))])
        disk.go.set()
        with pytest.raises(EntryRefused, match="parent"):
            refused.result(10)
        accepted = running.result(10) + before.result(10) + after.result(10)
    again = opened(tmp_path)
    assert again.verify()[1].size == len(accepted) == 4
    assert encode(again.state) == encode(chains.state)


def test_another_key_is_denied_and_changes_nothing(tmp_path: Path) -> None:
    """The sequencer of the chains is the one that they name."""
    chains, genesis = begun(tmp_path)
    with Sequencer(chains, OTHER, now) as sequencer, pytest.raises(Denied):
        sequencer.submit([expert(0, genesis)]).result(10)
    assert opened(tmp_path).logs["parameter"].size == 0


def test_the_queue_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in drafts; what was taken is committed all the same."""
    chains, genesis = begun(tmp_path)
    disk = HeldDisk(monkeypatch)
    with Sequencer(chains, KEY, now, waiting_max=3) as sequencer:
        futures = [sequencer.submit([expert(0, genesis)])]
        assert disk.reached.wait(10)
        futures.append(sequencer.submit([expert(number, genesis) for number in range(1, 4)]))
        with pytest.raises(QueueFull):
            sequencer.submit([expert(4, genesis)])
        disk.go.set()
    assert [len(future.result(10)) for future in futures] == [1, 3]
    for drafts in ([], [expert(0, genesis)] * (limits.submit_drafts_max + 1)):
        with pytest.raises(InvalidInput):
            sequencer.submit(drafts)


def test_closing_commits_what_waits_and_then_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever."""
    chains, genesis = begun(tmp_path)
    disk = HeldDisk(monkeypatch)
    sequencer = Sequencer(chains, KEY, now)
    futures = [sequencer.submit([expert(0, genesis)])]
    assert disk.reached.wait(10)
    futures.append(sequencer.submit([expert(1, genesis)]))
    disk.go.set()
    sequencer.close()
    assert all(future.done() for future in futures)
    with pytest.raises(Unavailable, match="closed"):
        sequencer.submit([expert(2, genesis)])
    assert opened(tmp_path).logs["parameter"].size == 2


def test_after_a_failed_commit_everything_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rename may have reached the disk or not: nothing goes on until the chains are opened again."""
    chains, genesis = begun(tmp_path)

    def fail(folder: Path, fsync=durable.fsync_folder) -> None:
        if folder == tmp_path:
            raise OSError(errno.EIO, "disk")
        fsync(folder)

    with Sequencer(chains, KEY, now) as sequencer:
        monkeypatch.setattr(durable, "fsync_folder", fail)
        with pytest.raises(Unavailable, match="disk"):
            sequencer.submit([expert(0, genesis)]).result(10)
        monkeypatch.undo()
        with pytest.raises(Unavailable, match="open"):
            sequencer.submit([expert(1, genesis)]).result(10)


def test_a_mistake_of_ours_leaves_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread ends with its traceback, and every future with `Unavailable`."""
    chains, genesis = begun(tmp_path)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def mistake(_key: Key) -> None:
        raise AssertionError

    monkeypatch.setattr(chains, "publish", mistake)
    with Sequencer(chains, KEY, now) as sequencer:
        with pytest.raises(Unavailable, match="stopped"):
            sequencer.submit([expert(0, genesis)]).result(10)
        sequencer.close()
        with pytest.raises(Unavailable, match="closed"):
            sequencer.submit([expert(1, genesis)])


def test_a_snapshot_is_taken_when_it_is_due_and_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening then folds what came since, whatever came before."""
    monkeypatch.setattr("blyan.chain.sequencer._tail_min", 5)
    chains, genesis = begun(tmp_path)
    with Sequencer(chains, KEY, now) as sequencer:
        for number in range(7):
            sequencer.submit([expert(number, genesis)]).result(10)
    state = opened(tmp_path).joint.state
    assert state is not None
    assert state.sizes == {"meta": 1, "parameter": 4, "dataset": 0}


def test_a_busy_sequencer_takes_one_at_four_times_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While others wait, and not before."""
    monkeypatch.setattr("blyan.chain.sequencer._tail_min", 5)
    chains, genesis = begun(tmp_path)
    disk = HeldDisk(monkeypatch)
    with Sequencer(chains, KEY, now) as sequencer:
        monkeypatch.setattr(limits, "commit_entries_max", 1)
        futures = [sequencer.submit([expert(number, genesis)]) for number in range(22)]
        disk.go.set()
        assert [len(future.result(10)) for future in futures] == [1] * 22
    state = opened(tmp_path).joint.state
    assert state is not None
    assert state.sizes["parameter"] == 19
    assert disk.commits == 23


def test_a_snapshot_for_which_there_is_no_room_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again later; entries go on."""
    monkeypatch.setattr("blyan.chain.sequencer._tail_min", 3)
    chains, genesis = begun(tmp_path)
    tried: list[int] = []

    def full(*_: object, **__: object) -> None:
        tried.append(chains.logs["parameter"].size)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(chains.store, "put", full)
    with Sequencer(chains, KEY, now) as sequencer:
        for number in range(7):
            sequencer.submit([expert(number, genesis)]).result(10)
    assert tried == [2, 5]
    assert opened(tmp_path).verify()[1].size == 7


def test_many_threads_may_submit(tmp_path: Path) -> None:
    """Each gets its own ids; the log has them all once."""
    chains, genesis = begun(tmp_path)
    with Sequencer(chains, KEY, now) as sequencer, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: sequencer.submit([expert(number, genesis)]).result(30)[0], range(200)))
    assert len(set(found)) == opened(tmp_path).verify()[1].size == 200
