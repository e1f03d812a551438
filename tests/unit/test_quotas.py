"""Quotas: how much may be asked at once and after, all or nothing, in one process and in a Redis that many share."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.auth.quotas import Charge, MemoryQuotas, Quotas, subject, wait_us
from blyan.auth.redis_quotas import RedisQuotas
from blyan.primitives.errors import Unavailable
from redis_service import accounts_link, started_redis


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Nobody:
    """Quotas that nobody may ask."""

    async def take(self, charges: Sequence[Charge]) -> float:
        raise AssertionError("asked")

    async def give_back(self, charges: Sequence[Charge]) -> None:
        raise AssertionError("asked")

    async def close(self) -> None:
        raise AssertionError("asked")


@pytest.fixture(params=["memory", "redis"])
async def quotas(request: pytest.FixtureRequest) -> AsyncIterator[Quotas]:
    if request.param == "memory":
        yield MemoryQuotas(Clock())
    else:
        found = RedisQuotas(accounts_link(request.getfixturevalue("redis_url")), Nobody(), Clock())
        yield found
        await found.close()


def one(cost: int = 1, per_minute: int = 3, name: str = "a") -> Charge:
    return Charge(subject("test", name), per_minute, cost)


async def test_a_minutes_amount_is_granted_at_once_and_no_more(quotas: Quotas) -> None:
    assert [await quotas.take([one()]) for _ in range(3)] == [0.0] * 3
    assert await quotas.take([one()]) == pytest.approx(20, abs=1)
    assert await quotas.take([one(name="b")]) == 0.0


async def test_all_charges_are_granted_or_none(quotas: Quotas) -> None:
    for _ in range(3):
        await quotas.take([one(name="full")])
    for _ in range(5):
        assert await quotas.take([one(name="free"), one(name="full")]) > 0
    assert [await quotas.take([one(name="free")]) for _ in range(3)] == [0.0] * 3


async def test_what_is_given_back_may_be_taken_again(quotas: Quotas) -> None:
    assert await quotas.take([one(3)]) == 0.0
    assert await quotas.take([one()]) > 0
    await quotas.give_back([one(2), one(1, name="never taken")])
    assert await quotas.take([one(2)]) == 0.0
    assert await quotas.take([one()]) > 0


async def test_what_costs_more_than_a_minutes_amount_waits_until_nothing_is_owed(quotas: Quotas) -> None:
    assert await quotas.take([one(9, 6)]) == 0.0
    assert await quotas.take([one(1, 6)]) == pytest.approx(40, abs=1)
    assert await quotas.take([one(9, 6)]) == pytest.approx(90, abs=1)


async def test_fifty_at_once_are_granted_what_one_after_another_would(quotas: Quotas) -> None:
    waits = await asyncio.gather(*(quotas.take([one(per_minute=10)]) for _ in range(50)))
    assert sum(wait == 0.0 for wait in waits) == 10


async def test_time_earns_it_again() -> None:
    clock = Clock()
    quotas = MemoryQuotas(clock)
    assert await quotas.take([one(3)]) == 0.0
    clock.now += await quotas.take([one()])
    assert await quotas.take([one()]) == 0.0
    clock.now += 3_600
    assert [await quotas.take([one()]) for _ in range(3)] == [0.0] * 3
    assert await quotas.take([one()]) > 0


async def test_newcomers_share_one_count_when_the_table_is_full() -> None:
    clock = Clock()
    quotas = MemoryQuotas(clock, subjects_max=2)
    assert [await quotas.take([one(3, name=name)]) for name in "ab"] == [0.0] * 2
    assert [await quotas.take([one(name=f"new {number}")]) for number in range(3)] == [0.0] * 3
    assert await quotas.take([one(name="new 3")]) > 0
    assert await quotas.take([one(name="a")]) > 0  # crowding the table forgets nobody's debt
    clock.now += 120
    assert await quotas.take([one(name="new 4")]) == 0.0


@given(
    st.integers(1, 1_000_000_000),
    st.lists(st.tuples(st.integers(0, 90_000_000), st.integers(1, 2_000_000_000)), max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_grants_never_exceed_the_rate(per_minute: int, asked: list[tuple[int, int]]) -> None:
    """In any time since the first grant: at most a minute's amount, what the time earned, and one grant beyond it."""
    arrival, now, granted, largest = 0, 10**15, 0, 0
    began = now
    for pause, cost in asked:
        now += pause
        charge = Charge("s", per_minute, cost)
        if not wait_us(arrival, now, charge):
            arrival = max(arrival, now) + charge.step_us
            granted, largest = granted + cost, max(largest, cost)
        earned = Fraction(per_minute * (now - began), 60_000_000)
        assert granted <= per_minute + earned + largest


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30)), min_size=1, max_size=12))
@settings(max_examples=15, deadline=None)
def test_redis_decides_as_the_plain_rule(redis_server, requests: list[tuple[int, int]]) -> None:
    """At rates so slow that time does not matter, each grant and wait is that of one process."""

    async def compare() -> None:
        redis_server.say("FLUSHALL")
        shared, plain = (
            RedisQuotas(accounts_link(redis_server.url), Nobody(), Clock()),
            MemoryQuotas(Clock()),
        )
        for cost, per_minute in requests:
            charge = [one(cost, per_minute)]
            here, there = await plain.take(charge), await shared.take(charge)
            assert (here == 0) == (there == 0)
            assert there == pytest.approx(here, abs=1.5)
        await shared.close()

    asyncio.run(compare())


async def test_each_node_counts_alone_while_redis_is_gone() -> None:
    server, clock = started_redis(), Clock()
    quotas = RedisQuotas(accounts_link(server.url), MemoryQuotas(clock), clock)
    try:
        assert await quotas.take([one(3)]) == 0.0
        server.kill()
        assert await quotas.take([one(3)]) == 0.0
        assert await quotas.take([one()]) > 0
        await quotas.give_back([one()])
        assert await quotas.take([one()]) == 0.0
        server.start()
        clock.now += 5
        assert await quotas.take([one(3)]) == 0.0
        assert await quotas.take([one()]) > 0
        server.kill()
        await quotas.give_back([one()])
    finally:
        await quotas.close()
        server.close()


async def test_a_redis_that_says_nothing_is_unavailable_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    from blyan.primitives import limits

    monkeypatch.setattr(limits, "redis_seconds_max", 0.2)
    server = started_redis()
    link = accounts_link(server.url)
    try:
        server.send_signal(signal.SIGSTOP)
        with pytest.raises(Unavailable, match=r"Redis: expected an answer in 0\.2 s"):
            await link.get("x")
        server.send_signal(signal.SIGCONT)
        assert await link.get("x") is None
    finally:
        await link.close()
        server.close()
