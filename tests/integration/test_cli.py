"""The command line, typed as a user would: data on stdout, progress on stderr, exit codes as documented."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import command, json_of, running


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "my-model"
    save_random_checkpoint(folder, vocab_size=260)
    save_byte_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    data_dir = tmp_path_factory.mktemp("cli-data") / "deep" / "data"
    done = command("model", "import", checkpoint, data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    return data_dir


def test_import_names_the_model_after_its_folder_and_lists_it(imported: Path) -> None:
    """stdout is data: a table for people, JSON on request."""
    table = command("model", "list", data_dir=imported)
    assert table.stdout.splitlines()[1].split()[:3] == ["my-model", "1.0.0", "qwen3_moe"]
    (value,) = json_of("model", "list", data_dir=imported)
    assert (value["name"], value["dtype"]) == ("my-model", "F32")
    assert value["parameters"] > value["active_parameters"]


@pytest.mark.parametrize("place", ["before", "between", "after", "environment"])
def test_the_data_directory_may_be_named_before_or_after_the_verb(imported: Path, place: str) -> None:
    """And by the environment."""
    assert json.loads(command("--json", "model", "list", data_dir=imported).stdout)
    flag = ["--data-dir", str(imported)]
    arguments = {
        "before": [*flag, "chain", "status"],
        "between": ["chain", *flag, "status"],
        "after": ["chain", "status", *flag],
        "environment": ["chain", "status"],
    }[place]
    done = command(*arguments, BLYAN_DATA_DIR=str(imported) if place == "environment" else "/nonexistent")
    assert done.returncode == 0, done.stderr
    assert "parameter" in done.stdout


def test_chains_verify_and_a_flipped_bit_in_an_entry_exits_7(imported: Path, tmp_path: Path) -> None:
    """Status and verify agree on sizes and roots; damage names the file."""
    status = {
        chain["chain"]: chain
        for chain in json.loads(command("chain", "status", "--json", data_dir=imported).stdout)["chains"]
    }
    reports = {
        report["chain"]: report for report in json.loads(command("chain", "verify", "--json", data_dir=imported).stdout)
    }
    for name in ("meta", "parameter", "dataset"):
        assert (status[name]["size"], status[name]["root"]) == (reports[name]["size"], reports[name]["root"])
        assert reports[name]["signatures"] == reports[name]["size"]
    assert status["dataset"]["size"] == 0
    (bundle,) = (imported / "chain/parameter/tile/entries").rglob("*.p/*")
    good = bundle.read_bytes()
    bundle.write_bytes(good[:50] + bytes([good[50] ^ 1]) + good[51:])
    damaged = command("chain", "verify", data_dir=imported)
    bundle.write_bytes(good)
    assert damaged.returncode == 7
    assert "chain/parameter" in damaged.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "COMMAND"),
        (["fly"], 2, "invalid choice"),
        (["model"], 2, "VERB"),
        (["model", "verify"], 2, "expected NAME or --all, found neither"),
        (["model", "verify", "none"], 3, "expected one of my-model"),
        (["model", "import", "/nonexistent"], 3, "expected /nonexistent/config.json, found none"),
        (["chat", "hi", "--model", "none"], 3, "found no such model"),
        (["chat", "hi", "--node", "http://127.0.0.1:1"], 6, "try: start it there with `blyan up`"),
        (["chat", "hi", "--node", "ftp://x"], 2, "expected an http URL"),
        (["chat", "hi", "--temperature", "hot"], 2, "--temperature: temperature: expected a number, found 'hot'"),
        (["chat", "hi", "--max-tokens", "0"], 2, "expected 1 to"),
        (["up", "--listen", "foo"], 2, "expected HOST:PORT"),
        (["up", "--listen", ""], 2, "expected HOST:PORT"),
        (["up", "--listen", "0.0.0.0:1"], 4, "expected a loopback address"),
    ],
)
def test_mistakes_have_their_exit_code_and_words(imported: Path, arguments: list[str], code: int, words: str) -> None:
    """Nothing on stdout, what was expected and found on stderr."""
    done = command(*arguments, data_dir=imported)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_reading_where_nothing_is_says_how_to_begin(tmp_path: Path) -> None:
    """Exit 3 and the command that helps; nothing is created."""
    for arguments in (["model", "list"], ["chain", "status"], ["model", "verify", "--all"]):
        done = command(*arguments, data_dir=tmp_path / "nothing")
        assert done.returncode == 3
        assert "blyan init" in done.stderr
    assert not (tmp_path / "nothing").exists()


def test_errors_are_json_too_when_json_was_asked_for(imported: Path) -> None:
    """A program sees code, message and hint."""
    done = command("model", "verify", "none", "--json", data_dir=imported)
    assert json.loads(done.stdout)["error"]["code"] == "not_found"


def test_an_import_that_is_refused_writes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    """The field and its value are named before the data directory exists."""
    shutil.copytree(checkpoint, tmp_path / "bad")
    config = json.loads((tmp_path / "bad/config.json").read_text())
    (tmp_path / "bad/config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    done = command("model", "import", tmp_path / "bad", data_dir=tmp_path / "data")
    assert done.returncode == 1
    assert "hidden_act: expected \"silu\", found 'gelu'" in done.stderr
    assert not (tmp_path / "data").exists()


def test_every_version_of_a_model_is_verified(checkpoint: Path, tmp_path: Path) -> None:
    """A flipped bit in a block of an older version exits 7 too."""
    first = json_of("model", "import", checkpoint, data_dir=tmp_path / "d")
    manifest = json.loads((tmp_path / "d/blobs" / first["manifest"][:2] / first["manifest"]).read_text())
    save_random_checkpoint(tmp_path / "other", vocab_size=260, seed=8)
    json_of("model", "import", tmp_path / "other", "--name", "my-model", data_dir=tmp_path / "d")
    payload = manifest["parts"]["layer.1.expert.0"]["payload"]
    path = tmp_path / "d/blobs" / payload[:2] / payload
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(raw)
    done = command("model", "verify", "--all", data_dir=tmp_path / "d")
    assert done.returncode == 7
    assert "my-model 1.0.0 layer.1.expert.0" in done.stderr


def test_chains_without_their_key_get_no_new_one(imported: Path) -> None:
    """Exit 7 and what to do; the folder stays as it is."""
    key = imported / "keys/node.key"
    key.rename(imported / "aside")
    done = command("init", data_dir=imported)
    assert (done.returncode, key.exists()) == (7, False)
    assert "the key of the chains there" in done.stderr
    (imported / "aside").rename(key)


@pytest.mark.slow
def test_importing_again_changes_nothing_and_another_model_raises_the_version(checkpoint: Path, tmp_path: Path) -> None:
    """Same bytes: same manifest, no new entry. Other bytes under the same name: 1.1.0."""
    first = json_of("model", "import", checkpoint, data_dir=tmp_path / "d")
    before = command("chain", "status", data_dir=tmp_path / "d").stdout
    again = json_of("model", "import", checkpoint, data_dir=tmp_path / "d")
    assert (again["changed"], again["manifest"]) == (False, first["manifest"])
    assert command("chain", "status", data_dir=tmp_path / "d").stdout == before
    save_random_checkpoint(tmp_path / "other", vocab_size=260, seed=8)
    other = command("model", "import", tmp_path / "other", "--name", "my-model", "--json", data_dir=tmp_path / "d")
    assert json.loads(other.stdout)["version"] == "1.1.0"
    assert command("chain", "verify", data_dir=tmp_path / "d").returncode == 0


@pytest.mark.slow
def test_a_second_node_on_the_same_folder_waits_its_turn(imported: Path, checkpoint: Path) -> None:
    """75 with the process that holds it; readers need no lock; chat uses the running node."""
    with running(imported) as node:
        for arguments in (["up", "--listen", "127.0.0.1:0"], ["model", "import", checkpoint], ["init"]):
            done = command(*arguments, data_dir=imported)
            assert done.returncode == 75, done.stderr
            assert str(node.pid) in done.stderr
        assert command("model", "verify", "--all", data_dir=imported).returncode == 0
        asked = command("chat", "hello", data_dir=imported)
        assert asked.returncode == 0, asked.stderr
        assert node.stop() == 0
    assert command("model", "import", checkpoint, data_dir=imported).returncode == 0


def test_a_killed_node_leaves_nothing_that_stops_the_next(imported: Path) -> None:
    """Real SIGKILL: the lock goes with the process."""
    with running(imported) as node:
        os.kill(node.pid, signal.SIGKILL)
        node.kill()
    with running(imported) as node:
        assert node.stop() == 0


def test_keys_are_for_the_owner_alone(imported: Path) -> None:
    """0600 in a 0700 folder, and a key others can read is refused."""
    key = imported / "keys/node.key"
    assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    key.chmod(0o644)
    done = command("chain", "status", data_dir=imported)
    key.chmod(0o600)
    assert done.returncode == 4
    assert "expected mode 0600, found 0644" in done.stderr


def test_a_closed_pipe_is_no_crash(imported: Path) -> None:
    """`blyan … | head -1` ends quietly."""
    done = subprocess.run(
        f"{sys.executable} -m blyan model list --data-dir {imported} | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr


def test_listing_and_chain_commands_do_not_load_torch(imported: Path) -> None:
    """Importing torch takes longer than everything else these commands do."""
    script = (
        "import sys; from blyan.cli.main import main; "
        "codes = [main([*verb.split(), '--data-dir', sys.argv[1]]) for verb in "
        "('model list', 'model verify --all', 'chain status', 'chain verify')]; "
        "sys.exit(codes != [0] * 4 or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(imported)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
