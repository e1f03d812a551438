"""What proves a receipt, put together: its settlement in the sealed books, and the entries of the meta chain it needs.

All of it stands under one joint checkpoint, taken first: what was sealed or written after it is not in the file.
"""

from __future__ import annotations

from blyan.chain.chains import Chains
from blyan.chain.entries import ModelBody, parse_entry
from blyan.chain.excerpt import excerpt
from blyan.chain.joint import JointCheckpoint
from blyan.inference.receipt import Receipt, SignedReceipt
from blyan.inference.receipt_file import ReceiptFile
from blyan.ledger.seal import Inclusion, inclusion
from blyan.ledger.store import Session
from blyan.primitives.errors import Unavailable
from blyan.primitives.ids import EntryId, PayloadId


def prove(signed: SignedReceipt, session: Session, chains: Chains) -> ReceiptFile:
    """The file of a receipt; `Unavailable` until the books are sealed and promised up to its settlement.

    Reads the books through `session`, so it is called where those are read.
    """
    joint = chains.joint
    proof = None if signed.receipt.record is None else _settlement(signed.receipt.record, session, joint)
    size = joint.heads["meta"].size
    wanted = {
        each for each in (_model(signed.receipt, chains, size), _price(signed.receipt, chains)) if each is not None
    }
    return ReceiptFile(signed, proof, excerpt(joint, chains.logs["meta"], {each for each in wanted if each < size}))


def _settlement(record: int, session: Session, joint: JointCheckpoint) -> Inclusion:
    promised = joint.ledger_root
    if promised is None or record >= promised.size:
        raise Unavailable(
            f"receipt: expected record {record} of the books sealed and promised, "
            f"found {promised.size if promised else 0} promised records",
            hint="ask again in a moment: the books are sealed every few seconds",
        )
    return inclusion(session, record, promised.size)


def _model(receipt: Receipt, chains: Chains, size: int) -> int | None:
    """Number of the entry that names this manifest; one that was withdrawn since is looked for in the whole chain."""
    for version in chains.state.models.get(receipt.model, ()):
        if version.manifest == receipt.manifest:
            return _number(chains, version.entry)
    wanted = receipt.manifest.encode()
    for number, raw in enumerate(chains.logs["meta"].entries(0, size)):
        if wanted in raw and _names(raw, receipt.model, receipt.manifest):
            return number
    return None


def _names(raw: bytes, model: str, manifest: PayloadId) -> bool:
    entry = parse_entry(raw)
    named = isinstance(entry.body, ModelBody) and entry.body.name == model
    return named and entry.payload is not None and entry.payload.payload == manifest


def _price(receipt: Receipt, chains: Chains) -> int | None:
    return None if receipt.price.entry is None else _number(chains, receipt.price.entry)


def _number(chains: Chains, identity: EntryId) -> int | None:
    found = chains.state.position(identity)
    return found[1] if found is not None and found[0] == "meta" else None
