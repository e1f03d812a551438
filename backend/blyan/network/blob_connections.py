"""Connections of the peer port by which blobs are fetched: some of each node, and shared among addresses when full.

Where all places are taken, the address that has most loses its oldest to one that has less: many keys at one address
keep nobody else from fetching. Who lost one goes on where it was, by another.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from blyan.primitives import limits
from blyan.primitives.ids import PublicKey


class BlobConnections:
    """For the network's loop."""

    def __init__(self) -> None:
        self._whose: dict[asyncio.Transport, tuple[PublicKey, str]] = {}  # and its address, in the order of arrival

    def __len__(self) -> int:
        return len(self._whose)

    def may(self, connection: asyncio.Transport | None, node: PublicKey, address: str) -> bool:
        """Whether it is a connection that a node has already, or may have beside those."""
        if connection is None or connection in self._whose:
            return connection is not None
        self._whose = {each: whose for each, whose in self._whose.items() if not each.is_closing()}
        if sum(whose == node for whose, _ in self._whose.values()) >= limits.blob_connections_node_max:
            return False
        if len(self._whose) >= limits.blob_connections_max and not self._made_room(address):
            return False
        self._whose[connection] = node, address
        return True

    def _made_room(self, address: str) -> bool:
        """Whether another address lost a connection for this one."""
        counts = Counter(where for _, where in self._whose.values())
        most, count = counts.most_common(1)[0]
        if count <= counts[address] + 1:
            return False
        oldest = next(each for each, (_, where) in self._whose.items() if where == most)
        del self._whose[oldest]
        oldest.abort()
        return True
