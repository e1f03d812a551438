"""A histogram of many equal values says what prometheus_client's own says."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest

from blyan.node.tally import Tally

BOUNDS = (0.001, 0.01, 0.5, 2.5)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.001, 0.0015, 0.5, 2.5, 7.0]), st.integers(1, 5))))
def test_it_reads_as_the_librarys_histogram(values: list[tuple[float, int]]) -> None:
    """Buckets, their names, count and sum."""
    disable_created_metrics()
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally = Tally("blyan_pace_seconds", "Pace.", BOUNDS)
    ours.register(tally)
    histogram = Histogram("blyan_pace_seconds", "Pace.", buckets=BOUNDS, registry=theirs)
    for value, count in values:
        tally.add(value, count)
        for _ in range(count):
            histogram.observe(value)
    told = [generate_latest(each).decode().splitlines() for each in (ours, theirs)]
    assert [line for line in told[0] if "_sum" not in line] == [line for line in told[1] if "_sum" not in line]
    sums = [float(line.split()[1]) for lines in told for line in lines if "_sum " in line]
    assert abs(sums[0] - sums[1]) < 1e-9
