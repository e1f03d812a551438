"""What a node did while it gave blocks counts wherever else it might be asked."""

from types import SimpleNamespace
from typing import Any

from blyan.inference.registry import Registry
from blyan.network.gossip import SummaryTable
from blyan.network.receiving import SourceReport
from blyan.node.swarm_blobs import SwarmBlobs
from blyan.primitives.ids import PayloadId
from swarms import node

PAYLOAD = PayloadId("ab" * 32)


def noted(fetch_bytes: int, *reports: SourceReport) -> Registry:
    registry = Registry(SummaryTable())
    peering: Any = SimpleNamespace(
        registry=registry,
        monotonic=lambda: 5.0,
        draw=lambda: 0.5,
        config=SimpleNamespace(network=SimpleNamespace(fetch_bytes=fetch_bytes)),
    )
    nothing: Any = None
    SwarmBlobs(peering, nothing).note([node(number) for number, _ in enumerate(reports)], reports)
    return registry


def test_the_speed_of_blocks_is_measured_of_who_gave_them() -> None:
    """Not where a rate of ours held them up; bytes over the time in which any connection was busy."""
    report = SourceReport("https://there", bytes=8_000_000)
    for moment in (1.0, 2.0):
        report.left(moment)
    for moment in (4.0, 5.0):
        report.came(moment, 3.0)
    assert (report.busy_seconds, report.seconds) == (4.0, 6.0)
    assert noted(0, report).measurements.of(node(0)).bytes_per_s == 2_000_000
    assert noted(1_000, report).measurements.of(node(0)).bytes_per_s is None


def test_wrong_bytes_of_a_block_count_against_the_node_that_gave_them() -> None:
    good, bad = SourceReport("https://good", bytes=5), SourceReport("https://bad", bad=[PAYLOAD, PAYLOAD])
    registry = noted(0, good, bad)
    assert registry.measurements.of(node(0)).failures == ()
    assert registry.measurements.of(node(1)).failures == (("corrupt", 1),)
