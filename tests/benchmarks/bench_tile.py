"""A verified 4 MiB tile against the bare hash of its bytes.

Back of the envelope: BLAKE3 of 4 MiB on one thread is about 1 ms here; hashing it as sixteen subtiles adds sixteen
finalisations and sixteen calls, some 30 us, and comparing digests nothing.
"""

from __future__ import annotations

import hashlib
import os

from blake3 import blake3
from harness import SMOKE, Page, both, interleaved, percentile

from blyan.primitives.limits import tile_bytes
from blyan.storage.tile import differing, index_of, subtile_leaves


def main() -> None:
    data = os.urandom(tile_bytes)
    index = index_of(data)
    damaged = bytearray(data)
    damaged[tile_bytes // 2] ^= 1
    assert differing(subtile_leaves(damaged), index.leaves) == [8], "one flipped bit is found and named"

    def verified() -> None:
        assert not differing(subtile_leaves(data), index.leaves)

    runs = 20 if SMOKE else 400
    ours, bare, sha = interleaved(runs, verified, lambda: blake3(data).digest(), lambda: hashlib.sha256(data).digest())
    page = Page("tile", "Verifying a 4 MiB tile", __doc__.partition("\n\n")[2].strip())
    page.row("verified tile (sixteen subtiles against their index)", both(ours))
    page.row("bare BLAKE3 of the same bytes, one thread", both(bare))
    page.row("bare SHA-256 of the same bytes", both(sha))
    page.row("p95 ÷ p95 of the bare hash", f"{percentile(ours, 0.95) / percentile(bare, 0.95):.2f}", "≤ 1.2")
    page.row("p50 ÷ p50 of the bare hash", f"{percentile(ours, 0.5) / percentile(bare, 0.5):.2f}")
    page.write()


if __name__ == "__main__":
    main()
