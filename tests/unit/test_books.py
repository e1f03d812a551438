"""The books as coroutines use them, on both databases: one effect for one key, no overdraft, right after trouble."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from blyan.ledger import audit, reading, rules
from blyan.ledger.accounts import Account, Terms
from blyan.ledger.books import Books
from blyan.ledger.postgres_store import PostgresStore
from blyan.ledger.sqlite_store import SqliteStore
from blyan.ledger.store import Store
from blyan.ledger.transfers import Close, Expire, Hold, Leg, Open, Post, Reverse, Settle, Void
from blyan.primitives import limits
from blyan.primitives.errors import IdempotencyConflict, IntegrityFault, InvalidInput, NotFound, QueueFull, Unavailable
from ledgers import MINT, now, one, post, with_accounts
from services import PostgresServer


@pytest.fixture
async def books(store: Store) -> AsyncIterator[Books]:
    with_accounts(store, "a", "b")
    made = Books(store, now)
    yield made
    await made.close()


async def balance(books: Books, name: str) -> int:
    return (await books.read(lambda session: reading.account(session, name))).balance


async def test_fifty_parallel_identical_transfers_move_once(books: Books) -> None:
    outcomes = await asyncio.gather(*(books.submit(post("same", "a", "b", 10)) for _ in range(50)))
    assert {outcome.number for outcome in outcomes} == {5}
    assert sum(not outcome.replayed for outcome in outcomes) == 1
    assert (await balance(books, "a"), await balance(books, "b")) == (990, 1_010)


async def test_two_processes_ask_the_same_and_it_is_done_once(store: Store, books: Books) -> None:
    """Two writers of one database, as two nodes have them."""
    other = Books(store, now)
    requests = [post("same", "a", "b", 10) for _ in range(25)]
    outcomes = await asyncio.gather(*(each.submit(request) for request in requests for each in (books, other)))
    assert len({outcome.number for outcome in outcomes}) == 1
    assert sum(not outcome.replayed for outcome in outcomes) == 1
    await other.close()


async def test_an_overdraft_race_is_lost_by_all_but_what_there_is(store: Store, books: Books) -> None:
    """1,000 in the account and 30 requests of 100 from two writers: ten of them."""
    other = Books(store, now)
    outcomes = await asyncio.gather(
        *((books, other)[n % 2].submit(post(f"race {n}", "a", "b", 100)) for n in range(30))
    )
    assert sum(outcome.taken for outcome in outcomes) == 10
    assert {outcome.refusal.code for outcome in outcomes if outcome.refusal} == {"insufficient_funds"}
    assert await balance(books, "a") == 0
    await other.close()


async def test_holds_and_posts_race_for_the_same_money(books: Books) -> None:
    requests = [Hold(f"r {n}", Leg("a", "b", 100), 60) if n % 2 else post(f"r {n}", "a", "b", 100) for n in range(30)]
    outcomes = await asyncio.gather(*map(books.submit, requests))
    assert sum(outcome.taken for outcome in outcomes) == 10


async def test_a_hold_is_ended_by_one_of_many(books: Books) -> None:
    hold = (await books.submit(Hold("h", Leg("a", "b", 100), 60))).number
    assert hold is not None
    outcomes = await asyncio.gather(
        *(books.submit(Settle(f"s {n}", hold, 60) if n % 2 else Void(f"v {n}", hold)) for n in range(20))
    )
    assert sum(outcome.taken for outcome in outcomes) == 1


async def test_another_body_under_a_used_key_is_a_conflict(books: Books) -> None:
    await books.submit(post("k", "a", "b", 1))
    for other in (post("k", "a", "b", 2), post("k", "b", "a", 1), post("k", "a", "b", 1, "note"), Void("k", 1)):
        with pytest.raises(IdempotencyConflict, match="'k'"):
            await books.submit(other)
    assert await balance(books, "b") == 1_001


async def test_a_refusal_is_repeated_though_it_would_be_taken_now(books: Books) -> None:
    poor = post("poor", "a", "b", 1_500)
    first = await books.submit(poor)
    await books.submit(post("more", MINT.name, "a", 1_000))
    again = await books.submit(poor)
    assert (first.refusal, first.replayed) == (again.refusal, False)
    assert again.replayed
    assert (await books.submit(replace(poor, key="new"))).taken


async def test_an_account_opened_again_is_the_same(books: Books) -> None:
    assert (await books.submit(Open(Terms("a", "BLY")))).number == 1
    with pytest.raises(IdempotencyConflict):
        await books.submit(Open(Terms("a", "USD")))


async def test_a_full_account_is_closed_once_it_is_empty(books: Books) -> None:
    assert (await books.submit(Close("a"))).refusal.code == "account_not_empty"  # type: ignore[union-attr]
    await books.submit(post("out", "a", "b", 1_000))
    assert (await books.submit(Close("a"))).taken
    assert (await books.submit(post("in", "b", "a", 1))).refusal.code == "account_closed"  # type: ignore[union-attr]


async def test_a_ceiling_counts_what_is_held_for_the_account(books: Books) -> None:
    await books.submit(Open(Terms("small", "BLY", ceiling=150)))
    assert (await books.submit(Hold("h", Leg("a", "small", 100), 60))).taken
    assert (await books.submit(post("p", "a", "small", 51))).refusal.code == "over_ceiling"  # type: ignore[union-attr]
    assert (await books.submit(post("q", "a", "small", 50))).taken


async def test_sums_beyond_the_largest_are_refused(books: Books) -> None:
    wide = Terms("wide", "BLY", floor=-limits.amount_max)
    wider = Terms("wider", "BLY", floor=-limits.amount_max)
    await asyncio.gather(*(books.submit(Open(each)) for each in (wide, wider)))
    assert (await books.submit(post("p", "wide", "wider", limits.amount_max))).taken
    refusal = (await books.submit(post("q", "wide", "wider", 1))).refusal
    assert refusal is not None and refusal.code == "amount_overflow"


async def test_time_does_not_go_back_and_a_jump_ends_holds(store: Store) -> None:
    """The clock jumps a day ahead, and then back."""
    with_accounts(store, "a", "b")
    clock = [1_700_000_000]
    books = Books(store, lambda: clock[0])
    hold = (await books.submit(Hold("h", Leg("a", "b", 100), 60))).number or 0
    clock[0] += 86_400
    assert (await books.submit(Settle("s", hold, 1))).refusal.code == "hold_expired"  # type: ignore[union-attr]
    assert await books.expire() == 1
    clock[0] -= 90_000
    after = await books.submit(post("p", "a", "b", 1))
    assert after.time == 1_700_086_400
    short = (await books.submit(Hold("h2", Leg("a", "b", 100), 60))).number or 0
    assert await books.expire() == 0
    clock[0] = 1_700_086_460
    assert await books.expire() == 1
    assert (await books.submit(Void("v", short))).refusal.code == "hold_ended"  # type: ignore[union-attr]
    await books.close()


async def test_what_never_was_is_refused(books: Books) -> None:
    for request, code in (
        (Settle("1", 99, 1), "hold_unknown"),
        (Void("2", 3), "hold_unknown"),
        (Reverse("3", 99), "not_reversible"),
        (Reverse("4", 0), "not_reversible"),
        (post("5", "a", "nobody", 1), "account_unknown"),
        (post("6", "nobody", "a", 1), "account_unknown"),
        (Close("nobody"), "account_unknown"),
        (Expire(3), "hold_unknown"),
    ):
        assert (await books.submit(request)).refusal.code == code  # type: ignore[union-attr]


async def test_history_is_read_as_of_any_time(store: Store) -> None:
    clock = [1_000]
    with_accounts(store, "a", "b", funds=0)
    books = Books(store, lambda: max(clock[0], now()))
    for n in range(20):
        clock[0] = now() + 10 * n
        await books.submit(post(f"p {n}", MINT.name, "a", 1))
    at = [
        (await books.read(lambda s, t=t: reading.balance_at(s, "a", now() + t))).balance
        for t in (-1, 0, 9, 10, 95, 999)
    ]
    assert at == [0, 1, 1, 2, 10, 20]
    [total] = await books.read(lambda session: reading.trial_balance(session, now() + 95))
    assert (total.has, total.owes, total.balanced) == (10, 10, True)
    lines = await books.read(lambda session: reading.statement(session, "a", before=20, count=5))
    assert [line.entry.balance for line in lines] == [19, 18, 17, 16, 15]
    with pytest.raises(NotFound, match="nobody"):
        await books.read(lambda session: reading.balance_at(session, "nobody", 1))
    with pytest.raises(NotFound, match="record 999"):
        await books.read(lambda session: reading.record(session, 999))
    assert await books.read(lambda session: reading.trial_balance(session, 5)) == []
    await books.close()


async def test_only_what_the_database_refuses_fails(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in the rules: the triggers find it, and the others of the same commit are done."""
    honest = rules.changed

    def generous(account: Account, *change: int):
        rich = replace(account, terms=replace(account.terms, floor=-limits.amount_max))
        after = honest(rich, *change)
        return replace(after, terms=account.terms) if isinstance(after, Account) else after

    monkeypatch.setattr(rules, "changed", generous)
    answers = await asyncio.gather(
        *(books.submit(post(f"p {n}", "a", "b", 5_000 if n == 3 else 1)) for n in range(6)), return_exceptions=True
    )
    assert [isinstance(answer, IntegrityFault) for answer in answers] == [False] * 3 + [True] + [False] * 2
    assert await balance(books, "a") == 995


async def test_a_caller_who_goes_away_leaves_the_books_right(books: Books) -> None:
    waiting = asyncio.create_task(books.submit(post("gone", "a", "b", 10)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await books.submit(post("gone", "a", "b", 10))).number == 5
    assert await balance(books, "a") == 990


async def test_too_many_that_wait_are_told_so(sqlite_store: SqliteStore) -> None:
    with_accounts(sqlite_store, "a", "b")
    books = Books(sqlite_store, now, waiting_max=4)
    with sqlite_store.writer:  # nothing is committed meanwhile
        first = asyncio.create_task(books.submit(post("first", "a", "b", 1)))
        await asyncio.sleep(0.2)  # the writer has it by then
        waiting = [asyncio.create_task(books.submit(post(f"p {n}", "a", "b", 1))) for n in range(5)]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert [type(each.exception()) for each in done] == [QueueFull]
    outcomes = await asyncio.gather(first, *waiting, return_exceptions=True)
    assert sum(isinstance(each, QueueFull) for each in outcomes) == 1
    await books.close()


async def test_after_closing_nothing_is_taken_and_what_waited_is_done(books: Books) -> None:
    waiting = [asyncio.create_task(books.submit(post(f"p {n}", "a", "b", 1))) for n in range(50)]
    await asyncio.sleep(0)
    await books.close()
    assert all(outcome.taken for outcome in await asyncio.gather(*waiting))
    with pytest.raises(Unavailable, match="closed"):
        await books.submit(post("late", "a", "b", 1))


def test_a_loop_that_ended_harms_nobody(store: Store) -> None:
    with_accounts(store, "a", "b")
    held = threading.Event()
    books = Books(store, lambda: (held.wait(5), now())[1])

    async def ask() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(books.submit(post("left", "a", "b", 1)), 0.05)

    asyncio.run(ask())
    held.set()
    assert asyncio.run(books.submit(post("left", "a", "b", 1))).number == 5
    asyncio.run(books.close())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_mistake_of_ours_leaves_nobody_waiting(store: Store) -> None:
    """The writer's thread ends with a traceback; whoever waited, then or later, is told."""
    with_accounts(store, "a", "b")
    times = iter([1])
    books = Books(store, lambda: next(times))  # the second commit has no time
    assert (await books.submit(post("p", "a", "b", 1))).taken
    for key in ("q", "r"):
        with pytest.raises(Unavailable, match=r"stopped|closed"):
            await asyncio.wait_for(books.submit(post(key, "a", "b", 1)), 5)
    await books.close()


async def test_a_disk_that_fails_to_sync_stops_all_writing(
    sqlite_store: SqliteStore,
) -> None:
    """Nobody knows what reached it; the next start finds out."""
    with_accounts(sqlite_store, "a", "b")
    books = Books(sqlite_store, now)
    sqlite_store.lose_track("disk I/O error")
    for key in ("one", "two"):
        with pytest.raises(Unavailable, match="disk I/O error") as fault:
            await books.submit(post(key, "a", "b", 1))
        assert "restart" in (fault.value.hint or "")
    assert await balance(books, "a") == 1_000
    await books.close()


@pytest.mark.slow
async def test_a_server_that_goes_away_is_said_and_the_books_are_right_after() -> None:
    """The server crashes while requests wait; each is asked again with its key, and is done once."""
    with PostgresServer() as server:
        store = PostgresStore(server.new_database(), seconds=3)
        store.migrate(now)
        with_accounts(store, "a", "b")
        books = Books(store, now)
        requests = [post(f"p {n}", "a", "b", 1) for n in range(200)]
        asked = [asyncio.create_task(books.submit(each)) for each in requests]
        await asyncio.wait(asked, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(server.stop, signal.SIGQUIT)
        with pytest.raises(Unavailable) as fault:
            await books.submit(post("while it is gone", "a", "b", 1))
        assert "same key" in (fault.value.hint or "")
        await asyncio.gather(*asked, return_exceptions=True)
        await asyncio.to_thread(server.start)
        for attempt in range(5):
            try:
                assert (await books.submit(post("first again", "a", "b", 1))).taken
                break
            except Unavailable:
                await asyncio.sleep(attempt)
        outcomes = await asyncio.gather(*map(books.submit, requests))
        assert all(outcome.taken for outcome in outcomes)
        assert await balance(books, "a") == 1_000 - 201
        await books.close()
        with store.session() as session:
            assert audit.verify(session).faults == ()
        store.close()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Leg("a", "a", 1),
        lambda: Leg("a", "b", 0),
        lambda: Leg("a", "b", -1),
        lambda: Leg("a", "b", limits.amount_max + 1),
        lambda: Leg("a", "b", True),
        lambda: Leg("A", "b", 1),
        lambda: Leg("a", "b" * 129, 1),
        lambda: Post("k", ()),
        lambda: Post("k", (Leg("a", "b", 1),) * 9),
        lambda: Post("", (Leg("a", "b", 1),)),
        lambda: Post("=open a", (Leg("a", "b", 1),)),
        lambda: Post('quo"te', (Leg("a", "b", 1),)),
        lambda: Post("k\n", (Leg("a", "b", 1),)),
        lambda: Post("k", (Leg("a", "b", 1),), "back\\slash"),
        lambda: Post("k", (Leg("a", "b", 1),), "한글"),
        lambda: Hold("k", Leg("a", "b", 1), 0),
        lambda: Hold("k", Leg("a", "b", 1), limits.hold_seconds_max + 1),
        lambda: Settle("k", -1, 1),
        lambda: Settle("k", 1, 0),
        lambda: Terms("a", "DOGE"),
        lambda: Terms("a", "BLY", floor=1),
        lambda: Terms("a", "BLY", ceiling=-1),
        lambda: Terms("a", "BLY", ceiling=limits.amount_max + 1),
        lambda: Close(""),
    ],
)
def test_a_request_that_cannot_be_is_no_value(make) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        make()


async def test_legs_of_two_assets_are_done_together(books: Books) -> None:
    """What buys BLY with USD: one record, each asset balanced."""
    usd = Terms("usd:mint", "USD", floor=-limits.amount_max)
    await asyncio.gather(*(books.submit(Open(each)) for each in (usd, Terms("usd:a", "USD"))))
    bought = await books.submit(Post("buy", (Leg("usd:mint", "usd:a", 500), Leg("b", "a", 7))))
    assert bought.taken
    crossed = await books.submit(Post("cross", (Leg("usd:a", "a", 500),)))
    assert crossed.refusal is not None and crossed.refusal.code == "assets_differ"
    short = await books.submit(Post("short", (Leg("usd:mint", "usd:a", 500), Leg("b", "a", 7_000))))
    assert short.refusal is not None
    assert (await balance(books, "usd:a"), await balance(books, "a")) == (500, 1_007)
    assert (await books.submit(Reverse("back", bought.number or 0))).taken
    assert (await balance(books, "usd:a"), await balance(books, "a")) == (0, 1_000)
    refusal = (await books.submit(Reverse("back again", bought.number or 0))).refusal
    assert refusal is not None and refusal.code == "already_reversed"


def test_a_settled_hold_moves_what_was_used_and_releases_the_rest(store: Store) -> None:
    with_accounts(store, "a", "b")
    hold = one(store, Hold("h", Leg("a", "b", 100), 60)).number or 0
    assert one(store, Settle("much", hold, 101)).refusal.code == "exceeds_hold"
    assert one(store, Expire(hold)).refusal.code == "hold_stands"
    one(store, Settle("s", hold, 30))
    with store.session() as session:
        a, b = reading.account(session, "a"), reading.account(session, "b")
    assert [(each.balance, each.held_out, each.held_in) for each in (a, b)] == [(970, 0, 0), (1_030, 0, 0)]
