"""`blyan node status`: is the node that runs here able to serve, and what."""

from __future__ import annotations

import argparse
import json
from typing import Any
from urllib.parse import urlencode

from blyan.cli.output import Output, byte_size, table
from blyan.node import probe
from blyan.node.data_directory import lock_holder
from blyan.primitives.errors import PeerFault, UsageMistake
from blyan.wire.fields import as_dict, as_list

_try_again = 75  # exit code, docs/cli.md


def add_commands(verbs: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register the group."""
    group = verbs.add_parser("node", parents=[common, readable], help="the running node")
    commands = group.add_subparsers(metavar="VERB", required=True)
    status = commands.add_parser("status", parents=[common, readable], help="is it ready, and which models it serves")
    status.add_argument("--node", metavar="URL", help="default: the node of the data directory")
    status.set_defaults(run=_status)


def _status(options: argparse.Namespace, output: Output) -> int:
    holder = lock_holder(options.data_dir)
    url = options.node or (holder or {}).get("url")
    if options.node is not None and not options.node.startswith(("http://", "https://")):
        raise UsageMistake(f"--node: expected an http URL, found {options.node!r}")
    if not url:
        raise PeerFault(f"node of {options.data_dir}: expected one that runs, found none", hint="blyan up")
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
    value = {"url": url, "pid": pid, "accounts": accounts, **ready, "models": models, "expert_memory": memory}
    well = ready.get("ready") is True
    rows = [
        ["node", f"{url}" + (f", process {pid}" if pid is not None else "")],
        ["ready", "yes" if well else "no"],
        ["answers", "for accounts, at the prices of `blyan price show`" if accounts else "free: no accounts"],
        *([f"check {name}", str(said)] for name, said in (as_dict(ready.get("checks")) or {}).items()),
        *([f"model {each['name']}", str(each["state"])] for each in models),
        *([["experts in memory", _said_of(memory)]] if memory else []),
        *(["found at start", str(said)] for said in as_list(ready.get("found_at_start")) or []),
    ]
    output.data(value, table(rows))
    return 0 if well else _try_again


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
