"""Whatever bytes a peer sends: a value, or a fault that says whose it is; never another error, never a large thing."""

from __future__ import annotations

import base64
import contextlib
import json
import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blyan.network.gossip import parse_digest
from blyan.network.handshake import Challenge, Swarm, check_proofs, parse_caller, parse_challenge
from blyan.primitives import canonical, limits
from blyan.primitives.errors import Denied, IntegrityFault, InvalidInput, MalformedMessage, PeerFault
from blyan.primitives.ids import PublicKey
from blyan.primitives.keys import Key
from blyan.wire.expert_call import parse_batch
from blyan.wire.framing import Message, WireTensor, decode, encode
from blyan.wire.peer import Holding, Summary, parse_code, parse_summary, unpack_bits

KEY = Key.from_seed(bytes(range(32)))
GOOD = Summary(
    KEY.public,
    "ab" * 16,
    1_700_000_000,
    3,
    "cd" * 32,
    "ef" * 8,
    ("wss://127.0.0.1:1",),
    ("expert",),
    holdings={"12" * 32: Holding(True, b"\xff\x01")},  # type: ignore[dict-item]
).sign(KEY)
CALL: dict[str, Any] = {
    "model": "ab" * 32,
    "layer": 1,
    "experts": [1, 2],
    "rows": [3, 4],
    "width": 8,
    "dtype": "F32",
    "activations": "exact",
    "ms": 1000,
    "nonce": "00" * 12,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def changed(good: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A good object with some of its fields replaced, or taken away."""
    replaced = st.dictionaries(st.sampled_from(sorted(good)), JSON, max_size=3)
    lacking = st.sets(st.sampled_from(sorted(good)), max_size=1)
    return st.tuples(replaced, lacking).map(
        lambda pair: {k: v for k, v in (good | pair[0]).items() if k not in pair[1]}
    )


@given(
    st.binary(max_size=300)
    | st.tuples(st.integers(0, len(GOOD.signed) - 1), st.binary(max_size=8)).map(
        lambda pair: GOOD.signed[: pair[0]] + pair[1] + GOOD.signed[pair[0] + len(pair[1]) :]
    )
)
def test_any_bytes_are_a_summary_or_a_fault(raw: bytes) -> None:
    """Also those of a good one in which some were overwritten: then it is the same, or refused."""
    try:
        assert parse_summary(raw) == GOOD
    except (MalformedMessage, IntegrityFault):
        assert raw != GOOD.signed


@given(changed(json.loads(GOOD.signed)))
@settings(suppress_health_check=[HealthCheck.too_slow])  # its first text takes seconds to draw on a busy machine
def test_any_fields_are_a_summary_or_a_fault(fields: dict[str, Any]) -> None:
    """Signed by its node, as far as they can be encoded: what is accepted is within the limits."""
    fields.pop("sig", None)
    try:
        value = canonical.encode(fields)
        raw = canonical.encode({**fields, "sig": KEY.sign("summary", value).hex()})
    except (InvalidInput, ValueError, TypeError, AssertionError):
        return
    try:
        found = parse_summary(raw)
    except (MalformedMessage, IntegrityFault):
        return
    assert len(found.signed) <= limits.summary_bytes_max
    assert len(found.peer_urls) <= limits.summary_urls_max
    assert sum(len(held.experts) for held in found.holdings.values()) <= limits.holdings_all_bytes_max


@given(changed(CALL))
def test_any_fields_are_a_call_or_a_fault(fields: dict[str, Any]) -> None:
    """What is a call is within the limits, and says the same of itself again."""
    try:
        batch = parse_batch(fields)
    except MalformedMessage:
        return
    assert batch.count <= limits.expert_rows_max
    assert parse_batch(batch.fields()) == batch
    assert batch.encoded == canonical.encode(batch.fields())


FRAME = b"".join(encode(Message({"id": 1, "kind": "ping"}, (WireTensor("t", "F32", (2, 2), bytes(16)),))))


@given(
    st.binary(max_size=200)
    | st.tuples(st.integers(0, len(FRAME) - 1), st.binary(max_size=6)).map(
        lambda pair: FRAME[: pair[0]] + pair[1] + FRAME[pair[0] + len(pair[1]) :]
    )
)
def test_any_bytes_are_a_frame_or_a_fault(raw: bytes) -> None:
    """And nothing is made of it that is larger than what came."""
    try:
        found = decode(raw)
    except MalformedMessage:
        return
    assert sum(len(tensor.data) for tensor in found.tensors) <= len(raw)


@pytest.mark.parametrize(
    "described",
    [
        {"codec": "zstd", "shape": [1 << 27], "dtype": "F32", "bytes": 20},
        {"codec": "raw", "shape": [1 << 28], "dtype": "U8", "bytes": 1 << 28},
        {"codec": "raw", "shape": [1 << 20] * 8, "dtype": "U8", "bytes": 0},
        {"codec": "int8row", "shape": [1 << 20, 1 << 20], "dtype": "F32", "bytes": 20},
        {"codec": "raw", "shape": [0] * 8, "dtype": "F64", "bytes": 1 << 60},
    ],
)
def test_a_frame_that_says_more_than_it_carries_allocates_nothing(described: dict[str, Any]) -> None:
    """Lengths are checked before there is memory for them."""
    header = orjson.dumps({"v": 1, "fields": {}, "tensors": [{"name": "t", **described}]})
    raw = len(header).to_bytes(4, "little") + header + bytes(20)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage):
            decode(raw)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=100).map(lambda raw: base64.b64encode(raw).decode()) | st.text(max_size=60) | JSON)
def test_any_text_is_a_bitmap_or_a_fault(text: object) -> None:
    """Within the limit of one model."""
    with contextlib.suppress(InvalidInput):
        assert len(unpack_bits(text)) <= limits.holdings_bytes_max


@given(st.dictionaries(st.sampled_from(["node", "boot", "nonce", "certificate", "versions", "version"]), JSON))
def test_any_fields_are_a_hello_or_a_fault(fields: dict[str, Any]) -> None:
    """Of either side."""
    for parse in (parse_challenge, parse_caller):
        with pytest.raises((PeerFault, Denied)):
            parse(fields)


@given(st.dictionaries(st.sampled_from(["membership", "signature", "summary"]), JSON | st.text(max_size=200)))
@settings(max_examples=200)
def test_any_proofs_are_denied(fields: dict[str, Any]) -> None:
    """Without the code nothing helps; with it the rest is looked at, and is not there."""
    swarm = Swarm(bytes(16))
    challenge = Challenge(PublicKey(KEY.public), "ab" * 16, "00" * 32, "11" * 32)
    for shown in (fields, {**fields, "membership": swarm.seal("peer-answerer", b"said")}):
        with pytest.raises(Denied):
            check_proofs(challenge, swarm, "peer-answerer", b"said", shown)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_digest_or_a_fault(raw: bytes) -> None:
    """Of whole lines, or it is none."""
    with contextlib.suppress(MalformedMessage):
        assert len(parse_digest(raw)) * 16 <= len(raw)


@given(st.text(max_size=60))
def test_any_text_is_a_code_or_a_fault(text: str) -> None:
    """Which does not repeat it."""
    with pytest.raises(InvalidInput) as caught:
        parse_code(text)
    assert len(text) < 8 or text not in str(caught.value)
