"""Makes the frozen vectors: `make vectors`. One that exists and would change stops it, unless `--replace` is given.

What a vector holds is said in docs/spec/. Everything is made from fixed seeds, so that another day gives the same
bytes. Payloads are described rather than stored: `fill(seed, length)` is SHAKE-256 of the ASCII seed.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from blyan.chain import snapshot
from blyan.chain.archive import export_archive
from blyan.chain.chains import Chains
from blyan.chain.checkpoint import Checkpoint, sign_checkpoint
from blyan.chain.entries import (
    Body,
    DatasetBody,
    Entry,
    ExpertBody,
    GenesisBody,
    ModelBody,
    PayloadReference,
    RotationBody,
    TokenizerBody,
    TrunkBody,
)
from blyan.chain.merkle import Subtrees, leaf_hash
from blyan.chain.proofs import consistency_path, inclusion_path, range_root
from blyan.model.config import ModelConfig
from blyan.model.manifest import BlockReference, GenerationDefaults, Manifest
from blyan.model.parts import parts_of
from blyan.model.tokenizer import encode_payload
from blyan.primitives import canonical
from blyan.primitives.digest import hash_node, hash_partial, hash_payload, hash_subtile, uniform
from blyan.primitives.ids import Digest, EntryId, PayloadId
from blyan.primitives.keys import Key
from blyan.primitives.limits import subtile_bytes
from blyan.storage.blob_store import BlobStore
from blyan.storage.tile import index_of, subtile_path, subtile_slice
from blyan.wire.framing import Message, WireTensor, encode
from vectors.blocks import block_vectors
from vectors.models import price_vectors, request_defaults_vectors, retirement_vectors
from vectors.origins import origin_vectors
from vectors.receipts import receipt_vectors

FOLDER = Path(__file__).parent
KEY = Key.from_seed(bytes(range(32)))
OTHER = Key.from_seed(bytes([7] * 32))
TIME = 1_700_000_000


def fill(seed: str, length: int) -> bytes:
    """The stated bytes of a payload."""
    return hashlib.shake_256(seed.encode()).digest(length)


def canonical_vectors() -> Any:
    values = [
        {},
        {"b": 1, "a": [True, None, 'é\n\u2028"\\/']},
        [],
        "",
        -(2**53) + 1,
        2**53 - 1,
        {"A": 1, "a": 2, "_": 3},
    ]
    refused = [
        '{"a":1.0}',
        '{"a":1e3}',
        "1.5",
        "9007199254740992",
        "-9007199254740992",
        '{"b":1,"a":2}',
        '{"a":1, "b":2}',
        '{"a":1,"a":1}',
        '{"é":1}',
        '"\\u0061"',
        '"\\/"',
        " 1",
        "1 ",
        "01",
        "-0",
        "[[[[[[[[[1]]]]]]]]]",
        "NaN",
        "",
        "[1,]",
        '"\\ud800"',
    ]
    return {
        "valid": [{"value": value, "bytes": canonical.encode(value).hex()} for value in values],
        "refused": [text.encode("utf-8", "surrogatepass").hex() for text in refused],
    }


def digest_vectors() -> Any:
    return {
        "subtile": [{"input": each.hex(), "digest": hash_subtile(each).hex()} for each in (b"", b"abc", bytes(64))],
        "node": [
            {"level": level, "children": [c.hex() for c in kids], "digest": hash_node(level, kids).hex()}
            for level, kids in ((1, [bytes(32)]), (1, [bytes([n] * 32) for n in range(8)]), (3, [b"\xff" * 32] * 2))
        ],
        "payload": [
            {"length": length, "root": root.hex(), "id": hash_payload(length, root)}
            for length, root in ((1, bytes(32)), (2**36, b"\x01" * 32))
        ],
        "partial": [{"input": b"abc".hex(), "digest": hash_partial(b"abc").hex()}],
        "uniform": [
            {"seed": seed, "position": position, "bits": int(uniform(seed, position) * 2**53)}
            for seed, position in ((0, 0), (1, 0), (-1, 7), (2**100, 2**40))
        ],
    }


def signature_vectors() -> Any:
    message = b"message"
    signature = KEY.sign("entry", message)
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(signature[32:], "little") + order
    return {
        "seed": bytes(range(32)).hex(),
        "public": KEY.public,
        "message": message.hex(),
        "signatures": {kind: KEY.sign(kind, message).hex() for kind in ("entry", "joint", "rotation")},
        "note": KEY.sign_note(message).hex(),
        # each is (public key, signature) of kind `entry` over the message; a reader refuses all of them
        "refused": {
            "S not reduced": [KEY.public, (signature[:32] + scalar.to_bytes(32, "little")).hex()],
            "another kind's": [KEY.public, KEY.sign("joint", message).hex()],
            "without a kind": [KEY.public, KEY.sign_note(message).hex()],
            "another key's": [OTHER.public, signature.hex()],
            "key of order 1": ["01" + "00" * 31, "01" + "00" * 63],
            "key of order 2": ["ec" + "ff" * 30 + "7f", "01" + "00" * 63],
            "key of order 4": ["00" * 32, "00" * 64],
            "key of order 8": ["26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", "01" + "00" * 63],
            "key not canonical": ["ee" + "ff" * 30 + "7f", "01" + "00" * 63],
        },
    }


def tile_vectors() -> Any:
    lengths = [1, subtile_bytes - 1, subtile_bytes, subtile_bytes + 1, 8 * subtile_bytes, 9 * subtile_bytes]
    lengths += [64 * subtile_bytes + 1, 65 * subtile_bytes - 1]
    found = []
    for length in lengths:
        data = fill(f"tile {length}", length)
        index = index_of(data)
        numbers = sorted({0, len(index.leaves) // 2, len(index.leaves) - 1})
        proofs = [
            {
                "number": number,
                "leaf": hash_subtile(data[subtile_slice(number)]).hex(),
                "path": [[each.hex() for each in siblings] for siblings in subtile_path(index.leaves, number)],
            }
            for number in numbers
        ]
        found.append(
            {
                "fill": f"tile {length}",
                "length": length,
                "payload": index.payload_id,
                "index_sha256": hashlib.sha256(index.encode()).hexdigest(),
                "proofs": proofs,
            }
        )
    return found


def _entries() -> Iterator[Entry]:
    block = PayloadReference(PayloadId("cd" * 32), 4096, "application/vnd.blyan.tensorblock")
    parents = (EntryId("ee" * 32), EntryId("ab" * 32))

    def made(body: Body, payload: PayloadReference | None, nonce: int) -> Entry:
        return Entry("local-1", KEY.public, nonce, parents, body, payload, TIME + nonce).signed(KEY)

    yield Entry("local-1", KEY.public, 0, (), GenesisBody(1), None, TIME).signed(KEY)
    yield made(RotationBody.agreed("local-1", KEY.public, OTHER), None, 1)
    manifest = replace(block, media="application/vnd.blyan.manifest+json")
    yield made(ModelBody("m.1", "1.2.3", "qwen3_moe", 7, "0f" * 32), manifest, 2)
    yield made(TrunkBody("m", "layer.3"), block, 0)
    yield made(ExpertBody("m", 3, 127), block, 1)
    yield made(TokenizerBody("m"), replace(block, media="application/vnd.blyan.tokenizer+json"), 2)
    yield made(DatasetBody("d", "CC-BY-4.0", 1000), replace(block, media="application/vnd.blyan.dataset+zstd"), 0)


def entry_vectors() -> Any:
    good = next(each for each in _entries() if each.type == "expert").encode().decode()
    refused = {
        "unknown type": good.replace('"type":"expert"', '"type":"wizard"'),
        "reserved type": good.replace('"type":"expert"', '"type":"delta"'),
        "wrong chain": good.replace('"chain":"parameter"', '"chain":"meta"'),
        "version 2": good.replace('"v":1}', '"v":2}'),
        "white space": good.replace(",", ", ", 1),
        "a float": good.replace('"expert":127', '"expert":1.0'),
        "a large integer": good.replace('"nonce":1', '"nonce":9007199254740992'),
        "negative": good.replace('"nonce":1', '"nonce":-1'),
        "payload missing": good[: good.index(',"payload"')] + good[good.index(',"sig"') :],
        "one field more": good.replace('"v":1}', '"v":1,"z":1}'),
        "short signature": good.replace('"sig":"', '"sig":"0', 1),
    }
    return {
        "valid": [
            {"type": each.type, "author": each.author, "bytes": each.encode().decode(), "id": each.id}
            for each in _entries()
        ],
        "refused": refused,
    }


# the leaves with which Certificate Transparency implementations test RFC 6962
RFC_LEAVES = [b"", b"\x00", b"\x10", b" !", b"01", b"@ABC", b"PQRSTUVW", b"`abcdefghijklmno"]


def proof_vectors() -> Any:
    tree = Subtrees()
    for leaf in RFC_LEAVES:
        tree.append(leaf_hash(leaf))
    sizes = range(1, 9)
    return {
        "leaves": [leaf.hex() for leaf in RFC_LEAVES],
        "roots": [hashlib.sha256(b"").hexdigest(), *(range_root(tree.node, 0, size).hex() for size in sizes)],
        "inclusion": [
            {"index": index, "size": size, "path": [each.hex() for each in inclusion_path(tree.node, index, size)]}
            for size in sizes
            for index in range(size)
        ],
        "consistency": [
            {"first": first, "second": second, "path": [e.hex() for e in consistency_path(tree.node, first, second)]}
            for second in sizes
            for first in range(1, second + 1)
        ],
    }


def checkpoint_vectors() -> Any:
    origin = "blyan/local-1/parameter"
    checkpoint = Checkpoint(origin, 8, Digest(bytes.fromhex("5d" * 32)))
    note = sign_checkpoint(checkpoint, KEY).decode()
    witness = sign_checkpoint(checkpoint, OTHER).decode().split("\n")[-2].replace(origin, "witness.example")
    refused = {
        "another origin": note.replace("local-1", "local-2"),
        "another size": note.replace("\n8\n", "\n9\n"),
        "size with a zero before": note.replace("\n8\n", "\n08\n"),
        "no line feed at the end": note[:-1],
        "an unsigned line after": note + "more\n",
        "signed by another": sign_checkpoint(checkpoint, OTHER).decode(),
        "no signature": note.split("\n\n")[0] + "\n\n",
    }
    return {
        "origin": origin,
        "public": KEY.public,
        "size": 8,
        "root": checkpoint.root.hex(),
        "valid": {"signed": note, "cosigned": note + witness + "\n"},
        "refused": refused,
    }


def manifest_vectors() -> Any:
    config = ModelConfig("qwen3_moe", 260, 64, 2, 4, 2, 16, 96, 48, 3, 2, True, (1,), False, False, 1e-6, 10000.0, 512)
    blocks = {part.name: BlockReference(PayloadId(f"{n:064x}"), 4096 + n) for n, part in enumerate(parts_of(config))}
    manifest = Manifest(
        "m",
        "1.0.0",
        config,
        "BF16",
        blocks,
        BlockReference(PayloadId("aa" * 32), 99),
        GenerationDefaults((2, 0), 0.7, 0.95, 20),
        "Apache-2.0",
        "huggingface:m",
    )
    tokenizer = encode_payload('{"version":"1.0"}', "{{ messages }}", {"eos_token": "<end>"})
    plain = replace(manifest, tokenizer=None, generation=GenerationDefaults())
    raws = [manifest.encode(), plain.encode()]
    return {
        "valid": [{"bytes": raw.decode(), "payload": index_of(raw).payload_id} for raw in raws],
        "tokenizer": {"bytes": tokenizer.decode(), "payload": index_of(tokenizer).payload_id},
        "refused": {
            "unknown format": raws[0].decode().replace("manifest/1", "manifest/2"),
            "a part missing": raws[0].decode().replace('"layer.1.expert.2"', '"layer.1.expert.3"'),
            "a float": raws[0].decode().replace('"rope_theta":"10000.0"', '"rope_theta":10000.0'),
            "a default that is said": raws[0]
            .decode()
            .replace('"tied_embeddings"', '"shared_intermediate":0,"tied_embeddings"'),
        },
    }


def tensor_vectors() -> Any:
    ramp = torch.arange(-12, 12, dtype=torch.float32).view(2, 12)
    raw = ramp.numpy().tobytes()
    half = ramp.bfloat16().view(torch.uint8).numpy().tobytes()
    message = Message(
        {"round": 3},
        (
            WireTensor("hidden", "F32", (2, 12), raw),
            WireTensor("keys", "BF16", (2, 12), half),
            WireTensor("zeros", "U8", (64,), bytes(64)),
            WireTensor("none", "I64", (0, 2), b""),
        ),
    )
    return {
        "fields": dict(message.fields),
        "tensors": [
            {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "bytes": bytes(t.data).hex()}
            for t in message.tensors
        ],
        "raw": b"".join(encode(message, "raw")).hex(),
        "zstd": b"".join(encode(message, "zstd")).hex(),
        "int8row": b"".join(encode(message, "int8row")).hex(),
    }


def chain_vectors() -> Any:
    """A small network: its joint checkpoint, its state as a snapshot, and an archive of it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = BlobStore(folder / "blobs", writable=True)
        chains = Chains(folder / "chain", KEY.public, store)
        genesis = chains.start(KEY, lambda: TIME)
        for number in range(5):
            block = PayloadReference(PayloadId(f"{number:064x}"), 4096, "application/vnd.blyan.tensorblock")
            chains.append(ExpertBody("m", 0, number), (genesis,), block, KEY, lambda: TIME)
        root = chains.snapshot(KEY)
        raw = store.read(root.payload, bytes_max=1 << 20)
        assert raw == snapshot.encode(chains.state)
        export_archive(chains, folder / "archive")
        return {
            "public": KEY.public,
            "network": chains.network,
            "joint": chains.joint.encode().decode(),
            "snapshot": raw.hex(),
            "state_root": root.payload,
            "entries": {
                name: [each.decode() for each in log.entries(0, log.checkpoint.size)]
                for name, log in chains.logs.items()
            },
            "archive": (folder / "archive").read_bytes().hex(),
        }


VECTORS: dict[str, Callable[[], Any]] = {
    "canonical": canonical_vectors,
    "digests": digest_vectors,
    "signatures": signature_vectors,
    "tensor_block": block_vectors,
    "tile": tile_vectors,
    "entries": entry_vectors,
    "price": price_vectors,
    "retirement": retirement_vectors,
    "origins": origin_vectors,
    "proofs": proof_vectors,
    "receipt": receipt_vectors,
    "checkpoint": checkpoint_vectors,
    "manifest": manifest_vectors,
    "request_defaults": request_defaults_vectors,
    "tensors": tensor_vectors,
    "chain": chain_vectors,
}


def main(arguments: list[str]) -> int:
    """Write what is missing; say which would change, and change it only if told."""
    changed = []
    for name, make in VECTORS.items():
        path = FOLDER / f"{name}.json"
        text = json.dumps(make(), ensure_ascii=True, indent=1, sort_keys=True) + "\n"
        if path.exists() and path.read_text() != text and "--replace" not in arguments:
            changed.append(path.name)
        elif not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path}")
    for name in changed:
        print(f"{name} would change: a frozen format changes with a new version, or with --replace", file=sys.stderr)
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
