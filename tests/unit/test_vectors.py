"""The frozen vectors that every implementation reads, read by the product and, where possible, by something else."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from blake3 import blake3
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from blyan.chain import snapshot
from blyan.chain.archive import import_archive
from blyan.chain.chains import Chains
from blyan.chain.checkpoint import parse_checkpoint
from blyan.chain.entries import parse_entry, parse_plainly, reserved
from blyan.chain.joint import parse_joint
from blyan.chain.proofs import check_consistency, check_inclusion
from blyan.inference.receipt_check import Known, check_receipt
from blyan.model.manifest import parse_manifest
from blyan.model.tokenizer import decode_payload
from blyan.primitives import canonical
from blyan.primitives.digest import hash_partial, uniform
from blyan.primitives.errors import IntegrityFault, InvalidInput, MalformedBlock, MalformedEncoding, MalformedEntry
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.primitives.keys import Key, verify
from blyan.primitives.limits import subtile_bytes
from blyan.storage import tensor_block
from blyan.storage.blob_store import BlobStore
from blyan.storage.tile import check_subtile, index_of
from blyan.wire.framing import decode
from vectors import make

FOLDER = Path(__file__).resolve().parent.parent / "vectors"


def vector(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def keyed(use: str, data: bytes) -> bytes:
    """BLAKE3 in derive-key mode, without the product's code."""
    return blake3(data, derive_key_context=f"blyan v1 {use}").digest()


def test_making_the_vectors_again_changes_none() -> None:
    """So nothing that they hold has changed since they were frozen."""
    for name, made in make.VECTORS.items():
        again = json.loads(json.dumps(made()))
        if name == "tensors":  # another version of zstd may pack better; every version unpacks this one
            again["zstd"] = vector(name)["zstd"]
        if name == "chain":
            again["archive"] = vector(name)["archive"]
        assert again == vector(name), f"{name}: a frozen format has changed"
    assert {path.stem for path in FOLDER.glob("*.json")} == set(make.VECTORS)


def test_canonical_encoding() -> None:
    """The standard library gives the same bytes; what is refused is refused."""
    held = vector("canonical")
    for each in held["valid"]:
        raw = bytes.fromhex(each["bytes"])
        assert raw == json.dumps(each["value"], sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        assert raw == canonical.encode(each["value"])
        assert canonical.decode(raw, bytes_max=1000) == each["value"]
    for text in held["refused"]:
        with pytest.raises(MalformedEncoding):
            canonical.decode(bytes.fromhex(text), bytes_max=1000)


def test_digests() -> None:
    """By the blake3 package alone."""
    held = vector("digests")
    for each in held["subtile"]:
        assert keyed("subtile", bytes.fromhex(each["input"])).hex() == each["digest"]
    for each in held["node"]:
        kids = [bytes.fromhex(child) for child in each["children"]]
        assert keyed("node", bytes([each["level"], len(kids)]) + b"".join(kids)).hex() == each["digest"]
    for each in held["payload"]:
        data = each["length"].to_bytes(8, "little") + bytes.fromhex(each["root"])
        assert keyed("payload", data).hex() == each["id"]
    for each in held["partial"]:
        assert hash_partial(bytes.fromhex(each["input"])).hex() == each["digest"]
    for each in held["uniform"]:
        raw = each["seed"].to_bytes(16, "little", signed=True) + each["position"].to_bytes(8, "little")
        assert int.from_bytes(keyed("sample", raw)[:8], "little") >> 11 == each["bits"]
        assert uniform(each["seed"], each["position"]) == each["bits"] / 2**53


def test_signatures() -> None:
    """By PyNaCl alone; edge cases on which Ed25519 libraries differ are all refused."""
    held = vector("signatures")
    message = bytes.fromhex(held["message"])
    assert Key.from_seed(bytes.fromhex(held["seed"])).public == held["public"]
    for kind, signature in held["signatures"].items():
        framed = b"blyan v1 " + kind.encode() + b"\0" + message
        VerifyKey(bytes.fromhex(held["public"])).verify(framed, bytes.fromhex(signature))
    VerifyKey(bytes.fromhex(held["public"])).verify(message, bytes.fromhex(held["note"]))
    for name, (public, signature) in held["refused"].items():
        with pytest.raises(IntegrityFault):
            verify(PublicKey(public), "entry", message, bytes.fromhex(signature))
        with pytest.raises((BadSignatureError, ValueError)):
            VerifyKey(bytes.fromhex(public)).verify(b"blyan v1 entry\0" + message, bytes.fromhex(signature))
        assert name


def test_tensor_blocks(tmp_path: Path) -> None:
    """`safetensors.safe_open` opens each and finds the same tensors as we do; refused headers are refused."""
    held = vector("tensor_block")
    for each in held["valid"]:
        raw = bytearray.fromhex(each["block"])
        assert index_of(raw).payload_id == each["payload"]
        (tmp_path / "block.safetensors").write_bytes(raw)
        views = tensor_block.views(tensor_block.parse_layout(bytes(raw), len(raw)), memoryview(raw))
        with safetensors.safe_open(tmp_path / "block.safetensors", "pt") as block:
            assert {key for key in block.keys() if not key.startswith("_pad.")} == set(each["tensors"])  # noqa: SIM118
            for key, expected in each["tensors"].items():
                theirs, ours = block.get_tensor(key), views[key]
                assert tuple(expected["shape"]) == tuple(theirs.shape) == tuple(ours.shape)
                assert tensor_block.dtype_names[theirs.dtype] == expected["dtype"]
                for tensor in (theirs, ours):
                    found = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                    assert found.hex() == expected["bytes"]
    for name, text in held["refused"].items():
        raw = bytes.fromhex(text)
        with pytest.raises(MalformedBlock):
            tensor_block.parse_layout(raw, len(raw))
        assert name


def payload_of(data: bytes) -> str:
    """The payload id by its definition, without the product's code."""
    level, nodes = 0, [keyed("subtile", data[at : at + subtile_bytes]) for at in range(0, len(data), subtile_bytes)]
    while len(nodes) > 1:
        level += 1
        groups = [nodes[at : at + 8] for at in range(0, len(nodes), 8)]
        nodes = [keyed("node", bytes([level, len(group)]) + b"".join(group)) for group in groups]
    return keyed("payload", len(data).to_bytes(8, "little") + nodes[0]).hex()


def test_tile_roots_and_subtile_proofs() -> None:
    """Each proof holds for its subtile, and for no other number, length, byte or path."""
    for each in vector("tile"):
        data = hashlib.shake_256(each["fill"].encode()).digest(each["length"])
        payload, length = PayloadId(each["payload"]), each["length"]
        assert payload_of(data) == payload == index_of(data).payload_id
        assert hashlib.sha256(index_of(data).encode()).hexdigest() == each["index_sha256"]
        for proof in each["proofs"]:
            number = proof["number"]
            subtile = data[number * subtile_bytes : (number + 1) * subtile_bytes]
            path = [[bytes.fromhex(sibling) for sibling in siblings] for siblings in proof["path"]]
            assert keyed("subtile", subtile).hex() == proof["leaf"]
            check_subtile(payload, length, number, subtile, path)
            flipped = bytes([subtile[0] ^ 1]) + subtile[1:]
            for wrong in (
                (payload, length, number, flipped, path),
                (payload, length + 8 * subtile_bytes, number, subtile, path),
                (payload, length, number + 1, subtile, path),
                (payload, length, -1, subtile, path),
                (payload, length, number, subtile[:-1], path),
                (payload, length, number, subtile, [*path, []]),
                *([(payload, length, number, subtile, path[1:])] if path else []),
                *([(payload, length, number, subtile, [path[0][:-1], *path[1:]])] if path and path[0] else []),
                (PayloadId("0" * 64), length, number, subtile, path),
            ):
                with pytest.raises(IntegrityFault):
                    check_subtile(*wrong)


def test_entries() -> None:
    """Ids and signatures by hashlib and PyNaCl alone."""
    held = vector("entries")
    for each in held["valid"]:
        raw = each["bytes"].encode()
        entry = parse_entry(raw)
        entry.verify_signature()
        assert (entry.type, entry.encode(), entry.id) == (each["type"], raw, each["id"])
        assert hashlib.sha256(b"\0" + raw).hexdigest() == each["id"]
        value = json.loads(raw)
        signature = value.pop("sig")
        signed = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
        VerifyKey(bytes.fromhex(each["author"])).verify(b"blyan v1 entry\0" + signed, bytes.fromhex(signature))
    for name, text in held["refused"].items():
        with pytest.raises(MalformedEntry):
            parse_entry(text.encode())
        assert name
    assert "delta" in reserved


def test_a_retirement() -> None:
    """The entry is read as it was signed, and the state says which version was withdrawn."""
    held = vector("retirement")
    raw = held["entries"][-1].encode()
    entry = parse_entry(raw)
    entry.verify_signature()
    assert (entry.type, entry.chain, entry.encode()) == ("retirement", "meta", raw)
    assert json.loads(raw)["body"] == {"name": "m", "version": "1.2.3"}
    state = bytes.fromhex(held["snapshot"])
    loaded = snapshot.load(state)
    assert (loaded.models, loaded.retired) == ({}, {"m": "1.2.3"})
    assert snapshot.encode(loaded) == state
    assert payload_of(state) == held["state_root"]


def test_a_price() -> None:
    """The entry is read as it was signed, and the state says what the model costs and since which entry."""
    held = vector("price")
    raw = held["entries"][-1].encode()
    entry = parse_entry(raw)
    entry.verify_signature()
    assert (entry.type, entry.chain, entry.encode()) == ("parameter", "meta", raw)
    assert json.loads(raw)["body"] == {"name": "price", "subject": "m", "value": "USD 15000000 60000000"}
    state = bytes.fromhex(held["snapshot"])
    loaded = snapshot.load(state)
    assert [(each.value, each.entry) for each in loaded.parameters.values()] == [("USD 15000000 60000000", entry.id)]
    assert snapshot.encode(loaded) == state
    assert payload_of(state) == held["state_root"]


def test_model_entries_with_licence_and_source() -> None:
    """Each is read as it was signed, by template and plainly, and the state keeps what they say."""
    held = vector("origins")
    said: list[tuple[str | None, str | None]] = []
    for raw in (each.encode() for each in held["entries"][1:]):
        entry = parse_entry(raw)
        entry.verify_signature()
        assert parse_plainly(raw) == entry
        assert entry.encode() == raw
        body = json.loads(raw)["body"]
        said.append((body.get("license"), body.get("source")))
    assert said == [
        (None, None),
        ("Apache-2.0", "huggingface:Qwen3-30B-A3B"),
        ("LicenseRef-x", None),
        (None, "a: b/c (d)"),
    ]
    state = bytes.fromhex(held["snapshot"])
    loaded = snapshot.load(state)
    assert [(each.license or None, each.source or None) for each in loaded.models["m"]] == said
    assert snapshot.encode(loaded) == state
    assert payload_of(state) == held["state_root"]


def tree_hash(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + tree_hash(leaves[:split]) + tree_hash(leaves[split:])).digest()


def test_rfc_6962_proofs() -> None:
    """The roots are those that every Certificate Transparency log has for these leaves."""
    held = vector("proofs")
    leaves = [bytes.fromhex(leaf) for leaf in held["leaves"]]
    roots = [bytes.fromhex(root) for root in held["roots"]]
    assert roots == [tree_hash(leaves[:size]) for size in range(9)]
    assert held["roots"][8] == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    for each in held["inclusion"]:
        leaf = hashlib.sha256(b"\0" + leaves[each["index"]]).digest()
        path = [bytes.fromhex(beside) for beside in each["path"]]
        check_inclusion(leaf, each["index"], each["size"], path, roots[each["size"]])
    for each in held["consistency"]:
        path = [bytes.fromhex(beside) for beside in each["path"]]
        first, second = each["first"], each["second"]
        check_consistency(first, roots[first], second, roots[second], path)


def test_checkpoints() -> None:
    """A signed and a cosigned note are read; the rest is refused."""
    held = vector("checkpoint")
    for note in held["valid"].values():
        found = parse_checkpoint(note.encode(), held["origin"], held["public"])
        assert (found.size, found.root.hex()) == (held["size"], held["root"])
        text, _, signatures = note.partition("\n\n")
        blob = base64.b64decode(signatures.split("\n")[0].split(" ")[2])
        identity = hashlib.sha256(held["origin"].encode() + b"\n\x01" + bytes.fromhex(held["public"])).digest()[:4]
        assert blob[:4] == identity
        VerifyKey(bytes.fromhex(held["public"])).verify(f"{text}\n".encode(), blob[4:])
    for name, note in held["refused"].items():
        with pytest.raises(IntegrityFault):
            parse_checkpoint(note.encode(), held["origin"], held["public"])
        assert name


def test_manifests() -> None:
    """Read, written again with the same bytes, named by their payload ids."""
    held = vector("manifest")
    for each in held["valid"]:
        raw = each["bytes"].encode()
        assert parse_manifest(raw).encode() == raw
        assert payload_of(raw) == each["payload"]
    for each in vector("request_defaults"):
        raw = each["bytes"].encode()
        assert parse_manifest(raw).encode() == raw
        assert payload_of(raw) == each["payload"]
    raw = held["tokenizer"]["bytes"].encode()
    assert decode_payload(raw).special == {"eos_token": "<end>"}
    assert payload_of(raw) == held["tokenizer"]["payload"]
    for name, text in held["refused"].items():
        with pytest.raises(InvalidInput):
            parse_manifest(text.encode())
        assert name


def test_tensors_over_http() -> None:
    """Lossless codecs give the same bytes; `int8row` gives values within half a step."""
    held = vector("tensors")
    for codec in ("raw", "zstd"):
        found = decode(bytes.fromhex(held[codec]))
        assert found.fields == held["fields"]
        assert [
            {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "bytes": bytes(t.data).hex()}
            for t in found.tensors
        ] == held["tensors"]
    rough = torch.frombuffer(bytearray(decode(bytes.fromhex(held["int8row"])).tensors[0].data), dtype=torch.float32)
    exact = torch.frombuffer(bytearray.fromhex(held["tensors"][0]["bytes"]), dtype=torch.float32)
    assert float((rough - exact).abs().max()) <= 12 / 127 / 2 + 1e-6


def test_joint_checkpoint_snapshot_and_archive(tmp_path: Path) -> None:
    """The joint checkpoint names the state root, which is the snapshot's payload id; an archive brings all of it."""
    held = vector("chain")
    raw = held["joint"].encode()
    joint = parse_joint(raw, tmp_path / "joint")
    assert joint.encode() == raw
    value = json.loads(raw)
    signature = value.pop("sig")
    signed = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    VerifyKey(bytes.fromhex(held["public"])).verify(b"blyan v1 joint\0" + signed, bytes.fromhex(signature))
    for name, entries in held["entries"].items():
        assert tree_hash([each.encode() for each in entries]).hex() == value["heads"][name]["root"]
    state = bytes.fromhex(held["snapshot"])
    assert payload_of(state) == held["state_root"] == value["state"]["payload"]
    assert snapshot.encode(snapshot.load(state)) == state
    (tmp_path / "archive").write_bytes(bytes.fromhex(held["archive"]))
    store = BlobStore(tmp_path / "blobs", writable=True)
    import_archive(tmp_path / "chain", store, tmp_path / "archive")
    chains = Chains(tmp_path / "chain", PublicKey(held["public"]), store)
    assert chains.joint.encode() == raw
    chains.verify()


def root_by_definition(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """RFC 6962 section 2.1.1, read backwards: the last hash of a path stands beside the larger half."""
    if size == 1:
        return leaf
    split = 1 << (size - 1).bit_length() - 1
    if index < split:
        pair = root_by_definition(leaf, index, split, path[:-1]) + path[-1]
    else:
        pair = path[-1] + root_by_definition(leaf, index - split, size - split, path[:-1])
    return hashlib.sha256(b"\x01" + pair).digest()


def test_receipt() -> None:
    """Without the product's code: the signature over the file's own bytes, the path to the promised root, digests."""
    held = vector("receipt")
    raw = held["file"]
    begin, end = raw.index('"receipt":') + 10, raw.index(',"signature":"')
    value = json.loads(raw)
    said, proof, joint = value["receipt"], value["proof"], value["checkpoint"]["joint"]
    message = b"blyan v1 receipt\0" + raw[begin:end].encode()
    VerifyKey(bytes.fromhex(said["gateway"])).verify(message, bytes.fromhex(value["signature"]))
    leaf = hashlib.sha256(b"\x00" + proof["record"].encode()).digest()
    computed = root_by_definition(leaf, proof["index"], proof["size"], [bytes.fromhex(each) for each in proof["path"]])
    assert {"size": proof["size"], "root": computed.hex()} == joint["ledger_root"]
    for what in ("request", "output"):
        salted = f"blyan v1 receipt {what}\0".encode() + bytes.fromhex(held["salt"]) + held[what].encode()
        assert hashlib.sha256(salted).hexdigest() == said[what]
    tokens = said["prompt_tokens"] * 15_000_000 + said["completion_tokens"] * 60_000_000
    assert (said["charged"], said["price"]["prompt_per_million"]) == (str(-(-tokens // 10**6)), "15000000")


def test_receipt_checks() -> None:
    """The product finds everything right, and in each changed file first what was changed."""
    held = vector("receipt")
    known = Known(
        held["request"].encode(), held["output"].encode(), bytes.fromhex(held["salt"]), PublicKey(held["origin"])
    )
    for name in ("file", "free"):
        assert not check_receipt(held[name].encode(), known).failed
    assert [each.name for each in check_receipt(held["file"].encode(), known).not_made] == ["known"]
    for check, changed in held["refused"].items():
        assert check_receipt(changed.encode(), known).failed[0].name == check
