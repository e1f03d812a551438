"""`blyan wallet`: made, brought and shown; what is secret is neither shown nor an argument."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from eth_account import Account

from blyan.cli.main import main
from blyan.node import wallet_file
from wallets import new_key

KEY = new_key(9)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's folder of its own, and cheap encryption."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    encrypt = wallet_file.write_wallet
    monkeypatch.setattr(
        "blyan.cli.wallet.write_wallet", lambda path, secret, words: encrypt(path, secret, words, work=2)
    )


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words"
    path.write_text("my words\n")
    path.chmod(0o600)
    return path


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_a_new_wallet_lies_encrypted_in_the_users_folder(
    tmp_path: Path, words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["wallet", "new", "--passphrase-file", str(words)]) == 0
    made = capsys.readouterr()
    assert "copy that file" in made.err
    path = tmp_path / "blyan" / "wallet.json"
    secret = bytes(Account.decrypt(json.loads(path.read_text()), "my words"))
    assert Account.from_key(secret).address == made.out.strip()
    assert secret.hex() not in made.out + made.err
    assert main(["wallet", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"address": made.out.strip(), "file": str(path)}
    assert main(["wallet", "show"]) == 0
    shown = capsys.readouterr()
    assert (shown.out, str(path) in shown.err) == (made.out, True), "$(blyan wallet show) is the address alone"
    before = path.read_bytes()
    assert main(["wallet", "new", "--passphrase-file", str(words)]) == 1
    assert path.read_bytes() == before


def test_a_key_is_brought_by_stdin_or_by_a_keystore(
    tmp_path: Path, words: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, f"0x{bytes(KEY.key).hex()}\n")
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert main(["wallet", "import", "--file", one, "--passphrase-file", str(words)]) == 0
    assert main(["wallet", "import", one, "--file", two, "--passphrase-file", str(words)]) == 0
    said = capsys.readouterr()
    assert said.out.split() == [KEY.address, KEY.address]
    assert bytes(KEY.key).hex() not in said.out + said.err
    assert main(["wallet", "show", "--file", two]) == 0
    typed(monkeypatch, "0x12\n")
    assert main(["wallet", "import", "--file", str(tmp_path / "three"), "--passphrase-file", str(words)]) == 1


def test_mistakes_have_their_exit_codes(
    tmp_path: Path, words: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["wallet", "show"]) == 3
    assert "wallet new" in capsys.readouterr().err
    typed(monkeypatch, "")
    assert main(["wallet", "new"]) == 75  # nobody there to type a passphrase
    words.chmod(0o644)
    assert main(["wallet", "new", "--passphrase-file", str(words)]) == 4
    words.chmod(0o600)
    words.write_bytes(b"\xff")
    assert main(["wallet", "new", "--passphrase-file", str(words)]) == 1
    assert not (tmp_path / "blyan" / "wallet.json").exists()
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.delenv("HOME")
    assert main(["wallet", "show"]) == 2
