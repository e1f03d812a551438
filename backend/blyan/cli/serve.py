"""`blyan serve`: a node among others, which answers, or computes experts for those who do."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from blyan.cli.output import Output
from blyan.cli.up import running
from blyan.node.config import NodeConfig, read_config
from blyan.node.http_config import host_and_port
from blyan.node.logs import logging_as
from blyan.primitives.errors import InvalidInput, UsageMistake


def add_commands(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Register `serve`."""
    serve = verbs.add_parser("serve", parents=[common], help="start a node of a swarm: peers, API and page")
    serve.add_argument(
        "--join",
        metavar="URL",
        action="append",
        help="wss://HOST:PORT#CODE, from `blyan node invite`; CODE alone looks around",
    )
    serve.add_argument(
        "--role", metavar="ROLES", help="gateway,expert: answer, compute for others (default: both); stage: take layers"
    )
    serve.add_argument(
        "--memory", metavar="SIZE", help="of experts that are held, such as 8GiB; default: all there are"
    )
    serve.add_argument("--listen", metavar="HOST:PORT", help="API and page; default 127.0.0.1:8645")
    serve.add_argument("--peers", metavar="HOST:PORT", help="where peers reach this node; default: the API's port + 1")
    serve.add_argument("--plan", metavar="PLAN", help="auto, local, dynamic, static_delegate or pipeline")
    serve.set_defaults(run=_serve)


def _serve(options: argparse.Namespace, output: Output) -> int:
    config = _config(options)
    try:
        _ = config.address
    except InvalidInput as reason:
        raise UsageMistake(reason.message, hint=reason.hint) from None
    with logging_as(config.log, config.data_dir):
        asyncio.run(running(config, output, browser=False))
    return 0


def _config(options: argparse.Namespace) -> NodeConfig:
    """What file and environment say, and over it what was typed; a peer port always."""
    network: dict[str, Any] = {}
    if options.join:
        network["join"] = tuple(options.join)
    if options.role is not None:
        network["roles"] = tuple(each.strip() for each in options.role.split(","))
    for name in ("memory", "plan"):
        if getattr(options, name) is not None:
            network[name] = getattr(options, name)
    http = {"listen": options.listen} if options.listen is not None else {}
    try:
        found = read_config(options.data_dir, {"http": http, "network": network})
        if options.peers is not None or not found.network.listen:
            network["listen"] = options.peers or _beside(found.http.listen)
        if options.role is None and found.network.roles == ("gateway",):
            network["roles"] = ("gateway", "expert")
        return read_config(options.data_dir, {"http": http, "network": network})
    except InvalidInput as reason:
        raise UsageMistake(reason.message, hint=reason.hint) from None


def _beside(listen: str) -> str:
    """The peer port that goes with an API's: the next one, on the same address."""
    host, port, _ = host_and_port("http.listen", listen)
    return f"{f'[{host}]' if ':' in host else host}:{port + 1 if port else 0}"
