"""API keys: shown once, kept as digests, theirs who made them, held to scopes and ends."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from blyan.auth.api_keys import KeyRing, Wish, parse_wish
from blyan.auth.sqlite_store import SqliteStore
from blyan.primitives import limits
from blyan.primitives.clock import system_entropy
from blyan.primitives.errors import InvalidInput, NotFound, Unauthenticated

NOW = 1_700_000_000
WISH = Wish("laptop", ("inference",), None)


class Clock:
    now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ring(tmp_path: Path, clock: Clock) -> AsyncIterator[KeyRing]:
    store = SqliteStore(tmp_path / "accounts.db", clock)
    yield KeyRing(store, now=clock, entropy=system_entropy)
    await store.close()


async def test_a_key_is_found_by_its_text(ring: KeyRing) -> None:
    key, text = await ring.make("me", WISH)
    found = await ring.check(text)
    assert (key.id, "me", ("inference",)) == (found.id, found.account, found.scopes)


async def test_no_file_holds_its_secret(ring: KeyRing, tmp_path: Path) -> None:
    _, text = await ring.make("me", WISH)
    assert not any(text.rpartition("-")[2].encode() in path.read_bytes() for path in list(tmp_path.iterdir()))  # noqa: ASYNC240


@pytest.mark.parametrize("text", ["", "x", "sk-blyan-", "sk-blyan-0123456789abcdef-" + "A" * 43, "Bearer x", "é" * 70])
async def test_a_text_that_is_no_key_is_refused(ring: KeyRing, text: str) -> None:
    await ring.make("me", WISH)
    with pytest.raises(Unauthenticated, match="API key: expected one"):
        await ring.check(text)


async def test_another_secret_behind_a_true_id_is_refused(ring: KeyRing) -> None:
    (key, _), (_, other) = await ring.make("me", WISH), await ring.make("me", WISH)
    with pytest.raises(Unauthenticated):
        await ring.check(f"sk-blyan-{key.id}-{other.rpartition('-')[2][-43:]}")


async def test_a_key_ends_when_it_says(ring: KeyRing, clock: Clock) -> None:
    _, text = await ring.make("me", Wish("short", ("inference",), NOW + 10))
    clock.now += 9
    await ring.check(text)
    clock.now += 1
    with pytest.raises(Unauthenticated, match="found it expired"):
        await ring.check(text)


async def test_a_deleted_key_holds_no_more(ring: KeyRing) -> None:
    key, text = await ring.make("me", WISH)
    await ring.delete("me", key.id)
    with pytest.raises(Unauthenticated):
        await ring.check(text)


async def test_nobody_deletes_or_sees_anothers_key(ring: KeyRing) -> None:
    key, text = await ring.make("me", WISH)
    for wrong in (key.id, "0" * 16, None, 5):
        with pytest.raises(NotFound):
            await ring.delete("you", wrong)
    assert ([], [key.id]) == (list(await ring.all("you")), [each.id for each in await ring.all("me")])
    await ring.check(text)


async def test_the_day_of_use_is_kept_and_no_more(ring: KeyRing, clock: Clock) -> None:
    key, text = await ring.make("me", WISH)
    assert key.used_at is None
    clock.now += 5
    await ring.check(text)
    [kept] = await ring.all("me")
    assert kept.used_at == NOW - NOW % 86_400


async def test_an_account_has_so_many_keys(ring: KeyRing, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "api_keys_account_max", 2)
    await ring.make("me", WISH)
    await ring.make("me", Wish("short", ("inference",), NOW + 10))
    with pytest.raises(InvalidInput, match="fewer than 2"):
        await ring.make("me", WISH)
    await ring.make("you", WISH)
    clock.now += 10
    await ring.make("me", WISH)  # in the place of the one that expired


@pytest.mark.parametrize("end", [NOW, NOW - 1, 0, -1, NOW + limits.api_key_seconds_max + 1])
async def test_an_end_in_the_past_or_far_future_is_refused(ring: KeyRing, end: int) -> None:
    with pytest.raises(InvalidInput, match="expires_at: expected Unix seconds from"):
        await ring.make("me", Wish("x", ("inference",), end))


def test_a_wish_is_read() -> None:
    assert parse_wish({"name": "laptop"}) == WISH
    body = {"name": "노트북", "scopes": ["account", "inference"], "expires_at": 5}
    assert Wish("노트북", ("inference", "account"), 5) == parse_wish(body)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": ""}, "name"),
        ({"name": 5}, "name"),
        ({"name": "x" * 81}, "name"),
        ({"name": "a\u202eb"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": "inference"}, "scopes"),
        ({"scopes": ["everything"]}, "scopes"),
        ({"scopes": [["inference"]]}, "scopes"),
        ({"scopes": ["inference", "inference"]}, "scopes"),
        ({"scopes": ["inference"] * 100}, "scopes"),
        ({"scopes": None}, "scopes"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": True}, "expires_at"),
        ({"expires_at": 1.5}, "expires_at"),
    ],
)
def test_a_wish_that_does_not_fit_names_its_field(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{said}: expected"):
        parse_wish({"name": "x", **change})
