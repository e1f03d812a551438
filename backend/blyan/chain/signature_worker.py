"""A process that checks signatures of entries: `python -m blyan.chain.signature_worker`.

Standard input: batches, each u32 LE length and then u16 BE length ‖ entry, again and again. Standard output, for each
batch: i32 LE, the number within the batch of the first entry whose signature does not verify, or -1. The entries were
parsed by whoever sends them; nothing here trusts them further than their signature's place.
"""

from __future__ import annotations

import sys
from typing import BinaryIO

from blyan.chain.entries import signed_parts
from blyan.primitives.errors import IntegrityFault
from blyan.primitives.keys import verify


def first_bad(batch: bytes) -> int:
    """Number of the first entry of a batch whose signature does not verify, -1 if all do."""
    at = number = 0
    while at < len(batch):
        length = int.from_bytes(batch[at : at + 2], "big")
        author, message, signature = signed_parts(batch[at + 2 : at + 2 + length])
        try:
            verify(author, "entry", message, signature)
        except IntegrityFault:
            return number
        at += 2 + length
        number += 1
    return -1


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer batches until the input ends."""
    while head := source.read(4):
        batch = source.read(int.from_bytes(head, "little"))
        sink.write(first_bad(batch).to_bytes(4, "little", signed=True))
        sink.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
