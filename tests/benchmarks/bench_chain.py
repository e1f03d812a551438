"""Verifying and joining a chain of 100,000 entries.

Back of the envelope: one Ed25519 verification takes about 60 us on one core here, so two cores cannot do more than some
33,000 entries a second; parsing, folding and hashing take about 35 us more each. The target was set where PyNaCl does
24,000 signatures a second on a core: there it is 0.42 of the bound, which is what to compare on another machine.
Joining from a snapshot hashes the snapshot and folds the entries since; a full replay folds and verifies all of them.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from harness import SMOKE, Page, interleaved, milliseconds, percentile
from nacl.signing import SigningKey

from blyan.chain.archive import export_archive, import_archive
from blyan.chain.chains import Chains
from blyan.chain.entries import ExpertBody, PayloadReference
from blyan.primitives.ids import PayloadId
from blyan.primitives.keys import Key
from blyan.storage.blob_store import BlobStore

KEY = Key.from_seed(bytes(range(32)))


def now() -> int:
    return 1_700_000_000


def grow(chains: Chains, begin: int, end: int) -> None:
    genesis = chains.start(KEY, now)
    for number in range(begin, end):
        block = PayloadReference(PayloadId(f"{number:064x}"), 4_096, "application/vnd.blyan.tensorblock")
        chains.append(ExpertBody("bench", number // 4_096, number % 4_096), (genesis,), block, KEY, now)
        if number % 1_000 == 999:
            chains.publish(KEY)
    chains.publish(KEY)


def signatures_a_second() -> float:
    """Bare PyNaCl on one core."""
    message = bytes(480)
    signed = SigningKey(bytes(32)).sign(message)
    key = SigningKey(bytes(32)).verify_key
    began = time.perf_counter()
    for _ in range(2_000):
        key.verify(message, signed.signature)
    return 2_000 / (time.perf_counter() - began)


def measure(page: Page, folder: Path, count: int, tail: int) -> None:
    store = BlobStore(folder / "blobs", writable=True)
    chains = Chains(folder / "chain", KEY.public, store)
    grow(chains, 0, count - tail)
    chains.snapshot(KEY)
    grow(chains, count - tail, count)
    export_archive(chains, folder / "full")
    export_archive(chains, folder / "recent", from_snapshot=True)
    processes = len(os.sched_getaffinity(0))
    verifying = interleaved(1 if SMOKE else 3, chains.verify)[0]
    rate = (count + 1) / min(verifying)
    bare = signatures_a_second()
    page.row(
        f"verified, {count:,} entries: headers, linkage, signatures, roots, state", f"{rate:,.0f} entries/s", "≥ 20,000"
    )
    page.row("bare PyNaCl signatures × cores", f"{bare * processes:,.0f}/s")
    page.row("share of that bound", f"{rate / bare / processes:.2f}", "≥ 0.42, as 20,000 of 48,000")

    def join(archive: str) -> Chains:
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            into = BlobStore(Path(fresh) / "blobs", writable=True)
            import_archive(Path(fresh) / "chain", into, folder / archive, KEY.public)
            joined = Chains(Path(fresh) / "chain", KEY.public, into)
            assert joined.joint.heads == chains.joint.heads
            assert joined.state.sizes == chains.state.sizes
            return joined

    recent, full = interleaved(1 if SMOKE else 3, lambda: join("recent"), lambda: join("full"))
    ratio = percentile(full, 0.5) / percentile(recent, 0.5)
    target = "≥ 20 × at 100,000" if count >= 100_000 else "grows with length"
    page.row(f"join from the snapshot, {tail:,} entries after it", milliseconds(percentile(recent, 0.5)))
    page.row(f"full replay of {count:,} entries", milliseconds(percentile(full, 0.5)))
    page.row("replay ÷ join", f"{ratio:.1f} ×", target)


def main() -> None:
    page = Page("chain", "Verifying and joining chains", __doc__.partition("\n\n")[2].strip())
    for count in (2_000,) if SMOKE else (10_000, 100_000):
        with tempfile.TemporaryDirectory() as folder:
            measure(page, Path(folder), count, min(512, count // 10))
    page.write()


if __name__ == "__main__":
    main()
