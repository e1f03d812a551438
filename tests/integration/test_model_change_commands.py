"""`blyan model create|copy|remove|pull`, without a node and beside one that runs."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import command, import_into, json_of, running

MODELFILE = 'FROM base\nSYSTEM Be brief.\nPARAMETER num_predict 3\nPARAMETER temperature 0\nMESSAGE user "a\nb"\n'


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    save_random_checkpoint(tmp_path / "theirs", vocab_size=260)
    save_byte_tokenizer(tmp_path / "theirs")
    import_into(tmp_path / "data", tmp_path / "theirs", "base")
    (tmp_path / "data" / "node.toml").write_text(f'[models]\ndirectories = ["{tmp_path}"]\n')
    (tmp_path / "Modelfile").write_text(MODELFILE)
    return tmp_path / "data"


def offered(data_dir: Path) -> dict[str, str]:
    return {model["name"]: model["version"] for model in json_of("model", "list", data_dir=data_dir)}


def change_models(data_dir: Path) -> None:
    """The same commands either way."""
    modelfile = data_dir.parent / "Modelfile"
    made = json_of("model", "create", "mine", "-f", modelfile, data_dir=data_dir)
    assert (made["name"], made["version"]) == ("mine", "1.0.0")
    assert json_of("model", "copy", "mine", "twin", data_dir=data_dir)["name"] == "twin"
    assert json_of("model", "pull", "theirs", data_dir=data_dir)["version"] == "1.0.0"
    assert offered(data_dir) == dict.fromkeys(("base", "mine", "theirs", "twin"), "1.0.0")
    asked = json_of("model", "remove", "twin", "--dry-run", data_dir=data_dir)
    assert (asked["removed"], asked["bytes_freed"]) == (False, 0), "its blocks are the other models' too"
    assert "twin" in offered(data_dir)
    assert json_of("model", "remove", "twin", "--yes", data_dir=data_dir)["removed"] is True
    assert offered(data_dir) == dict.fromkeys(("base", "mine", "theirs"), "1.0.0")


def refuse_what_is_not_there(data_dir: Path) -> None:
    """With the exit codes of the tree of faults, which the node's answers carry."""
    for arguments, code, said in (
        (("remove", "mine"), 2, "expected --yes or --dry-run, found neither"),
        (("remove", "nobody", "--yes"), 3, "found no such model"),
        (("copy", "nobody", "x"), 3, "nobody"),
        (("pull", "nobody"), 3, "found it in none"),
        (("create", "x", "-f", data_dir / "none"), 3, "expected a file, found none"),
        (("create", "x", "-f", data_dir), 1, "expected UTF-8 text"),
    ):
        done = command("model", *arguments, data_dir=data_dir)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    (data_dir.parent / "wrong").write_text("FROM base\nTEMPLATE {{ .Prompt }}{{ .Tools }}\n")
    done = command("model", "create", "x", "-f", data_dir.parent / "wrong", data_dir=data_dir)
    assert (done.returncode, ".Tools" in done.stderr, "in Jinja" in done.stderr) == (1, True, True), done.stderr


@pytest.mark.slow
def test_models_are_changed_without_a_node(data_dir: Path) -> None:
    """The next start brings no removed model back, and what they alone needed can be swept."""
    change_models(data_dir)
    for name in offered(data_dir):
        assert command("model", "remove", name, "--yes", data_dir=data_dir).returncode == 0
    swept = json_of("blob", "sweep", "--yes", data_dir=data_dir)
    assert swept
    assert list((data_dir / "blobs").glob("??/*")) == []
    with running(data_dir):
        pass
    assert offered(data_dir) == {}
    assert command("chain", "verify", data_dir=data_dir).returncode == 0


@pytest.mark.slow
def test_models_are_changed_beside_a_running_node(data_dir: Path) -> None:
    """By the node, which serves them at once."""
    with running(data_dir) as node:
        change_models(data_dir)
        refuse_what_is_not_there(data_dir)
        with urllib.request.urlopen(f"{node.url}/api/tags", timeout=10) as answer:
            names = [model["name"] for model in json.loads(answer.read())["models"]]
        assert names == ["base:latest", "mine:latest", "theirs:latest"]
        answer = command("chat", "hello", "--model", "mine", "--node", node.url)
        assert answer.returncode == 0, answer.stderr
        assert len(answer.stdout.encode()) <= 3 * 4 + 1, "three tokens, as the Modelfile says"


@pytest.mark.slow
def test_a_model_is_pulled_from_a_node_that_the_command_names(data_dir: Path, tmp_path: Path) -> None:
    """With the key that is trusted; without a node and beside one; whoever else signed is refused."""
    key = json_of("chain", "status", data_dir=data_dir)["sequencer"]
    ours = tmp_path / "ours"
    assert command("init", data_dir=ours).returncode == 0
    with running(data_dir) as theirs:
        pulled = json_of("model", "pull", "base", "--from", theirs.url, "--trust", key, data_dir=ours)
        assert (pulled["name"], pulled["version"]) == ("base", "1.0.0")
        for arguments, code, said in (
            (("--from", theirs.url), 2, "expected --trust KEY with each --from URL that names no key, found none"),
            (("--trust", key), 2, "found no such URL"),
            (("--from", theirs.url + "#12"), 1, "--from: expected http://HOST:PORT#KEY"),
            (("--from", theirs.url, "--trust", "ab" * 32), 6, f"found signed by {key}"),
            (("--from", "http://127.0.0.1:9", "--trust", key), 6, "127.0.0.1:9"),
        ):
            done = command("model", "pull", "base", *arguments, data_dir=ours)
            assert (done.returncode, said in done.stderr) == (code, True), done.stderr
        done = command("model", "pull", "nobody", "--from", f"{theirs.url}#{key}", data_dir=ours)
        assert (done.returncode, "found it in none" in done.stderr) == (3, True), done.stderr
        assert command("model", "remove", "base", "--yes", data_dir=ours).returncode == 0
        with running(ours) as node:
            again = json_of("model", "pull", "base", "--from", f"{theirs.url}#{key}", data_dir=ours)
            assert again["name"] == "base"
            answer = command("chat", "hello", "--model", "base", "--max-tokens", "2", "--node", node.url)
            assert answer.returncode == 0, answer.stderr
