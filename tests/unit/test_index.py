"""The index: derived, quick, and never believed."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from blyan.chain.chains import Chains
from blyan.chain.entries import DatasetBody, ExpertBody, PayloadReference, TrunkBody, chain_names
from blyan.node.indexing import (
    Finder,
    Query,
    behind,
    catch_up,
    differences,
    folder_name,
    open_index,
    open_reader,
    rebuild,
)
from blyan.primitives.errors import NotFound
from blyan.primitives.ids import EntryId, PayloadId
from blyan.storage.blob_store import BlobStore
from blyan.storage.index import EntryIndex, IndexDamaged, Place
from scenarios import KEY, NEXT, now

BLOCK = PayloadReference(PayloadId("cd" * 32), 4096, "application/vnd.blyan.tensorblock")


def opened(folder: Path) -> Chains:
    return Chains(folder / "chain", KEY.public, BlobStore(folder / "blobs", writable=True))


def grown(folder: Path, count: int, begin: int = 0) -> Chains:
    """Experts of two models, a trunk part and a dataset."""
    chains = opened(folder)
    genesis = chains.start(KEY, now)
    for number in range(begin, begin + count):
        chains.append(ExpertBody("ab"[number % 2], number % 3, number), (genesis,), BLOCK, KEY, now)
    chains.append(TrunkBody("a", f"layer.{begin}"), (genesis,), BLOCK, KEY, now)
    chains.append(DatasetBody("d", "CC0-1.0", 9), (genesis,), BLOCK, KEY, now)
    chains.publish(KEY)
    return chains


def everything(chains: Chains) -> list[tuple[str, int]]:
    return [(name, at) for name in chain_names for at in range(chains.logs[name].checkpoint.size)]


def test_every_entry_is_found_by_id_model_expert_and_author(tmp_path: Path) -> None:
    """And what is found is what the log holds."""
    chains = grown(tmp_path, 30)
    with open_index(tmp_path, chains) as index:
        finder = Finder(chains, index)
        for chain, at in everything(chains):
            found = finder.find(Query(), 1_000)
            one = finder.by_id(found[everything(chains).index((chain, at))].identity)
            assert (one.chain, one.position) == (chain, at)
        assert [each.position for each in finder.find(Query(model="b"), 100)] == list(range(1, 30, 2))
        assert [each.position for each in finder.find(Query(model="a", layer=0), 100)] == [0, 6, 12, 18, 24, 30]
        assert [each.position for each in finder.find(Query(model="a", layer=0, expert=12), 9)] == [12]
        assert finder.find(Query(model="a", expert=12), 9)[0].position == 12
        assert len(finder.find(Query(author=KEY.public), 100)) == 33
        assert finder.find(Query(author=NEXT.public), 100) == []
        assert [each.chain for each in finder.find(Query(chain="dataset"), 9)] == ["dataset"]
        assert len(finder.find(Query(), 5)) == 5
        with pytest.raises(NotFound):
            finder.by_id(EntryId("0" * 64))


def test_without_an_index_the_logs_give_the_same_answers(tmp_path: Path) -> None:
    """Slower, and equal."""
    chains = grown(tmp_path, 30)
    with open_index(tmp_path, chains) as index:
        for query in (
            Query(),
            Query(model="a"),
            Query(model="b", layer=1),
            Query(author=KEY.public),
            Query(chain="meta"),
        ):
            quick, plain = Finder(chains, index).find(query, 100), Finder(chains, None).find(query, 100)
            assert quick == plain


def test_what_came_since_is_found_before_it_is_applied(tmp_path: Path) -> None:
    """A reader beside the writer sees an older index and the newest logs."""
    with open_index(tmp_path, grown(tmp_path, 5)):
        pass
    chains = grown(tmp_path, 5, 5)
    with EntryIndex(tmp_path / folder_name, writable=False) as index:
        finder = Finder(chains, index)
        assert len(finder.find(Query(), 100)) == len(everything(chains)) == 15
        assert finder.find(Query(model="b", expert=9), 9)[0].position == 10


def test_catching_up_applies_each_entry_once(tmp_path: Path) -> None:
    """The second time there is nothing to do."""
    index = open_index(tmp_path, grown(tmp_path, 5))
    chains = grown(tmp_path, 7, 5)
    assert behind(index, chains) == 9
    assert catch_up(index, chains) == 9
    assert (behind(index, chains), catch_up(index, chains)) == (0, 0)
    assert list(differences(index, chains)) == []
    index.close()


def test_an_index_of_another_history_is_made_again(tmp_path: Path) -> None:
    """Ahead of the logs, or beside them."""
    chains = grown(tmp_path, 5)
    with open_index(tmp_path, grown(tmp_path / "other", 9)):
        pass
    shutil.rmtree(tmp_path / folder_name, ignore_errors=True)
    shutil.copytree(tmp_path / "other" / "chain", tmp_path / "copy" / "chain")
    with (
        open_index(tmp_path, opened(tmp_path / "other")) as index,
        pytest.raises(IndexDamaged, match="another history"),
    ):
        catch_up(index, chains)
    with open_index(tmp_path, chains) as index:
        assert list(differences(index, chains)) == []
        assert len(Finder(chains, index).find(Query(), 100)) == 8


def test_a_row_that_lies_is_no_answer_and_is_found_by_the_check(tmp_path: Path) -> None:
    """Every place is read in its log before it is believed."""
    chains = grown(tmp_path, 6)
    with open_index(tmp_path, chains) as index:
        ids = [each.identity for each in Finder(chains, index).find(Query(chain="parameter"), 100)]
        index._rows.put(b"i" + bytes.fromhex(ids[0]), Place(1, 3).encode())  # pyright: ignore[reportPrivateUsage]
        index._rows.put(b"a" + bytes(32) + Place(1, 2).encode(), b"")  # pyright: ignore[reportPrivateUsage]
        found = Finder(chains, index).by_id(ids[0])
        assert (found.identity, found.position) == (ids[0], 0)
        complaints = list(differences(index, chains))
        assert any("entry 0" in each for each in complaints)
        assert any("rows in all" in each for each in complaints)
    rebuild(tmp_path, chains).close()
    with open_index(tmp_path, chains) as index:
        assert list(differences(index, chains)) == []


@pytest.mark.parametrize("seed", range(20))
def test_any_damage_to_its_files_never_gives_a_wrong_answer(tmp_path: Path, seed: int) -> None:
    """Flipped, cut or gone: opened it is made again, or the rows are as they were."""
    chains = grown(tmp_path, 40)
    index = open_index(tmp_path, chains)
    if seed % 2:
        index.flush()
    index.close()
    chance = random.Random(seed)
    files = sorted(path for path in (tmp_path / folder_name).iterdir() if path.is_file() and path.stat().st_size)
    victim = chance.choice(files)
    raw = bytearray(victim.read_bytes())
    match seed % 3:
        case 0:
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
            victim.write_bytes(raw)
        case 1:
            victim.write_bytes(raw[: chance.randrange(len(raw))])
        case _:
            victim.unlink()
    expected = Finder(chains, None).find(Query(), 100)
    reader = open_reader(tmp_path)
    try:
        assert Finder(chains, reader).find(Query(), 100) == expected
    except IndexDamaged:
        pass  # said, with what to do
    finally:
        if reader is not None:
            reader.close()
    with open_index(tmp_path, chains) as index:
        assert list(differences(index, chains)) == []
        assert Finder(chains, index).find(Query(), 100) == expected


def test_no_index_is_no_fault(tmp_path: Path) -> None:
    """A data directory of a reader has none."""
    assert open_reader(tmp_path) is None
    chains = grown(tmp_path, 3)
    (tmp_path / folder_name).mkdir()
    (tmp_path / folder_name / "CURRENT").write_text("nonsense")
    assert open_reader(tmp_path) is None
    assert len(Finder(chains, open_reader(tmp_path)).find(Query(), 9)) == 6
