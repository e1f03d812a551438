"""The token bucket."""

from blyan.network.rate import TokenBucket


def test_a_rate_is_kept_over_any_pattern() -> None:
    """What was taken too early is waited for; after a pause only a tenth of a second's worth is free."""
    bucket, now, taken = TokenBucket(1_000, 50.0), 50.0, 0
    for count in (10, 500, 1, 2_000, 90):
        now += bucket.take(count, now)
        taken += count
    assert now - 50.0 >= taken / 1_000 - 0.1
    now += 60
    assert bucket.take(100, now) == 0
    assert 0.4 < bucket.take(500, now) <= 0.5


def test_without_a_rate_nobody_waits() -> None:
    """0 is without limit."""
    assert TokenBucket(0, 0.0).take(1 << 60, 0.0) == 0
