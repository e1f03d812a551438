"""The door for wallets over both stores: one message, one browser, one session; limits; and what ends a session."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from blyan.auth.nonces import SignIn
from blyan.auth.origin import parse_origin
from blyan.auth.redis_store import RedisStore
from blyan.auth.sessions import Session, SessionLimits
from blyan.auth.sign_in import Begun, Door, SignInStore
from blyan.auth.sqlite_store import SqliteStore
from blyan.auth.tokens import digest_of, new_secret
from blyan.primitives import limits
from blyan.primitives.clock import system_entropy
from blyan.primitives.errors import IntegrityFault, InvalidInput, Overloaded, Unauthenticated, Unavailable
from redis_service import accounts_link
from wallets import new_key, sign

ORIGIN = parse_origin("https://chat.example.org", "origin")
KEY = new_key(1)
BOUNDS = SessionLimits(idle_seconds=600, absolute_seconds=3_600)
NOW = 1_700_000_000


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[SignInStore]:
    if request.param == "sqlite":
        found = SqliteStore(tmp_path / "accounts.db", clock)
        yield found
        await found.close()
    else:
        link = accounts_link(request.getfixturevalue("redis_url"))
        yield RedisStore(link)
        await link.close()


@pytest.fixture
def door(store: SignInStore, clock: Clock) -> Door:
    return Door(ORIGIN, (1, 10), store, bounds=BOUNDS, contracts=None, now=clock, entropy=system_entropy)


async def finished(door: Door, begun: Begun, **changes: str | None):
    given = {"text": begun.message.text, "signature": sign(KEY, begun.message.text), "browser": begun.secret}
    given = {**given, "before": None, **changes}
    return await door.finish(given["text"], given["signature"], browser=given["browser"], before=given["before"])


async def signed_in(door: Door):
    return await finished(door, await door.begin(KEY.address, 1))


async def test_who_signs_has_a_session(door: Door) -> None:
    found = await finished(door, await door.begin(KEY.address.lower(), 10))
    session = await door.session(found.secret)
    assert session == found.session
    assert (KEY.address, 10, NOW + 600, NOW + 3_600) == (
        session.account,
        session.chain_id,
        session.idle_until,
        session.ends_at,
    )


@pytest.mark.parametrize("chain", [2, 0, -1, "1", 1.0, True, None])
async def test_a_chain_that_is_not_configured_is_refused(door: Door, chain: object) -> None:
    with pytest.raises(InvalidInput, match="chain_id: expected one of 1, 10"):
        await door.begin(KEY.address, chain)


async def test_a_message_of_a_chain_that_is_configured_no_more_is_refused(store: SignInStore, clock: Clock) -> None:
    both, one = (
        Door(ORIGIN, chains, store, bounds=BOUNDS, contracts=None, now=clock, entropy=system_entropy)
        for chains in ((1, 10), (10,))
    )
    with pytest.raises(Unauthenticated, match="chain"):
        await finished(one, await both.begin(KEY.address, 1))


async def test_a_replayed_message_is_refused(door: Door) -> None:
    begun = await door.begin(KEY.address, 1)
    await finished(door, begun)
    with pytest.raises(Unauthenticated, match="found it used or late"):
        await finished(door, begun)


async def test_fifty_at_once_make_one_session(door: Door) -> None:
    begun = await door.begin(KEY.address, 1)
    found = await asyncio.gather(*(finished(door, begun) for _ in range(50)), return_exceptions=True)
    assert [
        sum(not isinstance(each, BaseException) for each in found),
        sum(isinstance(each, Unauthenticated) for each in found),
    ] == ([1, 49])


async def test_one_try_is_all_there_is(door: Door) -> None:
    """Taken before the signature is looked at: a wrong one uses the message up."""
    begun = await door.begin(KEY.address, 1)
    with pytest.raises(Unauthenticated, match="signature"):
        await finished(door, begun, signature=sign(new_key(2), begun.message.text))
    with pytest.raises(Unauthenticated, match="used"):
        await finished(door, begun)


async def test_an_expired_message_is_refused(door: Door, clock: Clock) -> None:
    begun = await door.begin(KEY.address, 1)
    clock.now += limits.sign_in_seconds_max
    with pytest.raises(Unauthenticated, match="late"):
        await finished(door, begun)


@pytest.mark.parametrize("browser", [None, "", "x" * 43])
async def test_another_browser_is_refused(door: Door, browser: str | None) -> None:
    """Login CSRF: who is made to send somebody else's signature has not the cookie of who asked for the message."""
    begun = await door.begin(KEY.address, 1)
    with pytest.raises(Unauthenticated, match="in the browser where it began"):
        await finished(door, begun, browser=browser)


async def test_the_browser_of_another_sign_in_is_refused(door: Door) -> None:
    mine, theirs = await door.begin(KEY.address, 1), await door.begin(new_key(2).address, 1)
    with pytest.raises(Unauthenticated, match="in the browser where it began"):
        await finished(door, mine, browser=theirs.secret)


async def test_a_message_with_a_nonce_of_another_is_refused(door: Door) -> None:
    """Well-formed and signed, and not the one that was given out with that nonce."""
    begun = await door.begin(new_key(2).address, 1)
    forged = replace(begun.message, address=KEY.address)
    with pytest.raises(Unauthenticated, match="the one that was given with its nonce"):
        await finished(door, begun, text=forged.text, signature=sign(KEY, forged.text))


async def test_a_later_end_is_refused(door: Door) -> None:
    begun = await door.begin(KEY.address, 1)
    longer = replace(begun.message, expires_at=begun.message.expires_at + 1)
    with pytest.raises(Unauthenticated, match="the one that was given"):
        await finished(door, begun, text=longer.text, signature=sign(KEY, longer.text))


async def test_what_is_no_text_is_refused(door: Door) -> None:
    with pytest.raises(InvalidInput, match="message: expected text, found int"):
        await door.finish(5, "0x", browser=None, before=None)


async def test_a_sign_in_ends_the_session_of_before_and_takes_a_new_secret(door: Door) -> None:
    """Fixation: whoever planted or knew the secret of before has nothing."""
    first = await signed_in(door)
    second = await finished(door, await door.begin(KEY.address, 1), before=first.secret)
    assert first.secret != second.secret
    assert (None, second.session) == (await door.session(first.secret), await door.session(second.secret))


async def test_a_planted_secret_is_never_a_session(door: Door) -> None:
    planted = new_secret(system_entropy)
    found = await finished(door, await door.begin(KEY.address, 1), before=planted)
    assert (await door.session(planted), found.secret != planted) == (None, True)


async def test_who_signs_out_is_out(door: Door) -> None:
    first, second = await signed_in(door), await signed_in(door)
    await door.sign_out(first.secret)
    assert (None, second.session) == (await door.session(first.secret), await door.session(second.secret))
    await door.sign_out(first.secret)
    await door.sign_out(None)


async def test_who_signs_out_everywhere_is_out_everywhere(door: Door, store: SignInStore) -> None:
    mine = [await signed_in(door) for _ in range(3)]
    other = replace(mine[0].session, digest="0" * 64, account="somebody else")
    await store.put_session(other, NOW)
    await door.sign_out_everywhere(KEY.address)
    assert [await door.session(each.secret) for each in mine] == [None] * 3
    assert other == await store.session(other.digest, NOW)


async def test_an_idle_session_ends(door: Door, clock: Clock) -> None:
    found = await signed_in(door)
    clock.now += BOUNDS.idle_seconds - 1
    assert await door.session(found.secret)
    clock.now += BOUNDS.idle_seconds
    assert await door.session(found.secret) is None


async def test_a_session_in_use_ends_at_its_absolute_limit(door: Door, clock: Clock) -> None:
    found = await signed_in(door)
    for _ in range((BOUNDS.absolute_seconds - 1) // 400):
        clock.now += 400
        assert await door.session(found.secret)
    clock.now = NOW + BOUNDS.absolute_seconds
    assert await door.session(found.secret) is None


async def test_a_use_is_written_once_a_minute(door: Door, clock: Clock, store: SignInStore) -> None:
    found = await signed_in(door)
    clock.now += limits.session_touch_seconds - 1
    await door.session(found.secret)
    assert (await store.session(found.session.digest, clock.now)) == found.session
    clock.now += 1
    await door.session(found.secret)
    kept = await store.session(found.session.digest, clock.now)
    assert kept is not None
    assert clock.now + BOUNDS.idle_seconds == kept.idle_until


async def test_a_session_that_was_ended_is_not_written_again(store: SignInStore) -> None:
    session = Session("a" * 64, "who", KEY.address, 1, NOW, NOW + 600, NOW + 3_600)
    await store.extend_session(session, NOW)
    assert await store.session(session.digest, NOW) is None


@pytest.mark.parametrize("secret", ["", "x", "é" * 43, "x" * 44, "../" * 20])
async def test_what_is_no_secret_is_no_session(door: Door, secret: str) -> None:
    assert await door.session(secret) is None


async def test_the_oldest_sessions_end_when_an_account_has_too_many(
    door: Door, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "sessions_account_max", 3)
    found = []
    for _ in range(5):
        clock.now += 1
        found.append(await signed_in(door))
    assert [(await door.session(each.secret)) is not None for each in found] == [False, False, True, True, True]


async def test_too_many_sign_ins_under_way_are_refused_until_some_end(
    door: Door, clock: Clock, store: SignInStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "sign_ins_open_max", 3)
    begun = [await door.begin(KEY.address, 1) for _ in range(3)]
    with pytest.raises(Overloaded, match="fewer than 3 under way"):
        await door.begin(KEY.address, 1)
    await finished(door, begun[0])
    await door.begin(KEY.address, 1)
    clock.now += limits.sign_in_seconds_max
    await door.begin(KEY.address, 1)


async def test_no_secret_is_kept(door: Door, store: SignInStore, tmp_path: Path) -> None:
    begun = await door.begin(KEY.address, 1)
    found = await finished(door, begun)
    if isinstance(store, SqliteStore):
        kept = b"".join(path.read_bytes() for path in files_in(tmp_path))
        assert (digest_of("session", found.secret).encode() in kept, found.secret.encode() in kept) == (True, False)
        assert begun.secret.encode() not in kept


# SQLite alone


@pytest.fixture
def reopened(tmp_path: Path, clock: Clock) -> Callable[[], SqliteStore]:
    return lambda: SqliteStore(tmp_path / "accounts.db", clock)


async def test_sessions_outlive_the_process(reopened: Callable[[], SqliteStore]) -> None:
    session = Session("a" * 64, "who", KEY.address, 1, NOW, NOW + 600, NOW + 3_600)
    store = reopened()
    await store.put_session(session, NOW)
    await store.close()
    store = reopened()
    assert session == await store.session(session.digest, NOW)
    await store.close()


async def test_the_file_is_its_owners_alone(reopened: Callable[[], SqliteStore], tmp_path: Path) -> None:
    store = reopened()
    await store.put_sign_in(SignIn("n", "m" * 64, "b" * 64, NOW + 300), NOW)
    assert {0o600} == {path.stat().st_mode & 0o777 for path in files_in(tmp_path)}
    await store.close()


async def test_a_file_that_is_no_database_is_unavailable(reopened: Callable[[], SqliteStore], tmp_path: Path) -> None:
    (tmp_path / "accounts.db").write_bytes(b"no database, but long enough to be looked at" * 100)
    with pytest.raises(Unavailable, match=r"accounts\.db"):
        reopened()


async def test_a_file_that_refuses_rows_is_unavailable(reopened: Callable[[], SqliteStore], tmp_path: Path) -> None:
    store = reopened()
    with sqlite3.connect(tmp_path / "accounts.db") as other:
        other.execute("DROP TABLE session")
    other.close()
    with pytest.raises(Unavailable, match=r"accounts\.db"):
        await store.end_session("a" * 64)
    await store.put_sign_in(SignIn("n", "m" * 64, "b" * 64, NOW + 300), NOW)  # the failure left no transaction
    await store.close()


# Redis alone


@pytest.mark.parametrize("row", ["no JSON", "{}", "[]", "[1]"])
async def test_what_another_version_wrote_is_an_integrity_fault(redis_url: str, row: str) -> None:
    link = accounts_link(redis_url)
    store = RedisStore(link)
    session = Session("a" * 64, "who", KEY.address, 1, NOW, NOW + 600, NOW + 3_600)
    await store.put_session(session, NOW)
    await link.run("redis.call('SET', KEYS[1], ARGV[1])", ["session:" + session.digest], [row])
    with pytest.raises(IntegrityFault):
        await store.session(session.digest, NOW)
    await link.close()


@pytest.mark.parametrize(("idle", "absolute"), [(60, 600), (601, 600)])
def test_limits_that_do_not_fit_are_refused(idle: int, absolute: int) -> None:
    with pytest.raises(InvalidInput, match="sessions: expected"):
        SessionLimits(idle, absolute)
