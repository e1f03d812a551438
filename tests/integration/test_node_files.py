"""The files of a node from the command line: keys, rotation, backup, archives, schema, unclean ends, sweeping."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from blyan.node.writer import left_unclean, marker_name
from nodes import command, json_of, writing
from scenarios import data_of

pytestmark = pytest.mark.slow  # dozens of commands, each a process

SCHEMA_0 = Path(__file__).resolve().parent.parent / "fixtures" / "schema0"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files") / "data"
    assert command("init", data_dir=folder).returncode == 0
    return folder


@pytest.fixture
def data_dir(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


def secret(folder: Path, text: str) -> dict[str, str]:
    path = folder / f"secret-{text}"
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return {"BLYAN_KEYS__PASSPHRASE_FILE": str(path)}


def test_a_key_under_a_passphrase_needs_it_to_write_and_not_to_read(data_dir: Path, tmp_path: Path) -> None:
    """The seed is nowhere in the folder; a wrong passphrase and none are refused."""
    seed = json.loads((data_dir / "keys/node.key").read_text())["seed"]
    right, wrong = secret(tmp_path, "right"), secret(tmp_path, "wrong")
    assert command("keys", "encrypt", data_dir=data_dir, **right).returncode == 0
    assert json_of("keys", "show", data_dir=data_dir)["encrypted"] is True
    held = b"".join(path.read_bytes() for path in (data_dir / "keys").iterdir())
    assert seed.encode() not in held and bytes.fromhex(seed) not in held
    assert command("chain", "verify", data_dir=data_dir).returncode == 0
    none = command("chain", "snapshot", data_dir=data_dir)
    assert (none.returncode, "expected a passphrase" in none.stderr) == (4, True)
    other = command("chain", "snapshot", data_dir=data_dir, **wrong)
    assert (other.returncode, "found another" in other.stderr) == (4, True)
    assert command("chain", "snapshot", data_dir=data_dir, **right).returncode == 0
    assert command("keys", "decrypt", data_dir=data_dir, **right).returncode == 0
    assert json.loads((data_dir / "keys/node.key").read_text())["seed"] == seed


def test_a_rotated_key_writes_and_the_old_one_never_again(data_dir: Path) -> None:
    """The chain verifies from its beginning; the old key put back is refused."""
    old = (data_dir / "keys/node.key").read_bytes()
    assert command("keys", "rotate", data_dir=data_dir).returncode == 2
    turned = json_of("keys", "rotate", "--yes", data_dir=data_dir)
    shown = json_of("keys", "show", data_dir=data_dir)
    assert (shown["public"], shown["former"], shown["may_write"]) == (turned["new"], [turned["old"]], True)
    assert command("chain", "verify", data_dir=data_dir).returncode == 0
    assert command("chain", "snapshot", data_dir=data_dir).returncode == 0
    (data_dir / "keys/node.key").write_bytes(old)
    refused = command("chain", "snapshot", data_dir=data_dir)
    assert refused.returncode == 4
    assert turned["new"] in refused.stderr


def test_a_backup_comes_back_whole_and_goes_on(data_dir: Path, tmp_path: Path) -> None:
    """Made twice it copies what is new; restored it verifies, serves and writes."""
    first = json_of("db", "backup", tmp_path / "backup", data_dir=data_dir)
    assert first["copied"] == first["blobs"] == 40
    command("chain", "snapshot", data_dir=data_dir)
    assert json_of("db", "backup", tmp_path / "backup", data_dir=data_dir)["copied"] == 1
    shutil.rmtree(data_dir)
    assert command("db", "restore", tmp_path / "backup", data_dir=data_dir).returncode == 0
    assert command("db", "check", "--deep", data_dir=data_dir).returncode == 0
    assert command("model", "verify", "--all", data_dir=data_dir).returncode == 0
    assert command("keys", "rotate", "--yes", data_dir=data_dir).returncode == 0
    again = command("db", "restore", tmp_path / "backup", data_dir=data_dir)
    assert (again.returncode, "absent or empty" in again.stderr) == (1, True)


def test_damaged_chains_of_a_backup_are_named_and_open_nothing(data_dir: Path, tmp_path: Path) -> None:
    """The half-made folder says so, and the same restore from a good backup begins anew."""
    backup, target = tmp_path / "backup", tmp_path / "new"
    command("db", "backup", backup, data_dir=data_dir)
    victim = backup / "chains.archive"
    good = victim.read_bytes()
    victim.write_bytes(good[:-40] + bytes([good[-40] ^ 1]) + good[-39:])
    refused = command("db", "restore", backup, data_dir=target)
    assert (refused.returncode, str(victim) in refused.stderr) == (7, True)
    opened = command("chain", "status", data_dir=target)
    assert (opened.returncode, "restore" in opened.stderr) == (75, True)
    victim.write_bytes(good)
    assert command("db", "restore", backup, data_dir=target).returncode == 0
    assert command("db", "check", "--deep", data_dir=target).returncode == 0


def test_a_damaged_block_of_a_backup_is_named_and_the_rest_is_there(data_dir: Path, tmp_path: Path) -> None:
    """`db check` names it too, and a backup that is whole again brings all of it."""
    backup = tmp_path / "backup"
    command("db", "backup", backup, data_dir=data_dir)
    victim = next(path for path in sorted(backup.glob("blobs/*/*")) if path.stat().st_size > 10_000)
    good = victim.read_bytes()
    victim.chmod(0o644)
    victim.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    partly = command("db", "restore", backup, data_dir=tmp_path / "new")
    assert (partly.returncode, str(victim) in partly.stderr) == (7, True)
    assert command("chain", "verify", data_dir=tmp_path / "new").returncode == 0
    checked = command("db", "check", data_dir=tmp_path / "new")
    assert (checked.returncode, victim.name in checked.stderr) == (7, True)
    victim.write_bytes(good)
    assert command("db", "restore", backup, data_dir=tmp_path / "whole").returncode == 0


def test_a_backup_without_keys_can_be_read_and_not_written(data_dir: Path, tmp_path: Path) -> None:
    """It gets no key of its own."""
    command("db", "backup", tmp_path / "backup", "--without-keys", data_dir=data_dir)
    assert not (tmp_path / "backup/keys").exists()
    assert command("db", "restore", tmp_path / "backup", data_dir=tmp_path / "new").returncode == 0
    refused = command("chain", "snapshot", data_dir=tmp_path / "new")
    assert refused.returncode in (3, 7)


def test_chains_go_from_node_to_node_and_are_joined_from_a_snapshot(data_dir: Path, tmp_path: Path) -> None:
    """The one who joins holds what it needs, says what it lacks, and is filled later."""
    command("chain", "snapshot", data_dir=data_dir)
    for name, options in (("full", ()), ("recent", ("--from-snapshot",))):
        assert command("chain", "export", tmp_path / name, *options, data_dir=data_dir).returncode == 0
    joined = tmp_path / "joined"
    assert command("chain", "import", tmp_path / "recent", data_dir=joined).returncode == 0
    ours, theirs = json_of("chain", "status", data_dir=joined), json_of("chain", "status", data_dir=data_dir)
    assert (ours["network"], ours["chains"], ours["state"]) == (theirs["network"], theirs["chains"], theirs["state"])
    assert command("chain", "verify", data_dir=joined).returncode == 0
    refused = command("keys", "rotate", "--yes", data_dir=joined)
    assert (refused.returncode, "reads the chains of another" in refused.stderr) == (4, True)
    assert command("chain", "import", tmp_path / "full", data_dir=joined).returncode == 0
    assert command("chain", "verify", data_dir=joined).returncode == 0
    damaged = bytearray((tmp_path / "full").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "bad").write_bytes(damaged)
    refused = command("chain", "import", tmp_path / "bad", data_dir=tmp_path / "other")
    assert (refused.returncode, str(tmp_path / "bad") in refused.stderr) == (7, True)


def test_a_directory_of_schema_0_is_read_by_nobody_and_migrated_by_a_writer(tmp_path: Path) -> None:
    """Every entry and block is there afterwards."""
    folder = tmp_path / "old"
    shutil.copytree(SCHEMA_0, folder)
    (folder / "keys/node.key").chmod(0o600)
    early = command("chain", "status", data_dir=folder)
    assert (early.returncode, "db migrate" in early.stderr) == (75, True)
    assert json_of("db", "migrate", data_dir=folder)["before"] == 0
    assert json_of("db", "migrate", data_dir=folder)["before"] == 1
    assert command("chain", "verify", data_dir=folder).returncode == 0
    assert command("db", "check", "--deep", data_dir=folder).returncode == 0
    assert command("model", "verify", "--all", data_dir=folder).returncode == 0
    assert command("chain", "snapshot", data_dir=folder).returncode == 0


def test_a_newer_schema_is_refused(data_dir: Path) -> None:
    """To read and to write, and nothing changes."""
    (data_dir / "SCHEMA").write_text('{"schema":2}')
    for verb in (("chain", "status"), ("chain", "snapshot"), ("db", "migrate")):
        refused = command(*verb, data_dir=data_dir)
        assert (refused.returncode != 0, "expected schema 1, found 2" in refused.stderr) == (True, True)


def test_an_unclean_end_is_noticed_said_and_cleared_up(data_dir: Path) -> None:
    """A process that was killed while it wrote."""
    source = (
        "import sys, time; from pathlib import Path; from nodes import writing\n"
        "with writing(Path(sys.argv[1])): print('open', flush=True); time.sleep(60)"
    )
    folder = str(Path(__file__).resolve().parent.parent)
    child = subprocess.Popen(
        [sys.executable, "-c", source, data_dir], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": folder}
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"open\n"
    second = command("chain", "snapshot", data_dir=data_dir)
    assert (second.returncode, f"process {child.pid}" in second.stderr) == (75, True)
    assert left_unclean(data_dir) is None, "somebody writes"
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    (data_dir / "blobs/.tmp-1-half").write_bytes(b"half")
    assert left_unclean(data_dir) is not None
    done = command("chain", "snapshot", data_dir=data_dir)
    assert done.returncode == 0
    assert "did not end cleanly" in done.stderr
    assert not (data_dir / "blobs/.tmp-1-half").exists()
    assert not (data_dir / marker_name).exists()
    assert "did not end cleanly" not in command("chain", "snapshot", data_dir=data_dir).stderr


def test_a_sweep_takes_what_nothing_needs(data_dir: Path) -> None:
    """Never without being told to, and never what a model, a pin or the state needs."""
    with writing(data_dir) as ground:
        lost, kept = (ground.store.put([data_of(name, 5_000)]).payload for name in ("lost", "kept"))
    assert command("blob", "pin", kept, "--why", "mine", data_dir=data_dir).returncode == 0
    assert command("blob", "sweep", data_dir=data_dir).returncode == 2
    planned = json_of("blob", "sweep", "--dry-run", data_dir=data_dir)
    assert [each["payload"] for each in planned["removed"]] == [lost]
    assert json_of("blob", "usage", data_dir=data_dir)["blobs"] == 42
    json_of("blob", "sweep", "--yes", data_dir=data_dir)
    assert json_of("blob", "usage", data_dir=data_dir)["blobs"] == 41
    assert command("blob", "verify", "--all", data_dir=data_dir).returncode == 0
    assert command("blob", "unpin", kept, data_dir=data_dir).returncode == 0
    assert [each["payload"] for each in json_of("blob", "sweep", "--yes", data_dir=data_dir)["removed"]] == [kept]
    assert command("model", "verify", "--all", data_dir=data_dir).returncode == 0


def test_entries_are_found_on_the_command_line(data_dir: Path) -> None:
    """By what they say and by id, with an index and without."""
    for _ in range(2):
        found = json_of("chain", "find", "--model", "blyan-genesis", "--layer", "1", "--expert", "2", data_dir=data_dir)
        assert [(each["chain"], each["entry"]["body"]["expert"]) for each in found] == [("parameter", 2)]
        assert json_of("chain", "find", found[0]["id"], data_dir=data_dir) == found
        assert command("db", "rebuild", data_dir=data_dir).returncode == 0
    assert command("chain", "find", "0" * 64, data_dir=data_dir).returncode == 3


@pytest.mark.parametrize("removed", [False, True])
def test_a_damaged_snapshot_stops_nothing_and_is_made_again(data_dir: Path, removed: bool) -> None:
    """It is derived where every entry is held: said by `verify`, made again by `db rebuild`."""
    payload = json_of("chain", "snapshot", data_dir=data_dir)["root"]
    path = data_dir / "blobs" / payload[:2] / payload
    whole = path.read_bytes()
    path.chmod(0o644)
    if removed:
        path.unlink()
    else:
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    for verb in (("chain", "status"), ("model", "list"), ("chain", "find", "--limit", "3")):
        assert command(*verb, data_dir=data_dir).returncode == 0
    verified = command("chain", "verify", data_dir=data_dir)
    assert verified.returncode == 7
    assert payload in verified.stderr
    assert "db rebuild" in verified.stderr
    checked = command("db", "check", data_dir=data_dir)
    assert checked.returncode == 7
    assert "snapshot of the state" in checked.stderr
    assert command("init", data_dir=data_dir).returncode == 0
    assert json_of("db", "rebuild", data_dir=data_dir)["snapshot"] is True
    assert path.read_bytes() == whole
    assert command("chain", "verify", data_dir=data_dir).returncode == 0
    assert json_of("db", "rebuild", data_dir=data_dir)["snapshot"] is False
