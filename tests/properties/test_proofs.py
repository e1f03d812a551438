"""RFC 6962 proofs: every true one verifies, and none of a changed tree, index or path."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blyan.chain.merkle import Digest, RightEdge, leaf_hash, perfect_root
from blyan.chain.proofs import check_consistency, check_inclusion, consistency_path, inclusion_path
from blyan.primitives.errors import IntegrityFault, InvalidInput

LEAVES = [leaf_hash(str(number).encode()) for number in range(600)]


def node(level: int, index: int) -> Digest:
    return perfect_root(LEAVES[index << level : (index + 1) << level])


def root(size: int) -> Digest:
    edge = RightEdge()
    for leaf in LEAVES[:size]:
        edge.append(leaf)
    return edge.root()


def naive_path(index: int, leaves: list[Digest]) -> list[bytes]:
    """RFC 6962 section 2.1.1 as it is written."""
    if len(leaves) == 1:
        return []
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if index < split:
        return [*naive_path(index, leaves[:split]), naive_root(leaves[split:])]
    return [*naive_path(index - split, leaves[split:]), naive_root(leaves[:split])]


def naive_root(leaves: list[Digest]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


@given(size=st.integers(1, 600), data=st.data())
def test_inclusion_paths_are_those_of_the_rfc_and_verify(size: int, data: st.DataObject) -> None:
    """For any index of any size."""
    index = data.draw(st.integers(0, size - 1))
    path = inclusion_path(node, index, size)
    assert path == naive_path(index, LEAVES[:size])
    check_inclusion(LEAVES[index], index, size, path, root(size))


@given(second=st.integers(1, 600), data=st.data())
def test_consistency_paths_verify(second: int, data: st.DataObject) -> None:
    """For any older size."""
    first = data.draw(st.integers(1, second))
    check_consistency(first, root(first), second, root(second), consistency_path(node, first, second))


@given(size=st.integers(2, 600), data=st.data())
def test_no_changed_inclusion_proof_verifies(size: int, data: st.DataObject) -> None:
    """Another leaf, index, size beyond, root or hash; one hash more or less."""
    index = data.draw(st.integers(0, size - 1))
    path, good = inclusion_path(node, index, size), root(size)
    other = Digest(bytes(32))
    at = data.draw(st.integers(0, len(path) - 1))
    changed = [
        (LEAVES[index - 1], index, size, path, good),
        (LEAVES[index], (index + 1) % size, size, path, good),
        (LEAVES[index], index, size, path, other),
        (LEAVES[index], index, size, [*path[:at], other, *path[at + 1 :]], good),
        (LEAVES[index], index, size, [*path, other], good),
        (LEAVES[index], index, size, path[:-1], good),
        (LEAVES[index], size, size, path, good),
    ]
    for case in changed:
        with pytest.raises(IntegrityFault):
            check_inclusion(*case)


@given(second=st.integers(2, 600), data=st.data())
def test_no_changed_consistency_proof_verifies(second: int, data: st.DataObject) -> None:
    """Another history gives other roots, and no path leads to both."""
    first = data.draw(st.integers(1, second - 1))
    path, old, new = consistency_path(node, first, second), root(first), root(second)
    other = Digest(bytes(32))
    for case in (
        (first, other, second, new, path),
        (first, old, second, other, path),
        (first, old, second, new, [*path, other]),
        (first, old, second, new, path[:-1]),
        (first, old, first, new, path),
        (0, old, second, new, path),
        (second + 1, old, second, new, path),
    ):
        with pytest.raises(IntegrityFault):
            check_consistency(*case)


def test_indexes_outside_the_tree_are_refused() -> None:
    """Nobody gets a proof of what is not there."""
    for index, size in ((-1, 5), (5, 5), (0, 0)):
        with pytest.raises(InvalidInput):
            inclusion_path(node, index, size)
    for first, second in ((0, 5), (6, 5)):
        with pytest.raises(InvalidInput):
            consistency_path(node, first, second)
