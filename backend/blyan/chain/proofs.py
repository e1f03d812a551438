"""Inclusion and consistency proofs of RFC 6962 section 2.1: made from perfect subtrees, checked from hashes alone.

Pure. `Node` answers with the hash of one perfect subtree, which `chain/log` reads from its hash tiles, so that a proof
costs a logarithm of the chain. Checking follows RFC 9162 sections 2.1.3.2 and 2.1.4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from blyan.chain.merkle import node_hash
from blyan.primitives.errors import IntegrityFault, InvalidInput
from blyan.primitives.ids import Digest

Node: TypeAlias = Callable[[int, int], Digest]  # (level, index): hash of leaves index·2^level … (index+1)·2^level


def range_root(node: Node, begin: int, end: int) -> Digest:
    """The tree hash over leaves begin … end; `begin` is a multiple of the largest power of two below the width."""
    width = end - begin
    assert width > 0, "a range with leaves"
    if width & (width - 1) == 0:
        level = width.bit_length() - 1
        assert begin % width == 0, "aligned, as the splits of RFC 6962 are"
        return node(level, begin >> level)
    split = begin + _split(width)
    return node_hash(range_root(node, begin, split), range_root(node, split, end))


def inclusion_path(node: Node, index: int, size: int) -> list[Digest]:
    """PATH(index, D[size]): the hashes beside the way from one leaf to the root, leaf end first."""
    if not 0 <= index < size:
        raise InvalidInput(f"inclusion proof: expected an index from 0 to {size - 1}, found {index}")
    path: list[Digest] = []
    begin, end = 0, size
    while end - begin > 1:
        split = begin + _split(end - begin)
        if index < split:
            path.append(range_root(node, split, end))
            end = split
        else:
            path.append(range_root(node, begin, split))
            begin = split
    return path[::-1]


def consistency_path(node: Node, first: int, second: int) -> list[Digest]:
    """PROOF(first, D[second]): what shows that the first `first` leaves are the beginning of `second` leaves."""
    if not 0 < first <= second:
        raise InvalidInput(f"consistency proof: expected 1 to {second} leaves, found {first}")
    path: list[Digest] = []
    begin, end, known = 0, second, True  # known: the subtree is the old tree itself, whose root the verifier has
    while first != end:
        split = begin + _split(end - begin)
        if first <= split:
            path.append(range_root(node, split, end))
            end = split
        else:
            path.append(range_root(node, begin, split))
            begin, known = split, False
    if not known:
        path.append(range_root(node, begin, end))
    return path[::-1]


def check_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Raise `IntegrityFault` unless `path` leads from the leaf hash at `index` to the root over `size` leaves."""
    if not 0 <= index < size:
        raise IntegrityFault(f"inclusion proof: expected an index from 0 to {size - 1}, found {index}")
    at, last, computed = index, size - 1, leaf
    for beside in path:
        if last == 0:
            raise IntegrityFault(f"inclusion proof: expected fewer than {len(path)} hashes")
        if at & 1 or at == last:
            computed = node_hash(beside, computed)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            computed = node_hash(computed, beside)
        at, last = at >> 1, last >> 1
    if last != 0 or computed != root:
        raise IntegrityFault(f"inclusion proof: expected root {root.hex()}, computed {computed.hex()}")


def check_consistency(first: int, first_root: bytes, second: int, second_root: bytes, path: Sequence[bytes]) -> None:
    """Raise `IntegrityFault` unless `path` shows that the first tree is the beginning of the second."""
    if not 0 < first <= second:
        raise IntegrityFault(f"consistency proof: expected 1 to {second} leaves, found {first}")
    if first == second:
        if path or first_root != second_root:
            raise IntegrityFault(f"consistency proof: expected root {first_root.hex()}, found {second_root.hex()}")
        return
    hashes = list(path) if first & (first - 1) else [first_root, *path]
    if not hashes:
        raise IntegrityFault("consistency proof: expected some hashes, found none")
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = hashes[0]
    for beside in hashes[1:]:
        if last == 0:
            raise IntegrityFault(f"consistency proof: expected fewer than {len(path)} hashes")
        if at & 1 or at == last:
            old, new = node_hash(beside, old), node_hash(beside, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, beside)
        at, last = at >> 1, last >> 1
    if last != 0 or old != first_root or new != second_root:
        raise IntegrityFault(
            f"consistency proof: expected roots {first_root.hex()} and {second_root.hex()}, "
            f"computed {old.hex()} and {new.hex()}"
        )


def _split(width: int) -> int:
    """The largest power of two below `width`."""
    return 1 << (width - 1).bit_length() - 1
