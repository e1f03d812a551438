"""An import that is killed goes on where it stopped: real SIGKILL, and every way a journal can be wrong."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from blyan.model.manifest import BlockReference
from blyan.node.import_journal import ImportJournal
from blyan.primitives.ids import PayloadId
from checkpoints import save_byte_tokenizer, save_random_checkpoint
from forked import nursery
from nodes import command, json_of

BLOCK = BlockReference(PayloadId("ab" * 32), 4096)
SUBJECT = {"folder": "/x", "shards": {"a": [1]}}


def journal(folder: Path, **changes: str) -> ImportJournal:
    return ImportJournal(folder, "m", SUBJECT | changes)


def test_a_journal_says_what_was_recorded_and_goes_at_the_end(tmp_path: Path) -> None:
    """Over any number of interruptions."""
    for number in range(3):
        with journal(tmp_path) as held:
            assert list(held.done) == [f"layer.{n}" for n in range(number)]
            held.record(f"layer.{number}", BLOCK)
    with journal(tmp_path) as held:
        assert held.done == {f"layer.{n}": BLOCK for n in range(3)}
        held.remove()
    assert not list((tmp_path / "import").iterdir())


def test_a_journal_of_another_import_is_not_used(tmp_path: Path) -> None:
    """Another option, another state of a shard: everything is read again."""
    with journal(tmp_path) as held:
        held.record("embed", BLOCK)
    with journal(tmp_path, quantization="int8") as held:
        assert held.done == {}
    with journal(tmp_path) as held:
        assert held.done == {}


@pytest.mark.parametrize("end", [b"", b'{"bytes":4096,"part":"lay', b"\xff\xfe\n", b"[]\n", b'{"part":1}\n', b"\n\n\n"])
def test_a_torn_or_foreign_line_is_work_done_twice(tmp_path: Path, end: bytes) -> None:
    """And what is recorded after it is read again."""
    with journal(tmp_path) as held:
        held.record("embed", BLOCK)
    with held.path.open("ab") as file:
        file.write(end)
    with journal(tmp_path) as held:
        assert held.done == {"embed": BLOCK}
        held.record("head", BLOCK)
    with journal(tmp_path) as held:
        assert held.done == {"embed": BLOCK, "head": BLOCK}


def test_a_journal_is_not_written_through_a_link(tmp_path: Path) -> None:
    """What is planted there stays as it is."""
    (tmp_path / "import").mkdir()
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (tmp_path / "import/m.journal").symlink_to(tmp_path / "elsewhere")
    with journal(tmp_path) as held:
        held.record("embed", BLOCK)
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"


def killed_half_way(data_dir: Path, checkpoint: Path, *options: str) -> int:
    """Import in a process of its own and kill it when some parts are recorded; how many were."""
    importing = nursery().begin(["model", "import", str(checkpoint), "--data-dir", str(data_dir), *options])
    path = data_dir / "import" / f"{checkpoint.name}.journal"
    for _ in range(4_000):
        if path.exists() and path.read_bytes().count(b'"part"') >= 20:
            break
        assert importing.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    importing.kill()
    importing.wait()
    assert path.exists(), "killed after its end"
    return path.read_bytes().count(b'"part"')


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--quantize", "int8")])
def test_a_killed_import_goes_on_and_ends_as_if_nothing_had_happened(tmp_path: Path, options: tuple[str, ...]) -> None:
    """The stored parts are not read again, and the model is the very same."""
    save_random_checkpoint(tmp_path / "hf", hidden_size=256, moe_intermediate_size=512, num_experts=24)
    data_dir = tmp_path / "data"
    recorded = killed_half_way(data_dir, tmp_path / "hf", *options)
    written = {path: path.stat().st_ino for path in data_dir.glob("blobs/??/*")}
    done = json_of("model", "import", tmp_path / "hf", *options, data_dir=data_dir)
    assert done["resumed_parts"] >= min(recorded, 20)
    assert all(path.stat().st_ino == inode for path, inode in written.items() if path.suffix != ".tiles")
    assert command("model", "verify", "--all", data_dir=data_dir).returncode == 0
    assert not list((data_dir / "import").iterdir())
    fresh = json_of("model", "import", tmp_path / "hf", *options, data_dir=tmp_path / "fresh")
    assert fresh["bytes"] == done["bytes"]
    if not options:
        assert fresh["manifest"] == done["manifest"]


@pytest.mark.slow
def test_a_shard_that_changed_is_read_again(tmp_path: Path) -> None:
    """Though its name and size are the same."""
    save_random_checkpoint(tmp_path / "hf", hidden_size=256, moe_intermediate_size=512, num_experts=24)
    killed_half_way(tmp_path / "data", tmp_path / "hf")
    save_random_checkpoint(tmp_path / "hf", seed=3, hidden_size=256, moe_intermediate_size=512, num_experts=24)
    done = json_of("model", "import", tmp_path / "hf", data_dir=tmp_path / "data")
    assert done["resumed_parts"] == 0
    assert done["manifest"] == json_of("model", "import", tmp_path / "hf", data_dir=tmp_path / "fresh")["manifest"]


@pytest.mark.slow
def test_a_tokenizer_that_changed_begins_the_import_again(tmp_path: Path) -> None:
    """The shards are the same: what was stored is found equal, and the published tokenizer is the new one."""
    save_random_checkpoint(tmp_path / "hf", hidden_size=256, moe_intermediate_size=512, num_experts=24, vocab_size=260)
    save_byte_tokenizer(tmp_path / "hf")
    killed_half_way(tmp_path / "data", tmp_path / "hf", "--quantize", "int8")
    save_byte_tokenizer(tmp_path / "hf", template="{{ messages[0].content }}")
    done = json_of("model", "import", tmp_path / "hf", "--quantize", "int8", data_dir=tmp_path / "data")
    assert done["resumed_parts"] == 0
    assert command("model", "export", "hf", tmp_path / "out", data_dir=tmp_path / "data").returncode == 0
    assert "messages[0].content }}" in "".join(
        path.read_text() for path in sorted((tmp_path / "out").glob("*")) if path.suffix in {".json", ".jinja"}
    )


@pytest.mark.slow
def test_a_block_damaged_between_the_runs_is_stored_again(tmp_path: Path) -> None:
    """An unclean end makes the next start hash what is new, and what it finds is not resumed."""
    save_random_checkpoint(tmp_path / "hf", hidden_size=256, moe_intermediate_size=512, num_experts=24)
    data_dir = tmp_path / "data"
    killed_half_way(data_dir, tmp_path / "hf")
    lines = (data_dir / "import/hf.journal").read_text().splitlines()
    payload = json.loads(next(line for line in lines if '"part"' in line))["payload"]
    path = data_dir / "blobs" / payload[:2] / payload
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    assert command("model", "import", tmp_path / "hf", data_dir=data_dir).returncode == 0
    verified = command("model", "verify", "--all", data_dir=data_dir)
    assert verified.returncode == 0, verified.stdout


@pytest.mark.slow
def test_a_block_that_is_gone_is_stored_again(tmp_path: Path) -> None:
    """The journal says it was; the store says it is not."""
    save_random_checkpoint(tmp_path / "hf", hidden_size=256, moe_intermediate_size=512, num_experts=24)
    data_dir = tmp_path / "data"
    killed_half_way(data_dir, tmp_path / "hf")
    lines = (data_dir / "import/hf.journal").read_text().splitlines()
    payload = json.loads(next(line for line in lines if '"part"' in line))["payload"]
    (data_dir / "blobs" / payload[:2] / payload).unlink()
    assert command("model", "import", tmp_path / "hf", data_dir=data_dir).returncode == 0
    assert command("model", "verify", "--all", data_dir=data_dir).returncode == 0
