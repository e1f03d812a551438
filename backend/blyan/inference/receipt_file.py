"""A receipt as a file: what the gateway signed, and what proves it from public data alone (docs/spec/receipt.md).

Canonical JSON `{receipt, signature, proof, checkpoint}`: the settlement in the books with its path to their sealed
root, the joint checkpoint that promises this root, and the entries of the meta chain that say who may sign it, which
model answered and what it costs. `inference/receipt_check` holds all of it against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from blyan.chain.excerpt import Excerpt, parse_excerpt
from blyan.inference.receipt import SignedReceipt, parse_signed
from blyan.ledger.seal import Inclusion, read_inclusion
from blyan.primitives import canonical, limits
from blyan.primitives.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class ReceiptFile:
    """Everything of one receipt; no proof where nothing was charged, so that no record of the books speaks of it."""

    signed: SignedReceipt
    proof: Inclusion | None
    checkpoint: Excerpt

    def encode(self) -> bytes:
        """The bytes of the file."""
        proof = None if self.proof is None else canonical.decode(self.proof.encode(), bytes_max=_proof_bytes_max)
        return canonical.encode(
            {
                "receipt": self.signed.receipt.value(),
                "signature": self.signed.signature.hex(),
                "proof": proof,
                "checkpoint": self.checkpoint.value(),
            }
        )


_proof_bytes_max = 2 * limits.ledger_record_bytes_max


def parse_file(raw: bytes) -> ReceiptFile:
    """Read a receipt file; `InvalidInput` for another form. No signature, path or amount is checked here."""
    value = cast("Mapping[str, Any]", canonical.decode_object(raw, bytes_max=limits.receipt_file_bytes_max))
    if set(value) != {"receipt", "signature", "proof", "checkpoint"}:
        raise InvalidInput(
            f"receipt file: expected fields ['checkpoint', 'proof', 'receipt', 'signature'], "
            f"found {str(sorted(value))[:200]}"
        )
    if len(canonical.encode(value["receipt"])) > limits.receipt_bytes_max:
        raise InvalidInput(f"receipt: expected at most {limits.receipt_bytes_max} bytes")
    signed = parse_signed({"receipt": value["receipt"], "signature": value["signature"]})
    if (value["proof"] is None) != (signed.receipt.record is None):
        raise InvalidInput("receipt file: expected a proof of the record that it names, and of nothing else")
    proof = None if value["proof"] is None else read_inclusion(canonical.encode(value["proof"]))
    if not isinstance(value["checkpoint"], dict):
        raise InvalidInput("receipt file: expected an object as checkpoint")
    return ReceiptFile(signed, proof, parse_excerpt(cast("Mapping[str, Any]", value["checkpoint"])))
