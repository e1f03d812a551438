"""100,000 entries through the sequencer: what a thousand cost at first and at last, and how fast all are verified.

Back of the envelope. An entry is encoded twice and signed once (about 0.1 ms of Python and Ed25519 on one core), so a
thousand take 0.1 s or more; their commit writes about five bundles, five hash tiles, `joint` and a note, each with two
fsyncs (about 25 of them, 1 to 10 ms each on a disk that syncs honestly). Nothing in either grows with the chain. One
signature takes about 60 us to verify, so two cores do about 30,000 a second before anything else.

The peer is the disk alone: after every commit, the same number of files of the same sizes is written the same way
beside it. Equality first: the roots are those of RFC 6962 as it is written, over the entries as they are read again.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from harness import SMOKE, Page, both, milliseconds

from blyan.chain.chains import Chains
from blyan.chain.entries import ExpertBody, PayloadReference
from blyan.chain.sequencer import Draft, Sequencer
from blyan.primitives.ids import EntryId, PayloadId
from blyan.primitives.keys import Key
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore

KEY = Key.from_seed(bytes(range(32)))
AT_ONCE = 1_000


@dataclass(frozen=True)
class Appended:
    """Seconds of each thousand, through the sequencer and by the disk alone; seconds of opening and verifying all."""

    thousands: list[float]
    disk: list[float]
    opening: float
    verifying: float
    count: int


def now() -> int:
    """A clock that stands still."""
    return 1_700_000_000


def drafts(genesis: EntryId, begin: int, count: int) -> Iterator[Draft]:
    """Experts of a large model, each with a block of its own."""
    for number in range(begin, begin + count):
        block = PayloadReference(PayloadId(f"{number:064x}"), 4_096, "application/vnd.blyan.tensorblock")
        yield Draft(ExpertBody("bench", number // 4_096, number % 4_096), (genesis,), block)


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1 as it is written: split at the largest power of two below n."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def disk_alone(folder: Path, sizes: list[int]) -> float:
    """Seconds that writing files of these sizes takes, by the same durable steps."""
    begin = time.perf_counter()
    for number, size in enumerate(sizes):
        durable.make_folder(folder / str(number))
        durable.write_file(folder / str(number) / "file", bytes(size))
    return time.perf_counter() - begin


def append(folder: Path, count: int) -> Appended:
    """Append `count` entries, a multiple of 1,000, and verify them; asserts the root first."""
    chains = Chains(folder / "chain", KEY.public, BlobStore(folder / "blobs", writable=True))
    genesis = chains.start(KEY, now)
    thousands: list[float] = []
    disk: list[float] = []
    with Sequencer(chains, KEY, now) as sequencer:
        for begin in range(0, count, AT_ONCE):
            started = time.perf_counter()
            waiting: list[Future[list[EntryId]]] = [
                sequencer.submit([draft]) for draft in drafts(genesis, begin, AT_ONCE)
            ]
            for future in waiting:
                future.result()
            thousands.append(time.perf_counter() - started)
            written = [96_000] * 4 + [90_000] + [8_192] * 4 + [7_000, 3_000] + [900, 200]
            disk.append(disk_alone(folder / "peer", written))
    started = time.perf_counter()
    again = Chains(folder / "chain", KEY.public, BlobStore(folder / "blobs"))
    opening = time.perf_counter() - started
    log = again.logs["parameter"]
    assert log.checkpoint.root == naive_root(list(log.entries(0, count))), "the root of RFC 6962"
    started = time.perf_counter()
    reports = again.verify()
    verifying = time.perf_counter() - started
    assert sum(report.signatures for report in reports) == count + 1
    return Appended(thousands, disk, opening, verifying, count)


def median(seconds: list[float]) -> float:
    """The middle one."""
    return sorted(seconds)[len(seconds) // 2]


def main() -> None:
    count = 2_000 if SMOKE else 100_000
    with tempfile.TemporaryDirectory() as folder:
        found = append(Path(folder), count)
    page = Page("append", "Appending to a chain", __doc__.partition("\n\n")[2].strip())
    page.row(f"{count:,} entries in group commits of up to {AT_ONCE:,}, a thousand", both(found.thousands))
    page.row("the first thousand", milliseconds(found.thousands[0]))
    page.row("the last thousand", milliseconds(found.thousands[-1]), "what the first cost")
    ratio = median(found.thousands[-5:]) / median(found.thousands[:5])
    page.row("last five thousands ÷ first five, medians", f"{ratio:.2f}", "about 1")
    page.row("the disk alone, a thousand", both(found.disk))
    page.row("appending ÷ the disk alone, medians", f"{median(found.thousands) / median(found.disk):.1f} ×")
    page.row("appended", f"{count / sum(found.thousands):,.0f} entries/s, durable")
    page.row(f"opening chains of {count:,} entries", milliseconds(found.opening))
    page.write()


if __name__ == "__main__":
    main()
