"""What an operator asks and tells a node that is in a swarm, with the command line, beside real nodes."""

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blyan.node.network_config import parse_join
from blyan.node.swarm_secret import read_swarm
from nodes import command, install_builtin, json_of
from swarm_nodes import CODE, SECRET, Swarm, SwarmNode, part_of_builtin, room_for, wait_for

pytestmark = pytest.mark.slow  # each command and each node is a process that starts

MODEL = "blyan-genesis"
KEY_DIGITS = 12


def swarm(base: Path, first: int, other: int) -> Swarm:
    """One that answers, with the trunk and experts below `first`; one with those from `other`, that takes no more."""
    part_of_builtin(base / "gateway", lambda _, expert: expert < first, trunk=True)
    manifest = part_of_builtin(base / "expert", lambda _, expert: expert >= other, trunk=False)
    metrics = {"metrics__listen": "127.0.0.1:0"}
    gateway = SwarmNode(base / "gateway", **metrics)
    return Swarm(
        gateway, [SwarmNode(base / "expert", memory=room_for(base / "expert", manifest), **metrics)], direct=True
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SwarmNode, SwarmNode]]:
    """Experts 0 to 4 here, 3 to 7 there, and a link."""
    with swarm(tmp_path_factory.mktemp("swarm"), 5, 3) as made:
        wait_for(lambda: network(made.gateway)["peers"][0]["rtt_seconds"], "a ping")
        yield made.gateway, made.experts[0]


def network(node: SwarmNode) -> Any:
    with urllib.request.urlopen(f"{node.url}/network/nodes", timeout=10) as answer:
        return json.load(answer)


def ask(node: SwarmNode) -> str:
    done = command("chat", "12 + 34", "--temperature", "0", "--no-history", "--json", data_dir=node.data_dir)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["content"]


def test_chat_says_that_other_nodes_took_part(pair: tuple[SwarmNode, SwarmNode]) -> None:
    """On stderr, or in the JSON; where all experts are here nothing is said."""
    gateway, _ = pair
    done = command("chat", "12 + 34", "--temperature", "0", "--no-history", data_dir=gateway.data_dir)
    assert "plan dynamic, with experts at other nodes" in done.stderr.splitlines()
    assert done.stdout == "12 + 34 = 46\n"
    said = json_of("chat", "12 + 34", "--temperature", "0", "--no-history", data_dir=gateway.data_dir)
    assert said["computed"] == {"plan": "dynamic", "nodes": []}


def test_peers_says_what_each_was_asked_and_why(pair: tuple[SwarmNode, SwarmNode]) -> None:
    gateway, expert = pair
    assert ask(gateway) == "12 + 34 = 46"
    (peer,) = json_of("node", "peers", data_dir=gateway.data_dir)["peers"]
    assert peer["node"] == network(expert)["self"]["node"]
    assert peer["calls"] > 0 < peer["rows"]
    assert peer["rows_per_s"] > 0 < peer["expert_bytes"]
    assert peer["bytes_per_s"] is None or peer["bytes_per_s"] > 0  # such small calls tell nothing of it
    head, line = command("node", "peers", data_dir=gateway.data_dir).stdout.splitlines()
    assert (
        head.split()
        == "NODE LINK RTT CALLS ROWS ROWS/S MB/S MEMORY SHARE REPUTATION BREAKER HOLDS ROLES ADDRESS WHY".split()
    )
    for words in (
        peer["node"][:KEY_DIGITS],
        "from it",
        " ms ",
        " 100% ",
        f"{MODEL} 20",
        " MB ",
        " expert ",
        peer["urls"][0],
    ):
        assert words in line
    assert line.endswith(peer["reason"]["text"])
    (back,) = json_of("node", "peers", data_dir=expert.data_dir)["peers"]
    assert (back["link"]["dialled"], back["calls"], back["share"]) == (True, 0, 0)


def test_model_plan_says_how_fast_the_running_node_should_answer(pair: tuple[SwarmNode, SwarmNode]) -> None:
    """Once it has answered; without a node that runs nothing is said, and nothing is guessed."""
    gateway, _ = pair
    assert ask(gateway) == "12 + 34 = 46"
    asked = ["model", "plan", MODEL, "--prompt-tokens", "20", "--tokens", "12"]
    said = json_of(*asked, data_dir=gateway.data_dir)
    dynamic = next(each for each in said["predictions"] if each["plan"] == "dynamic")
    assert (said["chosen"], said["request"]["prompt_tokens"], dynamic["not_measured"]) == ("dynamic", 20, [])
    shown = command(*asked, data_dir=gateway.data_dir).stdout
    assert "a prompt of 20 tokens and an answer of 12:" in shown
    assert f"not possible: {12} experts are not here" in shown
    (line,) = [each for each in shown.splitlines() if each.startswith("dynamic ")]
    assert re.fullmatch(r"[1-9]\d*\.\d", line.split()[1]), "what is measured changes from one look to the next"
    assert dynamic["tokens_per_s"] > 1
    assert "12 experts from 1 other node" in line
    assert "plan local: not possible, 12 of 32 experts are not here" in shown
    assert (said["plan"], said["experts_here"], said["experts"], said["trunk_here"]) == (None, 20, 32, True)
    assert command("model", "plan", MODEL, "--tokens", "0", data_dir=gateway.data_dir).returncode == 2


def test_status_says_what_of_a_model_is_here_and_who_is_there(pair: tuple[SwarmNode, SwarmNode]) -> None:
    gateway, expert = pair
    said = json_of("node", "status", data_dir=gateway.data_dir)["network"]
    assert (said["linked"], said["known"], said["draining"], said["swarm"]) == (1, 1, False, network(expert)["swarm"])
    text = command("node", "status", data_dir=gateway.data_dir).stdout
    for words in (said["urls"][0], "1 linked of 1 known", "nothing under way", "20 of 32 experts here"):
        assert words in text
    assert "no live node holds" not in text


def test_invite_says_where_the_running_node_is_and_its_code(pair: tuple[SwarmNode, SwarmNode]) -> None:
    """And nothing but that on stdout; no new code while it runs."""
    gateway, _ = pair
    done = command("node", "invite", data_dir=gateway.data_dir)
    assert parse_join(done.stdout.strip()) == (network(gateway)["self"]["urls"][0], SECRET)
    assert "member" in done.stderr
    refused = command("node", "invite", "--rotate", data_dir=gateway.data_dir)
    assert (refused.returncode, refused.stdout) == (75, "")
    assert read_swarm(gateway.data_dir).secret == SECRET  # type: ignore[union-attr]


def test_drain_ends_when_no_call_is_under_way_and_peers_know(pair: tuple[SwarmNode, SwarmNode]) -> None:
    gateway, expert = pair
    done = command("node", "drain", "--json", data_dir=expert.data_dir)
    said = json.loads(done.stdout)
    assert not any(said.pop("left").values())
    assert (done.returncode, said) == (0, {"draining": True, "under_way": 0, "alone": 12})
    assert "12 experts are held by nobody else" in done.stderr
    line = command("node", "peers", data_dir=gateway.data_dir).stdout.splitlines()[1]
    assert "draining" in line.split("closed")[0]
    assert "asked only where no other has the expert" in line
    assert json_of("node", "drain", "--undo", data_dir=expert.data_dir)["draining"] is False
    wait_for(lambda: not network(gateway)["peers"][0]["draining"], "it to be told")


def test_metrics_say_how_each_peer_does(pair: tuple[SwarmNode, SwarmNode]) -> None:
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
    assert here[f"blyan_peer_rows_per_second{peer}"] > 0 < here[f"blyan_peer_expert_bytes{peer}"]
    assert 0 < here[f"blyan_peer_reputation{peer}"] <= 1
    assert here["blyan_experts_without_holder"] == here["blyan_peer_port_refused_total"] == 0


def test_experts_whose_last_holder_died_are_named(tmp_path: Path) -> None:
    """By status, peers and metrics, and why there is no link."""
    with swarm(tmp_path, 7, 7) as made:
        gateway, expert = made.gateway, made.experts[0]
        expert.kill()
        wait_for(lambda: network(gateway)["models"][0]["nobody"] == 4, "nobody to have 4")
        status = command("node", "status", data_dir=gateway.data_dir).stdout
        assert "4 experts that no live node holds: layer 0 expert 7, layer 1 expert 7" in status
        assert gateway.metrics()["blyan_experts_without_holder"] == 4
        wait_for(lambda: network(gateway)["peers"][0]["why_not"] != "", "a reason")
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
    (tmp_path / "node.toml").write_text(f"[network]\n{toml.replace('{code}', CODE)}\n")
    done = command("node", "invite", *arguments, data_dir=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
