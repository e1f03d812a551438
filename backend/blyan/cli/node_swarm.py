"""`blyan node invite|peers|moves|drain`: the swarm that the node here is in."""

from __future__ import annotations

import argparse
import time
from typing import Any, Final
from urllib.parse import urlencode

from blyan.cli.node_client import asked
from blyan.cli.output import Output, duration, table
from blyan.node.config import NodeConfig, read_config
from blyan.node.data_directory import lock, lock_holder
from blyan.node.peer_addresses import announced
from blyan.node.schema import want_present
from blyan.node.swarm_secret import read_swarm, swarm_of, write_swarm
from blyan.primitives import limits
from blyan.primitives.clock import system_entropy, system_monotonic
from blyan.primitives.errors import InvalidInput, NotFound, PeerFault, Unavailable, UsageMistake
from blyan.wire.fields import as_dict, as_list
from blyan.wire.peer import encode_code, secret_bytes

try_again: Final = 75  # exit code, docs/cli.md
_drain_seconds: Final = 60.0
_look_seconds: Final = 0.5
_told_seconds: Final = 1.0  # in which peers that were told stop asking
_no_port = "start the node with `blyan serve`, or set network.listen to HOST:PORT, such as 0.0.0.0:8646"


def add_commands(commands: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register the verbs of the group `node` that are about others."""
    parents = [common, readable]
    invite = commands.add_parser("invite", parents=parents, help="what others join this node's swarm with")
    invite.add_argument("--rotate", action="store_true", help="a new code: whoever has the old one is out")
    invite.set_defaults(run=_invite)
    peers = commands.add_parser("peers", parents=parents, help="the nodes it knows, and why they get what they get")
    peers.add_argument("--node", metavar="URL", help="default: the node of the data directory")
    peers.add_argument("--key-file", metavar="FILE", help="with an operator's API key, to see addresses")
    peers.set_defaults(run=_peers)
    moves = commands.add_parser("moves", parents=parents, help="which experts came and went, when, and why")
    moves.add_argument("--node", metavar="URL", action="append", help="several times for several nodes in one trace")
    moves.add_argument("--model", metavar="NAME", help="of one model; default: of all")
    moves.add_argument("--latest", metavar="N", type=int, default=limits.moves_shown, help="of each node (%(default)s)")
    moves.set_defaults(run=_moves)
    drain = commands.add_parser("drain", parents=parents, help="be asked by peers only for what nobody else has")
    drain.add_argument("--undo", action="store_true", help="be asked as before")
    drain.add_argument("--key-file", metavar="FILE", help="with an operator's API key, for a node with accounts")
    drain.set_defaults(run=_drain)


def node_url(options: argparse.Namespace) -> str:
    """Where the node is that a command asks: the one that is named, or the one of the data directory."""
    named = getattr(options, "node", None)
    if named is not None and not named.startswith(("http://", "https://")):
        raise UsageMistake(f"--node: expected an http URL, found {named!r}")
    url = named or (lock_holder(options.data_dir) or {}).get("url")
    if not url:
        raise PeerFault(f"node of {options.data_dir}: expected one that runs, found none", hint="blyan serve")
    return str(url).rstrip("/")


def _invite(options: argparse.Namespace, output: Output) -> int:
    config = read_config(options.data_dir)
    want_present(config.data_dir)
    holder = lock_holder(config.data_dir)
    running = _running_urls(holder) if holder and holder.get("url") else []
    if not running and config.network.address is None:
        raise NotFound("network.listen: expected where peers reach this node, found none", hint=_no_port)
    if options.rotate:
        _rotate(config)
    urls = running or _configured_urls(config)
    swarm = read_swarm(config.data_dir)
    if swarm is None:
        with lock(config.data_dir):
            swarm = swarm_of(config.data_dir, config.network.joins, system_entropy)
    joins = [f"{url}#{encode_code(swarm.secret)}" for url in urls]
    output.note("whoever has this is a member of the swarm: give it to nodes that you trust")
    output.data({"join": joins, "swarm": swarm.tag, "running": holder is not None}, "\n".join(joins))
    return 0


def _rotate(config: NodeConfig) -> None:
    """Another secret for a node that does not run; those that joined it are told theirs by whoever runs them."""
    if lock_holder(config.data_dir) is not None:
        raise Unavailable(
            f"node of {config.data_dir}: expected it stopped, found it running", hint="stop it, then rotate the code"
        )
    if config.network.joins:
        raise InvalidInput(
            "network.join: expected a node that joins nobody, found one that does",
            hint="rotate the code on the node that it joins, and write the new one there",
        )
    with lock(config.data_dir):
        write_swarm(config.data_dir, system_entropy(secret_bytes))


def _running_urls(holder: dict[str, Any]) -> list[str]:
    """Where the node that runs says that its peer port is; nothing where it says that to operators alone."""
    own = as_dict(network_of(str(holder["url"])).get("self")) or {}
    said = [str(url) for url in as_list(own.get("urls")) or []]
    found = [url for url in said if url.startswith("wss://")]
    if said and not found:
        raise NotFound(
            "node: expected an address that others can dial, found one that is reached through relays alone",
            hint="`blyan node invite` on a node with a peer port of its own: the code is the same",
        )
    return found


def _configured_urls(config: NodeConfig) -> list[str]:
    address = config.network.address
    assert address is not None, "looked at before"
    if config.network.announce:
        return list(config.network.announce)
    if address[1] == 0:
        raise InvalidInput(
            "network.listen: expected a port that can be told before the start, found 0",
            hint="name a port there, or ask while the node runs",
        )
    return [announced(*address)]


def _peers(options: argparse.Namespace, output: Output) -> int:
    found = network_of(node_url(options), options.key_file)
    peers = [each for each in map(as_dict, as_list(found.get("peers")) or []) if each is not None]
    head = "NODE LINK RTT CALLS ROWS ROWS/S MB/S MEMORY SHARE REPUTATION BREAKER HOLDS ROLES ADDRESS WHY".split()
    text = table([head, *(_line(each) for each in peers)]) if peers else "no other node is known"
    for each in map(as_dict, as_list(found.get("unreached")) or []):
        output.note(f"{(each or {}).get('url')} is not reached: {(each or {}).get('why')}")
    output.note(f"news of nodes: {way_of_news(found)}")
    output.data(found, text)
    return 0


def _moves(options: argparse.Namespace, output: Output) -> int:
    query = {"latest": options.latest} | ({} if options.model is None else {"model": options.model})
    urls = [node_url(argparse.Namespace(node=each, data_dir=options.data_dir)) for each in options.node or [None]]
    found = [asked(url, "/network/moves?" + urlencode(query)) for url in urls]
    if not any(said.get("node") for said in found):
        raise NotFound(f"node {urls[0]}: expected one with a peer port, found one without", hint=_no_port)
    trace = [
        {"node": said.get("node"), **move}
        for said in found
        for move in map(as_dict, as_list(said.get("moves")) or [])
        if move is not None
    ]
    trace.sort(key=lambda move: int(move.get("at") or 0))
    for url, said in zip(urls, found, strict=True):
        if not said.get("role"):
            output.note(f"{url} holds no experts for others: network.roles without expert")
    lines = [_trace_line(move) for move in trace]
    head = ["UTC", "NODE", "MOVE", "EXPERT", "OTHERS", "ROWS/S", "WHY"]
    output.data({"nodes": found, "trace": trace}, table([head, *lines]) if lines else "no expert came or went")
    return 0


def _trace_line(move: dict[str, Any]) -> list[str]:
    name = move.get("model") or str(move.get("manifest"))[:12]
    return [
        time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(int(move.get("at") or 0))),
        str(move.get("node"))[:12],
        str(move.get("move")),
        f"{name} layer {move.get('layer')} expert {move.get('expert')}",
        str(move.get("others")),
        f"{float(move.get('rows_per_s') or 0):.3g}",
        str(move.get("text")),
    ]


def way_of_news(network: dict[str, Any]) -> str:
    """How a node hears of others now."""
    redis = as_dict(network.get("redis"))
    if redis is None:
        return "by gossip"
    return "by Redis, and gossip beside it" if redis.get("up") else f"by gossip, without Redis: {redis.get('why_not')}"


def network_of(url: str, key_file: str | None = None) -> dict[str, Any]:
    """What a node says of its network; `NotFound` where it has none."""
    found = asked(url, "/network/nodes", key_file=key_file)
    if found.get("swarm") is None:
        raise NotFound(f"node {url}: expected one with a peer port, found one without", hint=_no_port)
    return found


def _line(peer: dict[str, Any]) -> list[str]:
    link, reason = as_dict(peer.get("link")), as_dict(peer.get("reason")) or {}
    reputation, rtt = peer.get("reputation"), peer.get("rtt_seconds")
    holds = [
        f"{each.get('model') or str(each.get('manifest'))[:12]} {each.get('experts')}"
        for each in map(as_dict, as_list(peer.get("holds")) or [])
        if each is not None
    ]
    why = str(reason.get("text", "")) + (f": {peer['why_not']}" if peer.get("why_not") else "")
    return [
        str(peer.get("node"))[:12] + (" draining" if peer.get("draining") else ""),
        "down" if link is None else f"{duration(link['seconds'])} {'to it' if link['dialled'] else 'from it'}",
        "-" if rtt is None else f"{rtt * 1e3:.1f} ms",
        str(peer.get("calls")),
        str(peer.get("rows")),
        _measured(peer.get("rows_per_s"), 1),
        _measured(peer.get("bytes_per_s"), 1e6),
        "-" if peer.get("expert_bytes") is None else f"{peer['expert_bytes'] / 1e6:.1f} MB",
        f"{peer.get('share', 0):.0%}",
        "-" if reputation is None else f"{reputation:.2f}",
        str(peer.get("breaker") or "-"),
        ", ".join(holds) or "-",
        ",".join(map(str, as_list(peer.get("roles")) or [])) or "-",
        " ".join(map(str, as_list(peer.get("urls")) or [])) or "-",
        why,
    ]


def _measured(value: float | None, unit: float) -> str:
    return "-" if value is None else f"{value / unit:.3g}"


def _drain(options: argparse.Namespace, output: Output) -> int:
    url, wanted = node_url(options), not options.undo
    done = asked(url, "/network/drain", body={"draining": wanted}, key_file=options.key_file)
    if not wanted:
        output.data(done, "asked as before")
        return 0
    if done.get("alone"):
        output.note(f"{done['alone']} experts are held by nobody else who can be asked: peers go on asking for them")
    until = system_monotonic() + _drain_seconds
    time.sleep(_told_seconds)
    said = ""
    while True:
        own = as_dict(network_of(url).get("self")) or {}
        left, done = under_way(own), done | {name: own.get(name) for name in ("under_way", "left")}
        if not own.get("under_way"):
            output.data(done, "draining: nothing is under way for peers")
            return 0
        if system_monotonic() > until:
            output.data(done, f"draining: {left} under way for peers")
            return try_again
        if left != said:
            output.note(f"{left} under way for peers")
        said = left
        time.sleep(_look_seconds)


def under_way(own: dict[str, Any]) -> str:
    """What a node does for peers, in words."""
    left = as_dict(own.get("left")) or {}
    named = {"calls": "expert calls", "stage_calls": "calls of layers", "pipelines": "pipelines in use"}
    return ", ".join(f"{count} {named.get(kind, kind)}" for kind, count in left.items() if count) or "nothing"
