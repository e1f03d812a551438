"""Tile roots: the same bytes give the same id however they arrive, and one bit gives another."""

import random

import pytest

from blyan.primitives.digest import hash_node, hash_payload, hash_subtile
from blyan.primitives.errors import IntegrityFault, InvalidInput
from blyan.primitives.limits import subtile_bytes
from blyan.storage.tile import TileHasher, TileIndex, differing, index_of, subtile_leaves


def data_of(length: int) -> bytes:
    return random.Random(length).randbytes(length)


def test_payload_ids_never_change() -> None:
    """Frozen vectors: one byte, one subtile, one more, and a tree of two levels."""
    zeros = {
        length: index_of(bytes(length)).payload_id[:16]
        for length in (1, subtile_bytes, subtile_bytes + 1, 9 * subtile_bytes)
    }
    assert zeros == {
        1: "754f1ed32e1afcb8",
        subtile_bytes: "888f7d312e221fd0",
        subtile_bytes + 1: "a1a3ad9b9c417429",
        9 * subtile_bytes: "952edf1ec2714077",
    }


def test_nine_subtiles_make_the_tree_that_the_specification_draws() -> None:
    """Groups of up to eight, a lone last child included, level and count in each node."""
    data = data_of(9 * subtile_bytes)
    leaves = [hash_subtile(data[at : at + subtile_bytes]) for at in range(0, len(data), subtile_bytes)]
    root = hash_node(2, [hash_node(1, leaves[:8]), hash_node(1, leaves[8:])])
    assert index_of(data).payload_id == hash_payload(len(data), root)


@pytest.mark.parametrize("piece", [1000, subtile_bytes - 1, subtile_bytes, subtile_bytes + 1, 10**7])
def test_the_size_of_the_pieces_does_not_matter(piece: int) -> None:
    """Hashing while writing equals hashing the whole."""
    data, hasher = data_of(3 * subtile_bytes + 5), TileHasher()
    for at in range(0, len(data), piece):
        hasher.update(data[at : at + piece])
    assert hasher.finish() == index_of(data)


def test_a_flipped_bit_is_named_by_its_subtile() -> None:
    """The index finds each of several damaged subtiles and no other."""
    data = bytearray(data_of(4 * subtile_bytes + 100))
    index = index_of(data)
    data[0] ^= 1
    data[-1] ^= 0x80
    assert differing(subtile_leaves(data), index.leaves) == [0, 4]


def test_an_index_of_another_payload_is_refused() -> None:
    """An index file is worth what its payload id says."""
    index = index_of(data_of(700_000))
    assert TileIndex.decode(index.encode(), 700_000, index.payload_id) == index
    with pytest.raises(IntegrityFault, match="computed"):
        TileIndex.decode(index.encode(), 700_001, index.payload_id)
    with pytest.raises(IntegrityFault, match="expected 96 bytes, found 95"):
        TileIndex.decode(index.encode()[:-1], 700_000, index.payload_id)


def test_an_empty_payload_is_refused() -> None:
    """It would have no leaf."""
    with pytest.raises(InvalidInput):
        index_of(b"")
