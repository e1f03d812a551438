"""Accounts and books in backups, in checks and in PostgreSQL: what is copied, what is not, and that both are said."""

import asyncio
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from accounts import ORIGIN, PROMPT, SOURCES, Browser
from blyan.api.state import node_key
from blyan.cli.main import main
from blyan.ledger.transfers import Leg, Post
from blyan.node.books import operator_credit
from nodes import serving_with
from wallets import new_key

ACCOUNTS: dict[str, object] = {"origin": ORIGIN}


def run(capsys: pytest.CaptureFixture[str], data: Path, *words: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["--data-dir", str(data), *map(str, words)])
    found = capsys.readouterr()
    return code, found.out, found.err


def findings(capsys: pytest.CaptureFixture[str], data: Path) -> dict[str, Any]:
    _, out, _ = run(capsys, data, "doctor", "--json")
    return {each["name"]: each for each in json.loads(out)["findings"]}


async def lived_in(installed: Path, folder: Path, database: str = "") -> str:
    """A node where somebody signed in, made an API key, and was credited; the key."""
    await asyncio.to_thread(shutil.copytree, installed, folder)
    written = f'[accounts]\norigin = "{ORIGIN}"\n' + (f'[ledger]\ndatabase = "{database}"\n' if database else "")
    (folder / "node.toml").write_text(written)
    async with serving_with(SOURCES, folder) as client:
        browser = Browser(client)
        signed = await browser.sign_in(new_key())
        key = (await (await browser.ask("POST", "/auth/keys", {"name": "x"})).json())["key"]
        books = client.server.app[node_key].books  # type: ignore[union-attr]
        name = await books.open_user(signed["account"])
        assert (await books.submit(Post("credit 1", (Leg(operator_credit, name, 5),)))).taken
    return key


async def test_people_keep_their_keys_and_their_money_through_a_backup(installed, tmp_path, capsys) -> None:
    data, saved, new = tmp_path / "data", tmp_path / "saved", tmp_path / "new"
    key = await lived_in(installed, data)
    assert run(capsys, data, "db", "backup", saved)[0] == 0
    assert (saved / "accounts.db").stat().st_mode & 0o077 == 0
    code, _, said = run(capsys, new, "db", "restore", saved)
    assert (code, "deleted since the backup hold again" in said) == (0, True)
    async with serving_with(SOURCES, new, accounts=ACCOUNTS) as client:
        shown = {"Authorization": f"Bearer {key}"}
        assert (await Browser(client).ask("POST", "/v1/completions", PROMPT, **shown)).status == 200
        books = client.server.app[node_key].books  # type: ignore[union-attr]
        assert (books.gone, (await books.read(lambda s: s.rows("SELECT count(*) FROM record")))[0][0]) == (None, 6)
    assert run(capsys, new, "db", "check")[0] == 0
    run(capsys, data, "db", "backup", saved, "--without-keys")
    assert not (saved / "accounts.db").exists()  # nor from the backup before


async def test_damage_of_accounts_is_named_by_check_backup_and_doctor(installed, tmp_path, capsys) -> None:
    data = tmp_path / "data"
    await lived_in(installed, data)
    assert findings(capsys, data)["accounts"]["status"] == "ok"
    raw = bytearray((data / "accounts.db").read_bytes())
    raw[4096:] = bytes(len(raw) - 4096)
    (data / "accounts.db").write_bytes(raw)
    code, _, said = run(capsys, data, "db", "check")
    assert (code, "accounts.db" in said) == (7, True)
    assert run(capsys, data, "db", "backup", tmp_path / "saved")[0] == 7
    assert (found := findings(capsys, data)["accounts"])["status"] == "fail", found


async def test_a_newer_versions_accounts_are_left_alone(installed, tmp_path, capsys) -> None:
    data = tmp_path / "data"
    await lived_in(installed, data)
    with sqlite3.connect(data / "accounts.db") as connection:
        [(last,)] = connection.execute("SELECT max(number) FROM blyan_migration").fetchall()
        connection.execute(
            "INSERT INTO blyan_migration SELECT ?, 'x', sha256, applied_at FROM blyan_migration LIMIT 1", (last + 1,)
        )
    assert run(capsys, data, "db", "check")[0] == 7


async def test_books_in_postgres_are_migrated_checked_and_said_not_to_be_in_a_backup(
    installed, tmp_path, capsys, postgres_url: str
) -> None:
    data, saved, new = tmp_path / "data", tmp_path / "saved", tmp_path / "new"
    await asyncio.to_thread(shutil.copytree, installed, tmp_path / "early")
    (tmp_path / "early/node.toml").write_text(f'[ledger]\ndatabase = "{postgres_url}"\n')
    assert "001_ledger" in run(capsys, tmp_path / "early", "db", "migrate")[1]
    await lived_in(installed, data, postgres_url)
    assert run(capsys, data, "db", "check")[0] == 0
    code, out, _ = run(capsys, data, "ledger", "verify", "--json")
    assert (code, json.loads(out)["promised"], json.loads(out)["faults"]) == (0, 6, [])
    assert "PostgreSQL" in findings(capsys, data)["accounts"]["message"]
    code, _, said = run(capsys, data, "db", "backup", saved)
    assert (code, "the books are not in it" in said, (saved / "ledger.db").exists()) == (0, True, False)
    code, _, said = run(capsys, new, "db", "restore", saved)
    assert (code, "set ledger.database" in said) == (0, True)
    with_config = tmp_path / "again"
    with_config.mkdir()
    (with_config / "node.toml").write_text(f'[ledger]\ndatabase = "{postgres_url}"\n')
    assert run(capsys, with_config, "db", "restore", saved)[0] == 0


async def test_doctor_says_what_a_start_would_refuse(installed, tmp_path, capsys, postgres_url: str) -> None:
    data = tmp_path / "data"
    await lived_in(installed, data)
    (data / "ledger.db").rename(tmp_path / "away.db")
    found = findings(capsys, data)["accounts"]
    assert (found["status"], "expected the books there" in found["message"]) == ("fail", True)
    (data / "node.toml").write_text(f'[accounts]\norigin = "{ORIGIN}"\n[ledger]\ndatabase = "{postgres_url}"\n')
    found = findings(capsys, data)["accounts"]
    assert (found["status"], found["mend"]) == ("fail", "run `blyan db migrate`")
    (data / "node.toml").write_text("")
    assert "free and open" in findings(capsys, data)["accounts"]["message"]
