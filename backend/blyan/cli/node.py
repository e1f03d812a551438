"""`blyan node status`: is the node that runs here able to serve, and what; the rest of the group is `node_swarm`."""

from __future__ import annotations

import argparse
import json
from typing import Any
from urllib.parse import urlencode

from blyan.cli import node_swarm
from blyan.cli.output import Output, byte_size, table
from blyan.node import probe
from blyan.node.data_directory import lock_holder
from blyan.primitives.errors import PeerFault
from blyan.wire.fields import as_dict, as_list

_named_max = 4


def add_commands(verbs: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register the group."""
    group = verbs.add_parser("node", parents=[common, readable], help="the running node, and others")
    commands = group.add_subparsers(metavar="VERB", required=True)
    status = commands.add_parser("status", parents=[common, readable], help="is it ready, and which models it serves")
    status.add_argument("--node", metavar="URL", help="default: the node of the data directory")
    status.set_defaults(run=_status)
    node_swarm.add_commands(commands, common, readable)


def _status(options: argparse.Namespace, output: Output) -> int:
    holder, url = lock_holder(options.data_dir), node_swarm.node_url(options)
    ready, listed = _object(url, "/readyz?verbose"), _object(url, "/v1/models")
    if ready is None or listed is None:
        raise PeerFault(f"node {url}: expected its state, found no answer that is one")
    models = [
        {"name": each.get("id"), "state": (as_dict(each.get("blyan")) or {}).get("state")}
        for each in map(as_dict, as_list(listed.get("data")) or [])
        if each is not None
    ]
    memory = _expert_memory(url, [str(each["name"]) for each in models if each["state"] == "ready"])
    pid = (holder or {}).get("pid") if options.node is None else None
    accounts = (_object(url, "/auth/session") or {}).get("accounts") is not False
    network = _network(url)
    value = {"url": url, "pid": pid, "accounts": accounts, **ready, "models": models, "expert_memory": memory}
    value["network"] = network
    well = ready.get("ready") is True
    rows = [
        ["node", f"{url}" + (f", process {pid}" if pid is not None else "")],
        ["ready", "yes" if well else "no"],
        ["answers", "for accounts, at the prices of `blyan price show`" if accounts else "free: no accounts"],
        *([f"check {name}", str(said)] for name, said in (as_dict(ready.get("checks")) or {}).items()),
        *([f"model {each['name']}", str(each["state"])] for each in models),
        *([["experts in memory", _said_of(memory)]] if memory else []),
        *(_network_rows(network) if network else []),
        *(["found at start", str(said)] for said in as_list(ready.get("found_at_start")) or []),
    ]
    output.data(value, table(rows))
    return 0 if well else node_swarm.try_again


def _network(url: str) -> dict[str, Any] | None:
    """The swarm in short; None where the node has no peer port."""
    found = _object(url, "/network/nodes") or {}
    own = as_dict(found.get("self"))
    if own is None:
        return None
    said = {name: found.get(name) for name in ("swarm", "known", "linked", "models", "unreached", "redis")}
    return {**said, **{name: own.get(name) for name in ("urls", "draining", "under_way", "left")}}


def _network_rows(network: dict[str, Any]) -> list[list[str]]:
    rows = [
        ["swarm", str(network["swarm"]) + (", draining" if network["draining"] else "")],
        ["peer port", " ".join(map(str, as_list(network["urls"]) or [])) or "for operators to see"],
        ["peers", f"{network['linked']} linked of {network['known']} known"],
        ["for peers", f"{node_swarm.under_way(network)} under way"],
        ["news of nodes", node_swarm.way_of_news(network)],
    ]
    for each in map(as_dict, as_list(network["models"]) or []):
        if each is None:
            continue
        name = str(each.get("model") or each.get("manifest"))
        if each.get("here") != each.get("experts") or not each.get("trunk"):
            trunk = "" if each.get("trunk") else ", nothing else of it"
            rows.append([f"part of {name}", f"{each.get('here')} of {each.get('experts')} experts here{trunk}"])
        if each.get("nobody"):
            pairs = [as_list(pair) or ["?", "?"] for pair in (as_list(each.get("missing")) or [])[:_named_max]]
            named = ", ".join(f"layer {layer} expert {expert}" for layer, expert in pairs)
            more = ", …" if each["nobody"] > len(pairs) else ""
            rows.append([f"nobody has of {name}", f"{each['nobody']} experts that no live node holds: {named}{more}"])
    return rows


def _expert_memory(url: str, ready: list[str]) -> dict[str, Any] | None:
    """How the budget of experts is used: the node's, so one model's answer says it."""
    found = _object(url, "/network/experts?" + urlencode({"model": ready[0]})) if ready else None
    return as_dict((found or {}).get("expert_memory"))


def _said_of(memory: dict[str, Any]) -> str:
    hot, warm, cold = (as_dict(memory.get(tier)) or {} for tier in ("hot", "warm", "cold"))
    calls = sum(int(tier.get("calls", 0)) for tier in (hot, warm, cold))
    share = f", which answered {hot.get('calls', 0) / calls:.0%} of {calls} calls" if calls else ""
    budget, held = int(memory.get("budget", 0)), int(hot.get("bytes", 0))
    return f"{byte_size(held)} of {byte_size(budget)} in {hot.get('experts', 0)} hot experts{share}"


def _object(url: str, path: str) -> dict[str, Any] | None:
    _, body = probe.get(url, path)
    try:
        return as_dict(json.loads(body))
    except (ValueError, RecursionError):
        return None
