"""What a gateway measures of its peers, how far it trusts them, and when it leaves one alone."""

import pytest

from blyan.network import breaker, reputation
from blyan.network.breaker import Breaker, RetryBudget
from blyan.network.measurements import Measured, Measurements
from blyan.network.reputation import Reputation
from swarms import MODEL, node

RULES = breaker.Rules(failures=3, wait_s=1.0, wait_max_s=8.0, probe_s=10.0)
TRUST = reputation.Rules(half_life_s=100.0)


# Measurements


def test_what_was_never_measured_is_none_not_zero() -> None:
    measured = Measurements().of(node(1))
    assert measured == Measured()
    assert (measured.rtt_s, measured.call_s, measured.bytes_per_s, measured.expert_bytes) == (None, None, None, None)


def test_a_line_through_calls_tells_fixed_cost_and_cost_of_a_row() -> None:
    table = Measurements()
    for _ in range(10):
        for rows in (1, 10, 100):
            table.call_ended(node(1), rows, 0.010 + 0.001 * rows, 100, 0.0)
    measured = table.of(node(1))
    assert measured.fixed_s == pytest.approx(0.010, rel=1e-6)
    assert measured.row_s == pytest.approx(0.001, rel=1e-6)
    assert measured.expected_s(50) == pytest.approx(0.060)
    assert (measured.calls, measured.rows) == (30, 1110)


def test_calls_of_one_size_tell_of_that_size_only() -> None:
    table = Measurements()
    for _ in range(10):
        table.call_ended(node(1), 8, 0.02, 100, 0.0)
    assert table.of(node(1)).expected_s(800) == pytest.approx(0.02)


def test_a_percentile_is_of_the_last_sixty_four() -> None:
    table = Measurements()
    for _ in range(64):
        table.ping(node(1), 9.0, 0.0)
    for at in range(64):
        table.ping(node(1), at / 1000, 0.0)
    assert table.of(node(1)).rtt_p95_s == 0.060


def test_a_node_that_stood_still_has_the_round_trip_it_had() -> None:
    """Its late answers to pings would have it waited for so much longer when it falls silent again."""
    table = Measurements()
    for seconds in (0.002, 0.002, 0.002, 1.9, 0.9):
        table.ping(node(1), seconds, 0.0)
    assert table.of(node(1)).rtt_s == 0.002
    for _ in range(8):
        table.ping(node(1), 0.05, 0.0)
    assert table.of(node(1)).rtt_s == 0.05, "a way that became longer is known within a quarter of a minute"


def test_rows_wait_from_sending_to_answer_or_failure() -> None:
    table = Measurements()
    table.call_began(node(1), 5)
    table.call_began(node(1), 7)
    table.call_ended(node(1), 5, 0.1, 100, 0.0)
    assert table.of(node(1)).rows_waiting == 7
    table.call_dropped(node(1), 7)
    assert table.of(node(1)).rows_waiting == 0


def test_small_answers_tell_nothing_of_bandwidth() -> None:
    table = Measurements()
    table.call_ended(node(1), 1, 0.1, 1000, 0.0)
    assert table.of(node(1)).bytes_per_s is None
    table.transferred(node(1), 4_000_000, 0.5, 0.0)
    assert table.of(node(1)).bytes_per_s == 8_000_000


def test_memory_is_what_it_computed_with_each_expert_once() -> None:
    table = Measurements()
    for number in (3, 5, 3):
        table.computed_with(node(1), MODEL, number, 1000)
    assert table.of(node(1)).expert_bytes == 2000


def test_a_call_that_was_outrun_took_at_least_so_long() -> None:
    table = Measurements()
    for _ in range(10):
        table.call_ended(node(1), 8, 0.01, 100, 0.0)
    table.outrun(node(1), 8, 0.001, 0.0)
    assert table.of(node(1)).call_s == pytest.approx(0.01)
    table.outrun(node(1), 8, 0.11, 0.0)
    assert table.of(node(1)).call_s == pytest.approx(0.025)


def test_what_was_measured_long_ago_gives_way_to_the_first_call_after() -> None:
    table = Measurements()
    for _ in range(20):
        table.call_ended(node(1), 8, 0.1, 100, 0.0)
    table.call_ended(node(1), 8, 0.01, 100, 120.0)
    assert table.of(node(1)).expected_s(8) == pytest.approx(0.015, abs=0.002)


def test_failures_are_counted_by_kind() -> None:
    table = Measurements()
    for kind in ("timeout", "refused", "timeout"):
        table.failed(node(1), kind, 3.0)
    assert table.of(node(1)).failures == (("refused", 1), ("timeout", 2))
    assert table.of(node(1)).last_refused == 3.0


# Reputation


def after(*events: reputation.Event, now: float = 0.0) -> Reputation:
    made = Reputation()
    for event in events:
        made = made.after(event, now, TRUST)
    return made


def test_a_newcomer_is_above_the_gate() -> None:
    assert Reputation().lower_bound(0.0, TRUST) > TRUST.gate
    assert Reputation().newcomer(TRUST)


def test_good_answers_raise_the_bound_and_end_the_newcomer() -> None:
    made = after(*["good"] * 20)
    assert made.lower_bound(0.0, TRUST) > Reputation().lower_bound(0.0, TRUST)
    assert not made.newcomer(TRUST)


def test_wrong_bytes_make_a_newcomer_again_and_a_lost_link_does_not() -> None:
    assert after(*["good"] * 20, "corrupt").newcomer(TRUST)
    assert after(*["good"] * 20, "not_held").newcomer(TRUST)
    assert not after(*["good"] * 20, "lost", "timeout").newcomer(TRUST)


def test_wrong_bytes_of_a_newcomer_put_it_below_the_gate_and_time_brings_it_back() -> None:
    made = after("corrupt")
    assert made.lower_bound(0.0, TRUST) < TRUST.gate
    assert made.lower_bound(1_000.0, TRUST) > TRUST.gate


def test_a_million_good_answers_excuse_no_more_than_a_few() -> None:
    made = after(*["good"] * 1000, *["corrupt"] * 2)
    assert made.lower_bound(0.0, TRUST) < TRUST.gate


def test_a_timeout_weighs_less_than_a_lie_and_a_lie_less_than_wrong_bytes() -> None:
    good = ["good"] * 10
    bounds = [after(*good, each).lower_bound(0.0, TRUST) for each in ("good", "timeout", "not_held", "corrupt")]
    assert bounds == sorted(bounds, reverse=True)
    assert len(set(bounds)) == 4


@pytest.mark.parametrize("events", [["corrupt"] * 50, ["good"] * 50, []])
def test_the_bound_is_a_probability(events: list[reputation.Event]) -> None:
    assert 0.0 <= after(*events).lower_bound(0.0, TRUST) <= 1.0


# Breaker


def failed(made: Breaker, kind, now: float, draw: float = 0.5) -> Breaker:
    return made.failed(kind, now, draw, RULES)


def test_three_timeouts_in_a_row_open_and_two_do_not() -> None:
    made = failed(failed(Breaker(), "timeout", 0.0), "timeout", 0.0)
    assert made.state(0.0, RULES) == "closed"
    assert made.succeeded(0.0).failures == 0
    assert failed(made, "timeout", 0.0).state(0.0, RULES) == "open"


@pytest.mark.parametrize("kind", ["lost", "corrupt"])
def test_a_lost_link_or_wrong_bytes_open_at_once(kind) -> None:
    assert failed(Breaker(), kind, 0.0).state(0.0, RULES) == "open"


@pytest.mark.parametrize("kind", ["refused", "not_held"])
def test_being_refused_opens_nothing(kind) -> None:
    made = Breaker()
    for _ in range(10):
        made = failed(made, kind, 0.0)
    assert made.state(0.0, RULES) == "closed"


def test_after_its_wait_one_probe_goes_and_its_success_closes() -> None:
    made = failed(Breaker(), "lost", 0.0)
    assert made.state(0.9, RULES) == "open"
    assert made.state(1.0, RULES) == "half-open"
    probing = made.probed(1.0)
    assert probing.state(1.0, RULES) == "open"
    assert probing.succeeded(1.1).state(1.1, RULES) == "closed"


def test_a_probe_that_fails_doubles_the_wait_up_to_its_bound() -> None:
    made, now, waits = failed(Breaker(), "lost", 0.0), 0.0, []
    for _ in range(6):
        waits.append(made.until - now)
        now = made.until
        made = failed(made.probed(now), "timeout", now)
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_a_probe_that_nobody_reports_does_not_hold_the_door_for_ever() -> None:
    made = failed(Breaker(), "lost", 0.0).probed(1.0)
    assert made.state(10.9, RULES) == "open"
    assert made.state(11.0, RULES) == "half-open"


def test_a_peer_that_flaps_waits_longer_each_time_and_peace_forgives() -> None:
    made = failed(Breaker(), "lost", 100.0)
    made = made.probed(101.0).succeeded(101.0)
    made = failed(made, "lost", 102.0)
    assert made.until == 104.0
    made = made.probed(104.0).succeeded(104.0)
    made = failed(made, "lost", 1000.0)
    assert made.until == 1001.0


def test_an_answer_from_before_the_opening_does_not_close() -> None:
    made = failed(Breaker(), "corrupt", 0.0)
    assert made.succeeded(0.5).state(0.5, RULES) == "open"


def test_waits_are_spread_by_lot() -> None:
    assert failed(Breaker(), "lost", 0.0, 0.0).until == 0.75
    assert failed(Breaker(), "lost", 0.0, 1.0).until == 1.25


def test_hedges_are_a_share_of_calls_and_a_failover_is_never_denied() -> None:
    budget = RetryBudget(share=0.1, most=2.0)
    assert [budget.may_hedge() for _ in range(4)] == [True, True, False, False]
    for _ in range(11):
        budget.called()
    assert budget.may_hedge()
    assert not budget.may_hedge()
    for _ in range(100):
        budget.failed_over()
    assert (budget.hedges, budget.denied, budget.failovers) == (3, 3, 100)
