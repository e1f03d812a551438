"""`blyan account`: balances and statements of the node's books and of another node's, and credit by hand."""

import asyncio
import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from accounts import ORIGIN, SOURCES, Browser
from blyan.api.state import node_key
from blyan.cli.main import main
from nodes import serving_with
from wallets import new_key

WHO = new_key().address


def run(capsys: pytest.CaptureFixture[str], data: Path, *words: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code = main(["--data-dir", str(data), "account", *map(str, words)])
    except SystemExit as end:
        code = int(str(end.code))
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.fixture
async def data(installed: Path, tmp_path: Path) -> Path:
    """A node that ran once, so that it has books."""
    await asyncio.to_thread(shutil.copytree, installed, tmp_path / "data")
    (tmp_path / "data/node.toml").write_text(f'[accounts]\norigin = "{ORIGIN}"\n')
    async with serving_with(SOURCES, tmp_path / "data"):
        pass
    return tmp_path / "data"


async def test_credit_by_hand_is_done_once_for_a_key(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, data, "credit", WHO, "5.5", "--note", "welcome", "--key", "a", "--json")
    assert (code, json.loads(out)["balance"], json.loads(out)["replayed"]) == (0, "5.5", False)
    code, out, _ = run(capsys, data, "credit", WHO.lower(), "5.5", "--note", "welcome", "--key", "a")
    assert (code, "credited before" in out, "the balance is 5.5" in out) == (0, True, True)
    code, _, said = run(capsys, data, "credit", WHO, "6", "--key", "a")
    assert (code, "expected the request that it was first used for" in said) == (1, True)
    assert run(capsys, data, "credit", WHO, "0.00000001")[0] == 0
    code, out, _ = run(capsys, data, "balance", WHO)
    assert (code, out) == (0, "5.50000001 USD available: balance 5.50000001, held 0\n")
    assert "-5.50000001" in run(capsys, data, "balance", "operator:credit")[1]
    code, out, _ = run(capsys, data, "statement", WHO, "--json")
    assert [(each["amount"], each["note"]) for each in json.loads(out)["entries"]] == [
        ("0.00000001", ""),
        ("5.5", "welcome"),
    ]
    rows = list(csv.DictReader(io.StringIO(run(capsys, data, "statement", WHO, "--csv")[1])))
    assert [row["balance"] for row in rows] == ["5.50000001", "5.5"]


async def test_a_credit_that_was_a_mistake_is_reversed_once(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By a record of its own, as nothing in the books is changed; the export takes an address as people write it."""
    record = json.loads(run(capsys, data, "credit", WHO, "500", "--json")[1])["record"]
    code, out, _ = run(capsys, data, "reverse", str(record), "--note", "meant 5", "--json")
    moved = [[f"user:{WHO.lower()}", "-500"], ["operator:credit", "500"]]
    assert (code, json.loads(out)) == (0, {"record": record + 1, "reversed": record, "moved": moved})
    assert run(capsys, data, "balance", WHO)[1] == "0 USD available: balance 0, held 0\n"
    code, _, said = run(capsys, data, "reverse", str(record))
    assert (code, f"found record {record + 1}" in said) == (4, True)
    assert run(capsys, data, "reverse", str(record + 1))[0] == 4
    assert main(["ledger", "export", "--account", WHO, "--data-dir", str(data)]) == 0
    assert "meant 5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("credit", "operator:credit", "5"), 2),
        (("credit", WHO, "-5"), 2),
        (("credit", WHO, "0"), 2),
        (("credit", WHO, "1.000000001"), 2),
        (("credit", WHO, "1,5"), 2),
        (("credit", WHO, "1", "--note", "\u00e9"), 1),
        (("balance",), 2),
        (("balance", "user:nobody"), 3),
        (("statement", WHO, "--limit", "0"), 2),
        (("balance", WHO, "--node", "http://127.0.0.1:1"), 2),
        (("balance", "--node", "http://127.0.0.1:1"), 2),
    ],
)
async def test_what_cannot_be_is_refused(data: Path, capsys, words: tuple[str, ...], code: int) -> None:
    assert run(capsys, data, *words)[0] == code


async def test_a_credit_beside_a_running_node_is_seen_there_and_asked_for_with_a_key(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving_with(SOURCES, data) as client:
        browser = Browser(client)
        await browser.sign_in(new_key())
        wish = {"name": "books", "scopes": ["account"]}
        key = (await (await browser.ask("POST", "/auth/keys", wish)).json())["key"]
        assert (await asyncio.to_thread(run, capsys, data, "credit", WHO, "3", "--note", "n"))[0] == 0
        assert (await (await browser.ask("GET", "/account")).json())["balance"] == "3"
        file, url = tmp_path / "key", str(client.make_url("/"))
        file.write_text(key + "\n")
        asked = ("--node", url, "--api-key-file", file)
        code, _, said = await asyncio.to_thread(run, capsys, data, "balance", *asked)
        assert (code, "chmod 600" in said) == (4, True)
        file.chmod(0o600)
        code, out, _ = await asyncio.to_thread(run, capsys, data, "balance", *asked)
        assert (code, out) == (0, "3 USD available: balance 3, held 0\n")
        assert "n" in (await asyncio.to_thread(run, capsys, data, "statement", *asked))[1]
        code, out, _ = await asyncio.to_thread(run, capsys, data, "statement", "--csv", *asked)
        assert [row["balance"] for row in csv.DictReader(io.StringIO(out))] == ["3"]
        file.write_text(key[:-1] + ("A" if key[-1] != "A" else "B"))
        code, _, said = await asyncio.to_thread(run, capsys, data, "balance", *asked)
        assert (code, key[:-1] in said) == (4, False)
        books = client.server.app[node_key].books  # type: ignore[union-attr]
        await books.look_after()
        assert books.sizes.promised == books.sizes.records


async def test_a_key_is_sent_to_no_other_machine_in_the_clear(data: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "key"
    file.write_text("sk-blyan-" + "0" * 60)
    file.chmod(0o600)
    for url in ("http://example.org", "http://127.0.0.1.example.org", "ftp://127.0.0.1", "http://me:p@127.0.0.1", "x"):
        code, _, said = run(capsys, data, "balance", "--node", url, "--api-key-file", file)
        assert (code in (1, 4), "sk-blyan" in said) == (True, False), url
