"""The index: derived, quick, and never believed."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from blyan.chain.archive import export_archive, import_archive
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
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, NotFound
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


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More entries than one answer may have, of 20 layers of 128 experts."""
    folder = tmp_path_factory.mktemp("many")
    chains = opened(folder)
    genesis = chains.start(KEY, now)
    for layer in range(20):
        for expert in range(128):
            chains.append(ExpertBody("m", layer, expert), (genesis,), BLOCK, KEY, now)
        chains.snapshot(KEY)
    for expert in range(30):
        chains.append(ExpertBody("m", 20, expert), (genesis,), BLOCK, KEY, now)
    chains.publish(KEY)
    return folder


@pytest.mark.parametrize(
    "query",
    [
        Query(model="m", expert=5),
        Query(model="m", layer=15),
        Query(layer=15),
        Query(author=KEY.public, layer=15),
        Query(author=KEY.public, model="m", expert=7),
        Query(chain="parameter", layer=19, expert=127),
        Query(chain="meta"),
        Query(chain="parameter"),
    ],
)
def test_the_index_answers_what_the_logs_do(many: Path, query: Query) -> None:
    """However far behind the first entries the matching ones stand; in the same order, cut at the same place."""
    chains = opened(many)
    with open_index(many, chains) as index:
        for count in (1, 100, 1_000):
            expected = Finder(chains, None).find(query, count)
            assert expected
            assert Finder(chains, index).find(query, count) == expected


def test_a_node_that_joined_finds_what_it_holds(many: Path, tmp_path: Path) -> None:
    """Its first entry is beyond what one answer may have."""
    export_archive(opened(many), tmp_path / "archive", from_snapshot=True)
    import_archive(tmp_path / "chain", BlobStore(tmp_path / "blobs", writable=True), tmp_path / "archive")
    chains = opened(tmp_path)
    assert chains.first["parameter"] > limits.found_entries_max
    with open_index(tmp_path, chains) as index:
        for query in (Query(), Query(chain="parameter"), Query(model="m"), Query(author=KEY.public)):
            assert Finder(chains, index).find(query, 1_000) == Finder(chains, None).find(query, 1_000) != []


def test_the_largest_numbers_an_entry_may_say_are_indexed(tmp_path: Path) -> None:
    """An entry that is valid never stops the node."""
    chains = opened(tmp_path)
    genesis = chains.start(KEY, now)
    largest = limits.canonical_integer_max
    chains.append(ExpertBody("m", largest, largest), (genesis,), BLOCK, KEY, now)
    chains.append(ExpertBody("m", 1 << 32, 0), (genesis,), BLOCK, KEY, now)
    chains.publish(KEY)
    with open_index(tmp_path, chains) as index:
        assert [found.position for found in Finder(chains, index).find(Query(model="m", layer=largest), 9)] == [0]
        assert [found.position for found in Finder(chains, index).find(Query(model="m", layer=1 << 32), 9)] == [1]
        assert list(differences(index, chains)) == []


@pytest.mark.parametrize("asked", [{"model": "é"}, {"model": ""}, {"layer": -1}, {"expert": 1 << 53}])
def test_a_query_that_no_entry_could_match_is_refused(asked: dict[str, object]) -> None:
    """With what was expected, before anything is read."""
    with pytest.raises(InvalidInput, match=r"query (model|layer|expert): expected"):
        Query(**asked)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("count", [-1, 0, limits.found_entries_max + 1])
def test_a_limit_out_of_range_is_refused(many: Path, count: int) -> None:
    """None, fewer or more than an answer may have."""
    with pytest.raises(InvalidInput, match="limit: expected 1 to"):
        Finder(opened(many), None).find(Query(), count)


def test_an_index_that_is_a_link_is_made_again_and_what_it_showed_is_left(tmp_path: Path) -> None:
    """By a start too, not only by hand."""
    (tmp_path / "data").mkdir()
    chains = grown(tmp_path / "data", 5)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").write_text("mine")
    (tmp_path / "data" / folder_name).symlink_to(tmp_path / "elsewhere")
    open_index(tmp_path / "data", chains).close()
    assert not (tmp_path / "data" / folder_name).is_symlink()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["mine"]
