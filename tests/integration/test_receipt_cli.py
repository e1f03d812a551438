"""`blyan receipt`: shown and verified from files alone, with the exit codes of docs/cli.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from blyan.cli.main import main
from blyan.cli.receipt import private_bytes
from blyan.inference.receipt import output_bytes
from nodes import command, json_of
from receipts import CHOICES, ID, KEY, NEXT, REQUEST, SALT, paid


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A receipt, what opens it, and a checkpoint."""
    found = tmp_path_factory.mktemp("receipts")
    network, file = paid(found / "network")
    network.store.close()
    for name, raw in {
        "receipt": file.encode(),
        "request": REQUEST,
        "output": output_bytes(CHOICES),
        "private": private_bytes(SALT, REQUEST, output_bytes(CHOICES)),
        "joint": network.chains.joint.encode(),
        "damaged": file.encode().replace(b'"charged":"1980"', b'"charged":"1981"'),
    }.items():
        (found / name).write_bytes(raw)
    return found


def verified(folder: Path, *options: str | Path) -> dict:
    return json_of("receipt", "verify", folder / "receipt", *options, data_dir=folder / "none")


def states(found: dict) -> dict[str, str]:
    return {each["name"]: each["state"] for each in found["checks"]}


def test_a_receipt_is_shown_in_amounts_for_people(folder: Path) -> None:
    shown = command("receipt", "show", folder / "receipt")
    assert shown.returncode == 0
    assert "2023-11-14 22:13:20 UTC" in shown.stdout
    assert ID in shown.stdout and "0.0000198 USD" in shown.stdout and "12 in, 30 out" in shown.stdout
    assert json_of("receipt", "show", folder / "receipt", data_dir=folder)["charged"] == "1980"


def test_what_is_no_receipt_is_named_with_its_file(folder: Path) -> None:
    (folder / "x.private").write_text("{}")
    shown = command("receipt", "show", folder / "x.private")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert f"{folder / 'x.private'}: expected a receipt" in shown.stderr and "opens the digests" in shown.stderr


def test_a_receipt_verifies_without_a_node(folder: Path) -> None:
    found = verified(folder)
    assert found["verified"] and found["id"] == ID
    assert {name for name, state in states(found).items() if state != "ok"} == {"origin", "known", "request", "output"}
    said = command("receipt", "verify", folder / "receipt").stdout
    assert "12 checks hold; not made: origin, known, request, output" in said


def test_with_what_its_user_knows_every_check_is_made(folder: Path) -> None:
    opened = ("--request", folder / "request", "--output", folder / "output", "--salt", SALT.hex())
    public = ("--origin", KEY.public, "--checkpoint", folder / "joint")
    for options in ((*opened, *public), ("--private", folder / "private", *public)):
        found = verified(folder, *options)
        assert found["verified"] and set(states(found).values()) == {"ok"}


def test_what_fails_is_named_with_exit_code_7(folder: Path) -> None:
    done = command("receipt", "verify", folder / "damaged")
    assert done.returncode == 7
    assert "FAILED: signature, cost, amount" in done.stdout
    other = command("receipt", "verify", folder / "receipt", "--origin", NEXT.public)
    assert (other.returncode, "FAILED: origin" in other.stdout) == (7, True)
    none = command("receipt", "verify", folder / "request")
    assert (none.returncode, "FAILED: file" in none.stdout) == (7, True)


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (3, "verify nowhere"),
        (1, "show request"),
        (2, "verify receipt --salt 12"),
        (2, "verify receipt --origin 12"),
        (2, "verify receipt --output output"),
        (2, f"verify receipt --private private --salt {SALT.hex()}"),
        (1, "verify receipt --private request"),
        (1, "verify receipt --private damaged"),
        (1, "verify receipt --private output"),
    ],
)
def test_mistakes_have_their_exit_codes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int, arguments: str
) -> None:
    monkeypatch.chdir(folder)
    try:
        found = main(["receipt", *arguments.split()])
    except SystemExit as ended:  # argparse
        found = ended.code
    assert (found, "expected" in capsys.readouterr().err) == (code, True)
