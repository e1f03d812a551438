"""Domain-separated hashing of payloads: BLAKE3-256 in derive-key mode, one context per use.

Chain trees use SHA-256 exactly as RFC 6962 (`chain/merkle`), never these functions. See docs/spec/digests.md.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from blake3 import blake3

Bytes: TypeAlias = bytes | bytearray | memoryview

digest_bytes: Final = 32
_joined_bytes_max: Final = 64 * 1024

_subtile = blake3(derive_key_context="blyan v1 subtile")
_node = blake3(derive_key_context="blyan v1 node")
_payload = blake3(derive_key_context="blyan v1 payload")
_partial = blake3(derive_key_context="blyan v1 partial")
_sample = blake3(derive_key_context="blyan v1 sample")
_expert_answer = blake3(derive_key_context="blyan v1 expert answer")
_generation_chunk = blake3(derive_key_context="blyan v1 generation chunk")
_stage_call = blake3(derive_key_context="blyan v1 stage call")
_possession = blake3(derive_key_context="blyan v1 possession")


def hash_subtile(data: Bytes) -> bytes:
    """Leaf of the tile tree: 32 bytes over one subtile."""
    hasher = _subtile.copy()
    hasher.update(data)
    return hasher.digest()


def hash_node(level: int, children: list[bytes]) -> bytes:
    """Inner node of the tile tree: level u8 ‖ count u8 ‖ children."""
    hasher = _node.copy()
    hasher.update(bytes((level, len(children))))
    hasher.update(b"".join(children))
    return hasher.digest()


def hash_payload(length: int, tile_root: bytes) -> str:
    """A payload's id as 64 hex digits: length u64 LE ‖ tile root."""
    hasher = _payload.copy()
    hasher.update(length.to_bytes(8, "little"))
    hasher.update(tile_root)
    return hasher.hexdigest()


def hash_partial(data: Bytes) -> bytes:
    """Checksum of the record of which subtiles of an unfinished payload are here: 32 bytes."""
    hasher = _partial.copy()
    hasher.update(data)
    return hasher.digest()


def hash_expert_answer(call: Bytes, answer: Bytes) -> str:
    """What binds an answer to the call that it is for, 64 hex digits: length of the call u64 LE ‖ call ‖ answer."""
    return _hash_both(_expert_answer, call, answer)


def hash_generation_chunk(request: Bytes, chunk: Bytes) -> str:
    """What binds steps to the request that they answer, 64 hex digits: length of request u64 LE ‖ request ‖ chunk."""
    return _hash_both(_generation_chunk, request, chunk)


def hash_stage_call(about: Bytes, hidden: Bytes) -> str:
    """What binds hidden states to the call that they are of, 64 hex digits: bytes of about u64 LE ‖ about ‖ hidden."""
    return _hash_both(_stage_call, about, hidden)


class Possession:
    """What shows that whoever answers a question has some bytes: BLAKE3 over them, keyed by the question.

    The question, of 80 bytes, names who answers it, so that nobody else's answer is one. The key goes into every chunk
    of the hash: no digest of a part of the bytes, kept in their place, serves for another question.
    """

    def __init__(self, question: bytes) -> None:
        assert len(question) == 80, "nonce of 16 bytes, keys of who asks and who answers"
        key = _possession.copy()
        key.update(question)
        self._hasher = blake3(key=key.digest())

    def update(self, data: Bytes) -> None:
        """The next bytes."""
        self._hasher.update(data)

    def digest(self) -> bytes:
        """32 bytes."""
        return self._hasher.digest()


def _hash_both(begun: blake3, first: Bytes, second: Bytes) -> str:
    hasher = begun.copy()
    parts = (len(first).to_bytes(8, "little"), first, second)
    if len(first) + len(second) <= _joined_bytes_max:
        hasher.update(b"".join(parts))  # at once, which takes small ones half the time
    else:
        for part in parts:
            hasher.update(part)
    return hasher.hexdigest()


def uniform(seed: int, position: int) -> float:
    """The uniform number in [0, 1) that sampling draws at `position`: PRF(seed, position), 53 bits.

    A function of its arguments alone, so that a replayed generation draws the same numbers wherever it runs.
    """
    hasher = _sample.copy()
    hasher.update(seed.to_bytes(16, "little", signed=True))
    hasher.update(position.to_bytes(8, "little"))
    return (int.from_bytes(hasher.digest(8), "little") >> 11) / (1 << 53)
