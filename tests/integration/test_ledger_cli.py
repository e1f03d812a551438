"""The books by the command line: shown, verified against the joint checkpoint, exported, saved and brought back."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from blyan.chain.joint import Head
from blyan.chain.merkle import RightEdge, leaf_hash
from blyan.ledger import seal
from blyan.ledger.sqlite_store import SqliteStore
from blyan.ledger.transfers import Hold, Leg
from blyan.node.data_directory import open_ground
from blyan.primitives.errors import IntegrityFault
from ledgers import as_vandal, now, one, post, with_accounts
from nodes import command, json_of, writing


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory whose books are sealed and promised."""
    folder = tmp_path / "node"
    with writing(folder) as ground:
        store = SqliteStore(folder / "ledger.db", create=True)
        store.migrate(now)
        with_accounts(store, "a", "b")
        one(store, Hold("h", Leg("a", "b", 150_000_000 // 1_000_000), 60, "=1+1"))
        with store.session() as session:
            made = seal.seal(session, now)
        assert made is not None
        ground.sequencer.promise_ledger(Head(made.size, made.root)).result()
        store.close()
    return folder


def test_the_trial_balance_is_shown(data_dir: Path) -> None:
    found = json_of("ledger", "show", data_dir=data_dir)
    [asset] = found["assets"]
    assert (asset["have"], asset["owe"], asset["held"], asset["balanced"]) == ("2000", "2000", "150", True)
    assert (found["records"], found["sealed"]) == (6, 6)
    shown = command("ledger", "show", data_dir=data_dir)
    assert "BLY" in shown.stdout and "0.00002" in shown.stdout and "balanced" in shown.stdout
    assert json_of("ledger", "show", "--at", "5", data_dir=data_dir)["assets"] == []


def test_whole_books_verify_and_a_changed_record_is_named(data_dir: Path) -> None:
    found = json_of("ledger", "verify", data_dir=data_dir)
    assert (found["faults"], found["records"], found["promised"]) == ([], 6, 6)
    as_vandal(data_dir / "ledger.db").execute("UPDATE entry SET amount = amount + 1 WHERE record = 4 AND n = 1")
    done = command("ledger", "verify", data_dir=data_dir)
    assert done.returncode == 7
    assert "record 4: expected leaf" in done.stderr
    assert command("db", "check", data_dir=data_dir).returncode == 7


def test_books_that_lost_their_end_and_its_seal_are_found_by_the_joint_checkpoint(data_dir: Path) -> None:
    vandal = as_vandal(data_dir / "ledger.db")
    for statement in ("DELETE FROM entry WHERE record = 5", "DELETE FROM record WHERE seq = 5", "DELETE FROM seal"):
        vandal.execute(statement)
    vandal.close()
    done = command("ledger", "verify", data_dir=data_dir)
    assert done.returncode == 7
    assert "joint checkpoint (records 0 to 5): expected 6 records, found 5" in done.stderr


def test_a_promise_of_fewer_or_other_records_is_refused(data_dir: Path) -> None:
    with writing(data_dir) as ground:
        for head in (Head(5, bytes(32)), Head(6, bytes(32))):
            with pytest.raises(IntegrityFault, match="promised"):
                ground.sequencer.promise_ledger(head).result()
        same = ground.chains.joint.ledger_root
        assert same is not None
        assert ground.sequencer.promise_ledger(same).result() == []
    assert open_ground(data_dir).chains.joint.ledger_root == same


def test_exported_lines_give_the_promised_root_without_any_of_our_database(data_dir: Path) -> None:
    lines = command("ledger", "export", data_dir=data_dir).stdout.splitlines()
    edge = RightEdge()
    for line in lines:
        edge.append(leaf_hash(line.encode()))
    promised = open_ground(data_dir).chains.joint.ledger_root
    assert promised == Head(edge.size, edge.root())
    assert json.loads(lines[5])["kind"] == "hold"


def test_csv_has_decimal_amounts_and_no_formulas(data_dir: Path) -> None:
    text = command("ledger", "export", "--csv", "--account", "a", data_dir=data_dir).stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["amount"], row["held_out"], row["note"]) for row in rows] == [
        ("0.00001", "0", ""),
        ("0", "0.0000015", "'=1+1"),
    ]
    everything = command("ledger", "export", "--csv", data_dir=data_dir).stdout
    assert len(everything.splitlines()) == 7
    assert command("ledger", "export", "--account", "nobody", data_dir=data_dir).returncode == 3


def test_books_are_saved_and_brought_back_and_damage_is_named(data_dir: Path, tmp_path: Path) -> None:
    saved, again = tmp_path / "saved", tmp_path / "again"
    assert command("db", "backup", saved, data_dir=data_dir).returncode == 0
    assert command("db", "restore", saved, data_dir=again).returncode == 0
    assert json_of("ledger", "verify", data_dir=again)["records"] == 6
    assert json_of("ledger", "show", data_dir=again) == json_of("ledger", "show", data_dir=data_dir)
    as_vandal(saved / "ledger.db").execute("UPDATE record SET note = 'x' WHERE seq = 5")
    third = command("db", "restore", saved, data_dir=tmp_path / "third")
    assert third.returncode == 7
    assert "record 5" in third.stderr
    (saved / "ledger.db").unlink()
    fourth = command("db", "restore", saved, data_dir=tmp_path / "fourth")
    assert fourth.returncode == 7
    assert "expected 6 records, found no books" in fourth.stderr


def test_a_later_backup_has_later_records(data_dir: Path, tmp_path: Path) -> None:
    command("db", "backup", tmp_path / "saved", data_dir=data_dir)
    store = SqliteStore(data_dir / "ledger.db")
    one(store, post("later", "a", "b", 1))
    store.close()
    assert command("db", "backup", tmp_path / "saved", data_dir=data_dir).returncode == 0
    copy = SqliteStore(tmp_path / "saved" / "ledger.db", frozen=True)
    with copy.session() as session:
        assert session.rows("SELECT count(*) FROM record") == [(7,)]
    copy.close()


def test_no_books_and_books_of_an_older_schema_are_said(tmp_path: Path) -> None:
    with writing(tmp_path / "node"):
        pass
    assert command("ledger", "show", data_dir=tmp_path / "node").returncode == 3
    SqliteStore(tmp_path / "node" / "ledger.db", create=True).close()
    done = command("ledger", "show", data_dir=tmp_path / "node")
    assert done.returncode == 75
    assert "blyan db migrate" in done.stderr
    assert "001_ledger" in command("db", "migrate", data_dir=tmp_path / "node").stdout
    assert command("ledger", "show", data_dir=tmp_path / "node").returncode == 0


def test_books_in_postgres_are_shown_and_verified(postgres_url: str, postgres_store, tmp_path: Path) -> None:
    with_accounts(postgres_store, "a", "b")
    found = json_of("ledger", "verify", "--database", postgres_url, data_dir=tmp_path)
    assert (found["records"], found["faults"]) == (5, [])
    assert command("ledger", "show", "--database", "mysql://x", data_dir=tmp_path).returncode == 1
