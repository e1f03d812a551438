"""What an operator asks and tells a node that is in a swarm, with the command line, beside real nodes."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blyan.node.network_config import parse_join
from blyan.node.swarm_secret import read_swarm
from blyan.wire.peer import encode_code
from nodes import command, install_builtin, json_of
from running_node import RunningNode
from swarm_nodes import SECRET, eventually, part_of_builtin, swarm_of

pytestmark = pytest.mark.slow  # each command and each node is a process that starts

MODEL = "blyan-genesis"
KEY_DIGITS = 12


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningNode, RunningNode]]:
    """One that answers, with experts 0 to 4 and metrics; one with experts 3 to 7 and nothing else; and a link."""
    base = tmp_path_factory.mktemp("swarm")
    part_of_builtin(base / "gateway", lambda _, expert: expert < 5)
    part_of_builtin(base / "expert", lambda _, expert: expert >= 3, trunk=False)
    with swarm_of(base / "gateway", base / "expert", BLYAN_METRICS__LISTEN="127.0.0.1:0") as (gateway, expert):
        eventually(lambda: network(gateway)["linked"] == 1)
        yield gateway, expert


def network(node: RunningNode) -> Any:
    with urllib.request.urlopen(f"{node.url}/network/nodes", timeout=10) as answer:
        return json.load(answer)


def ask(node: RunningNode) -> str:
    done = command("chat", "12 + 34", "--temperature", "0", "--no-history", "--json", data_dir=node.data_dir)
    return json.loads(done.stdout)["content"]


def test_peers_says_what_each_was_asked_and_why(pair: tuple[RunningNode, RunningNode]) -> None:
    gateway, expert = pair
    assert ask(gateway) == "12 + 34 = 46"
    (peer,) = json_of("node", "peers", data_dir=gateway.data_dir)["peers"]
    assert peer["node"] == network(expert)["self"]["node"]
    assert peer["calls"] > 0 < peer["rows"]
    head, line = command("node", "peers", data_dir=gateway.data_dir).stdout.splitlines()
    assert head.split() == "NODE LINK RTT CALLS ROWS SHARE REPUTATION BREAKER HOLDS ROLES ADDRESS WHY".split()
    for words in (peer["node"][:KEY_DIGITS], "from it", " ms ", " 100% ", f"{MODEL} 20", "gateway", peer["urls"][0]):
        assert words in line
    assert line.endswith(peer["reason"]["text"])
    (back,) = json_of("node", "peers", data_dir=expert.data_dir)["peers"]
    assert (back["link"]["dialled"], back["calls"], back["share"]) == (True, 0, 0)


def test_status_says_what_of_a_model_is_here_and_who_is_there(pair: tuple[RunningNode, RunningNode]) -> None:
    gateway, expert = pair
    said = json_of("node", "status", data_dir=gateway.data_dir)["network"]
    assert (said["linked"], said["known"], said["draining"], said["swarm"]) == (1, 1, False, network(expert)["swarm"])
    text = command("node", "status", data_dir=gateway.data_dir).stdout
    for words in (said["urls"][0], "1 linked of 1 known", "20 of 32 experts here"):
        assert words in text
    assert "no live node holds" not in text


def test_invite_says_where_the_running_node_is_and_its_code(pair: tuple[RunningNode, RunningNode]) -> None:
    """And nothing but that on stdout; no new code while it runs."""
    gateway, _ = pair
    done = command("node", "invite", data_dir=gateway.data_dir)
    assert parse_join(done.stdout.strip()) == (network(gateway)["self"]["urls"][0], SECRET)
    assert "member" in done.stderr
    refused = command("node", "invite", "--rotate", data_dir=gateway.data_dir)
    assert (refused.returncode, refused.stdout) == (75, "")
    assert read_swarm(gateway.data_dir).secret == SECRET  # type: ignore[union-attr]


def test_drain_ends_when_no_call_is_under_way_and_peers_know(pair: tuple[RunningNode, RunningNode]) -> None:
    gateway, expert = pair
    done = command("node", "drain", "--json", data_dir=expert.data_dir)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"draining": True, "under_way": 0, "alone": 12})
    assert "12 experts are held by nobody else" in done.stderr
    line = command("node", "peers", data_dir=gateway.data_dir).stdout.splitlines()[1]
    assert "draining" in line.split("closed")[0]
    assert "asked only where no other has the expert" in line
    assert json_of("node", "drain", "--undo", data_dir=expert.data_dir)["draining"] is False
    eventually(lambda: not network(gateway)["peers"][0]["draining"])


def test_metrics_say_how_each_peer_does(pair: tuple[RunningNode, RunningNode]) -> None:
    """Both sides count the same calls."""
    gateway, expert = pair
    assert ask(gateway) == "12 + 34 = 46"
    here, there = gateway.metrics(), expert.metrics()
    peer = '{peer="' + network(expert)["self"]["node"][:KEY_DIGITS] + '"}'
    assert here[f"blyan_peer_link_up{peer}"] == here['blyan_peers{state="linked"}'] == 1
    assert here[f"blyan_peer_rows_total{peer}"] == there["blyan_hosted_rows_total"] > 0
    assert here["blyan_remote_calls_total"] == there['blyan_hosted_calls_total{outcome="answered"}'] > 0
    assert here[f"blyan_peer_calls_total{peer}"] == here["blyan_remote_calls_total"]
    assert here[f"blyan_peer_call_seconds_total{peer}"] > there["blyan_hosted_seconds_total"] > 0
    assert here[f"blyan_peer_rtt_seconds{peer}"] > 0
    assert 0 < here[f"blyan_peer_reputation{peer}"] <= 1
    assert here["blyan_experts_without_holder"] == here["blyan_peer_port_refused_total"] == 0


def test_experts_whose_last_holder_died_are_named(tmp_path: Path) -> None:
    """By status, peers and metrics, and why there is no link."""
    part_of_builtin(tmp_path / "gateway", lambda _, expert: expert < 7)
    part_of_builtin(tmp_path / "expert", lambda _, expert: expert == 7, trunk=False)
    with swarm_of(tmp_path / "gateway", tmp_path / "expert", BLYAN_METRICS__LISTEN="127.0.0.1:0") as (gateway, expert):
        eventually(lambda: network(gateway)["linked"] == 1)
        expert.kill()
        eventually(lambda: network(gateway)["models"][0]["nobody"] == 4)
        status = command("node", "status", data_dir=gateway.data_dir).stdout
        assert "4 experts that no live node holds: layer 0 expert 7, layer 1 expert 7" in status
        assert gateway.metrics()["blyan_experts_without_holder"] == 4
        eventually(lambda: network(gateway)["peers"][0]["why_not"] != "")
        line = command("node", "peers", data_dir=gateway.data_dir).stdout.splitlines()[1]
        assert "down" in line
        assert "no link to it is up: peer wss://127.0.0.1:" in line


def test_invite_before_the_start_is_the_configured_address_and_rotate_makes_another_code(tmp_path: Path) -> None:
    install_builtin(tmp_path)
    (tmp_path / "node.toml").write_text('[network]\nlisten = "127.0.0.1:8646"\n')
    first = json_of("node", "invite", data_dir=tmp_path)
    (join,) = first["join"]
    assert parse_join(join)[0] == "wss://127.0.0.1:8646"
    assert first["running"] is False
    assert json_of("node", "invite", data_dir=tmp_path) == first
    second = json_of("node", "invite", "--rotate", data_dir=tmp_path)
    assert second["swarm"] != first["swarm"]
    assert json_of("node", "invite", data_dir=tmp_path) == second


@pytest.mark.parametrize(
    ("toml", "arguments", "said"),
    [
        ('listen = "127.0.0.1:0"', [], "a port that can be told before the start"),
        ('listen = "127.0.0.1:8646"\njoin = ["wss://127.0.0.1:9#{code}"]', ["--rotate"], "a node that joins nobody"),
    ],
)
def test_what_cannot_be_invited_to_is_refused(tmp_path: Path, toml: str, arguments: list[str], said: str) -> None:
    install_builtin(tmp_path)
    (tmp_path / "node.toml").write_text(f"[network]\n{toml.replace('{code}', encode_code(SECRET))}\n")
    done = command("node", "invite", *arguments, data_dir=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
