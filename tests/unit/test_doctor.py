"""`blyan doctor`: each thing that can be wrong is found, and what it says to do mends it."""

import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from blyan.chain.entries import Entry
from blyan.node import doctor
from blyan.node.data_directory import lock, open_ground
from blyan.node.doctor import Finding, examine
from blyan.node.indexing import rebuild
from blyan.node.model_changes import remove_model
from blyan.node.verified import remember_verified
from blyan.primitives import limits
from nodes import install_builtin, writing

NOW = 2_000_000_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor")
    manifest = install_builtin(folder / "data")
    rebuild(folder / "data", open_ground(folder / "data").chains).close()
    remember_verified(folder / "data", manifest, NOW)
    (folder / "data/node.toml").write_text('[http]\nlisten = "127.0.0.1:0"\n')
    return folder / "data"


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "data"))


def found(folder: Path, now: int = NOW) -> dict[str, Finding]:
    return {each.name: each for each in examine(folder, lambda: now)}


def test_a_healthy_directory_is_ok_in_everything(data: Path) -> None:
    """And nothing in it is touched, but one file that the index's library writes anew as it was."""

    def listing() -> dict[Path, tuple[int, bytes]]:
        files = [each for each in data.rglob("*") if each.is_file()]
        return {each: (each.stat().st_mtime_ns * (each.name not in rewritten), each.read_bytes()) for each in files}

    rewritten = {"rocksdict-config.json"}
    before = listing()
    findings = found(data)
    assert {each.name: each.status for each in findings.values() if each.status != "ok"} == {}
    assert listing() == before
    assert {"python", "torch", "disk", "key", "chains", "index", "blobs", "models", "port"} <= findings.keys()


def test_a_directory_that_is_not_there_is_a_warning_and_is_not_made(tmp_path: Path) -> None:
    """With the command that makes it."""
    findings = found(tmp_path / "none")
    assert (findings["data directory"].status, findings["data directory"].mend) == (
        "warn",
        f"blyan init --data-dir {tmp_path / 'none'}",
    )
    assert not (tmp_path / "none").exists()


def loose_key(data: Path) -> None:
    (data / "keys/node.key").chmod(0o644)


def loose_keys_folder(data: Path) -> None:
    (data / "keys").chmod(0o755)


def open_to_all(data: Path) -> None:
    data.chmod(0o777)


def bad_setting(data: Path) -> None:
    (data / "node.toml").write_text("[compute]\nthread = 1\n")


def too_many_threads(data: Path) -> None:
    (data / "node.toml").write_text("[compute]\nthreads = 1024\n")


def left_writing(data: Path) -> None:
    (data / "WRITING").touch()


def flipped_entry(data: Path) -> None:
    (bundle,) = (data / "chain/parameter/tile/entries").rglob("*.p/*")
    raw = bytearray(bundle.read_bytes())
    raw[50] ^= 1
    bundle.write_bytes(raw)


def flipped_hash(data: Path) -> None:
    (tile,) = (data / "chain/parameter/tile/0").rglob("*.p/*")
    raw = bytearray(tile.read_bytes())
    raw[0] ^= 1
    tile.write_bytes(raw)


def lost_blob(data: Path) -> None:
    max((each for each in (data / "blobs").rglob("?" * 64)), key=lambda each: each.stat().st_size).unlink()


def damaged_index(data: Path) -> None:
    (data / "index/CURRENT").write_text("nonsense")


def touched_block(data: Path) -> None:
    for each in (data / "blobs").rglob("?" * 64):
        os.utime(each, (NOW + 9, NOW + 9))


@pytest.mark.parametrize(
    ("damage", "name", "status", "integrity", "mend"),
    [
        (loose_key, "key", "fail", False, "chmod 600"),
        (loose_keys_folder, "keys folder", "warn", False, "chmod 700"),
        (open_to_all, "data directory", "warn", False, "chmod go-w"),
        (bad_setting, "configuration", "fail", False, "blyan config check"),
        (too_many_threads, "processors", "warn", False, "set compute.threads"),
        (left_writing, "last end", "warn", False, "blyan up"),
        (flipped_entry, "chains", "fail", True, "db"),
        (flipped_hash, "chains", "fail", True, "db"),
        (lost_blob, "blobs", "fail", True, "blyan init"),
        (damaged_index, "index", "fail", True, "db rebuild"),
        (touched_block, "models", "warn", False, "model verify"),
    ],
)
def test_what_is_wrong_is_found_with_what_to_do(
    data: Path, damage: Callable[[Path], None], name: str, status: str, integrity: bool, mend: str
) -> None:
    """Under its own name, as serious as it is."""
    damage(data)
    finding = found(data)[name]
    assert (finding.status, finding.integrity) == (status, integrity), finding
    assert mend in (finding.mend or "")


def test_a_signature_that_is_none_is_found_though_the_chains_open(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes and promises are as they should be: only verifying every entry shows it."""
    with monkeypatch.context() as forging, writing(data) as ground:
        forging.setattr(Entry, "signed", lambda entry, _key: replace(entry, signature=b"\x01" * 64))
        remove_model(ground, "blyan-genesis")
    assert not open_ground(data).chains.state.models, "opened as if nothing were wrong"
    finding = found(data)["chains"]
    assert (finding.status, finding.integrity) == ("fail", True), finding


def test_a_clock_that_is_wrong_is_found(data: Path) -> None:
    """Before this version, and before the newest checkpoint: entries would be refused."""
    assert found(data, now=1_000_000_000)["clock"].status == "fail"
    assert found(data, now=1_600_000_000)["clock and chains"].status == "fail"


def test_a_port_that_another_has_is_found(data: Path) -> None:
    """Nobody is asked to stop what answers there."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        (data / "node.toml").write_text(f'[http]\nlisten = "127.0.0.1:{port}"\n')
        finding = found(data)["port"]
    assert (finding.status, "--listen" in (finding.mend or "")) == ("fail", True)
    assert found(data)["port"].status == "ok"


def test_who_holds_the_directory_is_said(data: Path) -> None:
    """A process at work is no fault."""
    with lock(data):
        finding = found(data)["lock"]
    assert (finding.status, "process" in finding.message) == ("ok", True)


def test_a_model_larger_than_memory_and_a_full_disk_are_warned_of(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the bytes of its blocks against what the kernel says."""
    monkeypatch.setattr(doctor, "memory", lambda: (limits.GIB, 1_000))
    assert "quantize" in (found(data)["models"].mend or "")
    (data / "node.toml").write_text(f"[storage]\nfree_bytes_min = {1 << 50}\n")
    assert found(data)["disk"].status == "fail"
