"""The books of a running node: opened, sealed, promised, and what happens when their database goes away."""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Iterator

import pytest
from aiohttp.test_utils import TestClient

from accounts import ORIGIN, SOURCES, Nodes
from blyan.api.state import node_key
from blyan.cli.main import main
from blyan.ledger import reading
from blyan.ledger.postgres_store import PostgresStore
from blyan.ledger.sqlite_store import SqliteStore
from blyan.ledger.transfers import Hold, Leg, Post
from blyan.node.books import NodeBooks, allowance, income, operator_credit, rounding
from blyan.node.node import Node
from blyan.primitives.clock import system_seconds
from blyan.primitives.errors import IntegrityFault, Unavailable
from ledgers import as_vandal
from nodes import command, json_of, serving_with, writing
from services import PostgresServer, missing
from wallets import new_key

USER = new_key().address


def node_of(client: TestClient) -> Node:
    return client.server.app[node_key]  # type: ignore[union-attr]


def books_of(client: TestClient) -> NodeBooks:
    found = node_of(client).books
    assert found is not None
    return found


async def until(what: Callable[[], bool], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.02)


async def credited(books: NodeBooks, amount: int = 500, key: str = "credit 1") -> str:
    name = await books.open_user(USER)
    outcome = await books.submit(Post(key, (Leg(operator_credit, name, amount),)))
    assert outcome.taken
    return name


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """One that a test may stop."""
    try:
        server = PostgresServer()
    except FileNotFoundError:
        missing("PostgreSQL (apt: postgresql)")
        raise
    with server:
        yield server


@pytest.fixture
def own_url(own_server: PostgresServer) -> str:
    """A migrated database on it."""
    url = own_server.new_database()
    store = PostgresStore(url)
    store.migrate(system_seconds)
    store.close()
    return url


async def test_a_node_with_accounts_opens_books_with_accounts_of_its_own(nodes: Nodes) -> None:
    client = await nodes.start()
    found = {each.terms.name: each.terms for each in await books_of(client).read(lambda s: list(reading.accounts(s)))}
    assert found.keys() == {income, rounding, allowance, operator_credit}
    assert all(terms.asset == "USD" for terms in found.values())
    assert {name for name, terms in found.items() if terms.floor < 0} == {allowance, operator_credit}
    assert (client.data_dir / "ledger.db").stat().st_mode & 0o077 == 0


async def test_an_account_is_opened_in_lower_case_and_once(nodes: Nodes) -> None:
    books = books_of(await nodes.start())
    names = await asyncio.gather(books.open_user(USER), books.open_user(USER.lower()))
    assert [f"user:{USER.lower()}"] * 2 == list(names)
    assert len(await books.read(lambda s: list(reading.accounts(s)))) == 5


async def test_what_is_new_is_sealed_promised_and_verified_beside_the_running_node(nodes: Nodes) -> None:
    client = await nodes.start(ledger={"seal_seconds": 1})
    books, chains = books_of(client), node_of(client).ground.chains
    await credited(books)
    await until(lambda: books.sizes.promised == 6)
    assert chains.joint.ledger_root is not None
    assert (books.sizes.records, books.sizes.sealed, chains.joint.ledger_root.size) == (6, 6, 6)
    height = chains.joint.height
    await books.look_after()
    await books.look_after()
    assert chains.joint.height == height  # nothing is new, so nothing is written
    checked = await asyncio.to_thread(json_of, "ledger", "verify", data_dir=client.data_dir)
    assert (checked["promised"], checked["records"], checked["faults"]) == (6, 6, [])


async def test_metrics_say_what_is_in_the_books(nodes: Nodes) -> None:
    client = await nodes.start()
    books = books_of(client)
    name = await credited(books, 10**8)
    await books.submit(Hold("hold 1", Leg(name, income, 150_000), 60))
    for key in ("too much", "too much"):
        assert not (await books.submit(Post(key, (Leg(name, income, 10**9),)))).taken
    await books.look_after()
    said = node_of(client).metrics.text("text/plain")[0].decode()
    for line in (
        "blyan_ledger_up 1.0",
        'blyan_ledger_records{state="promised"} 7.0',
        "blyan_ledger_held_usd 0.0015",
        'blyan_ledger_refusals_total{code="insufficient_funds"} 1.0',
    ):
        assert line in said


async def test_holds_end_when_their_time_is_over(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await nodes.start()
    books = books_of(client)
    name = await credited(books)
    await books.submit(Hold("hold 1", Leg(name, income, 200), 60))
    await books.look_after()
    assert books.sizes.held == 200
    _, last = await books.read(reading.size_and_time)
    monkeypatch.setattr(books._books, "_now", lambda: last + 61)  # whatever the machine's clock does
    await books.look_after()
    assert books.sizes.held == 0
    assert (await books.read(lambda s: reading.account(s, name))).available == 500


async def test_the_end_of_a_node_promises_what_was_new(nodes: Nodes, installed, tmp_path) -> None:
    folder = tmp_path / "data"
    await asyncio.to_thread(shutil.copytree, installed, folder)
    sections = {"accounts": {"origin": ORIGIN}, "ledger": {"seal_seconds": 600}}
    async with serving_with(SOURCES, folder, **sections) as client:
        await credited(books_of(client))
    assert json_of("ledger", "verify", data_dir=folder)["promised"] == 6


async def test_books_that_hold_less_than_was_promised_keep_a_node_from_starting(installed, tmp_path) -> None:
    folder, older = tmp_path / "data", tmp_path / "older.db"
    await asyncio.to_thread(shutil.copytree, installed, folder)
    async with serving_with(SOURCES, folder, accounts={"origin": ORIGIN}):
        pass
    shutil.copy(folder / "ledger.db", older)
    async with serving_with(SOURCES, folder, accounts={"origin": ORIGIN}) as client:
        await credited(books_of(client))
    shutil.copy(older, folder / "ledger.db")
    with pytest.raises(IntegrityFault, match="expected the seal of 6 records"):
        async with serving_with(SOURCES, folder, accounts={"origin": ORIGIN}):
            pass
    (folder / "ledger.db").unlink()
    with pytest.raises(IntegrityFault, match="expected the 6 records that were promised, found none"):
        async with serving_with(SOURCES, folder, accounts={"origin": ORIGIN}):
            pass
    assert not (folder / "ledger.db").exists()
    assert command("ledger", "verify", data_dir=folder).returncode == 3


async def test_a_running_node_notices_books_that_were_put_back(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    """Another root under the number of records that was promised."""
    client = await nodes.start()
    books = books_of(client)
    await credited(books)
    await books.look_after()
    with as_vandal(client.data_dir / "ledger.db") as vandal:
        vandal.execute("UPDATE seal SET root = zeroblob(32)")
    await books.look_after()
    await books.look_after()
    with pytest.raises(Unavailable, match="expected them to answer"):
        await credited(books, key="credit 2")
    said = [each.getMessage() for each in caplog.records if "nothing is taken" in each.getMessage()]
    assert len(said) == 1
    assert "which was promised, found another" in said[0]


async def test_a_database_that_goes_away_is_waited_for_and_used_again(
    own_server: PostgresServer, own_url: str, nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    client = await nodes.start(ledger={"database": own_url, "seal_seconds": 1})
    books = books_of(client)
    name = await credited(books)
    own_server.stop()
    await until(lambda: books.gone is not None, 30)
    began = SOURCES.monotonic()
    with pytest.raises(Unavailable, match="expected them to answer"):
        await books.submit(Post("credit 2", (Leg(operator_credit, name, 7),)))
    assert SOURCES.monotonic() - began < 2  # at once: who waits for a database that is gone holds up others
    assert (await client.get("/livez")).status == 200
    ready = await client.get("/readyz")
    assert (ready.status, "books: expected them to answer" in await ready.text()) == (503, True)
    await asyncio.to_thread(own_server.start)
    await until(lambda: books.gone is None, 30)
    assert (await client.get("/readyz")).status == 200
    assert (await books.submit(Post("credit 2", (Leg(operator_credit, name, 7),)))).taken
    assert (await books.submit(Post("credit 1", (Leg(operator_credit, name, 500),)))).replayed
    assert (await books.read(lambda s: reading.account(s, name))).balance == 507
    await until(lambda: books.sizes.promised == books.sizes.records == 7)
    said = [each.getMessage() for each in caplog.records if each.name == "blyan.node.books"]
    assert (len([each for each in said if "nothing is taken" in each]), "books: they answer again" in said) == (1, True)


async def test_a_writer_that_stopped_is_noticed_though_the_books_can_be_read(nodes: Nodes) -> None:
    books = books_of(await nodes.start())
    await books.look_after()
    assert books.gone is None
    books._books.stop()
    await books.look_after()
    assert isinstance(books.gone, Unavailable)


async def test_a_database_without_its_schema_keeps_a_node_from_starting(nodes: Nodes, postgres_url: str) -> None:
    with pytest.raises(Unavailable, match="migration") as refused:
        await nodes.start(ledger={"database": postgres_url})
    assert refused.value.hint == "run `blyan db migrate`"


async def test_without_accounts_there_are_no_books(installed, tmp_path) -> None:
    await asyncio.to_thread(shutil.copytree, installed, tmp_path / "data")
    async with serving_with(SOURCES, tmp_path / "data") as client:
        assert node_of(client).books is None
    assert not (tmp_path / "data/ledger.db").exists()


def test_a_file_that_a_stranger_locks_is_the_moments_fault(tmp_path) -> None:
    store = SqliteStore(tmp_path / "ledger.db", create=True)
    store.migrate(system_seconds)
    with store.session() as session:
        session.rows("PRAGMA busy_timeout = 1")
        other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable), session.writing():
            pass
        other.close()
    store.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@127.0.0.1:1/books",
        "postgresql://me:hunter2@[::1/books",
        "postgresql://me:hunter2@h:notaport/books",
        "postgresql://me:hunter2%zz@h/books?nonsense=1",
    ],
)
def test_a_password_in_a_url_is_neither_shown_nor_said(url: str, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    with writing(tmp_path / "data"):
        pass
    key = "Abcdefghij0123456789xyz"
    (tmp_path / "data/node.toml").write_text(
        f'[accounts]\norigin = "{ORIGIN}"\nrpc_urls = ["1=https://eth.example.org/v3/{key}"]\n'
        f'redis_url = "redis://:hunter2@127.0.0.1:1"\n[ledger]\ndatabase = "{url}"\n'
    )
    for words in ("config show --origin", "config show --json", "config check", "ledger show --json", "doctor --json"):
        code = main(["--data-dir", str(tmp_path / "data"), *words.split()])
        said = "".join(capsys.readouterr())
        assert "hunter2" not in said and key not in said, (words, said)
        if words.startswith("ledger"):
            assert code in (1, 75), said


def test_books_of_a_node_that_never_had_accounts_are_a_hint(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    with writing(tmp_path / "data"):
        pass
    assert main(["--data-dir", str(tmp_path / "data"), "ledger", "show"]) == 3
    assert "accounts.origin" in capsys.readouterr().err
