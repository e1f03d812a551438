"""`blyan up` and `blyan init`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import threading
import webbrowser
from pathlib import Path
from typing import Any

from blyan.cli.output import Output, byte_size
from blyan.cli.passphrase import passphrase_of
from blyan.node.config import NodeConfig, read_config
from blyan.node.logs import logging_as
from blyan.node.writer import opened
from blyan.primitives.clock import system_entropy, system_seconds
from blyan.primitives.errors import InvalidInput, UsageMistake


def add_commands(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Register `up` and `init`."""
    up = verbs.add_parser("up", parents=[common], help="start one complete node: API and page on loopback")
    up.add_argument("--listen", metavar="HOST:PORT", help="default 127.0.0.1:8645; port 0 takes a free one")
    up.add_argument("--no-browser", action="store_true", help="do not open the page")
    up.set_defaults(run=_up)
    init = verbs.add_parser("init", parents=[common], help="write keys, genesis entry and the built-in model")
    init.set_defaults(run=_init)


def _init(options: argparse.Namespace, output: Output) -> int:
    from blyan.node import builtin  # torch takes a second; other verbs do not need it

    folder: Path = options.data_dir
    config = read_config(folder)
    passphrase = passphrase_of(config)
    with opened(config, now=system_seconds, entropy=system_entropy, passphrase=passphrase, new=True) as ground:
        published = builtin.install(ground)
        network = ground.chains.network
    output.note(
        f"{folder}: network {network}, model {published.model.name} {published.model.version} "
        f"({published.blocks} blocks, {byte_size(published.length)})"
        + ("" if published.changed else ", was there already")
    )
    return 0


def _up(options: argparse.Namespace, output: Output) -> int:
    flags = {"http": {"listen": options.listen}} if options.listen is not None else {}
    config = read_config(options.data_dir, flags)
    try:
        _ = config.address  # refuse a bad address before anything is loaded
    except InvalidInput as reason:
        raise UsageMistake(reason.message, hint=reason.hint) from None
    with logging_as(config.log, config.data_dir):
        asyncio.run(running(config, output, browser=not options.no_browser))
    return 0


async def running(config: NodeConfig, output: Output, *, browser: bool) -> None:
    """A node until it is told to stop."""
    from blyan.api.serve import served

    stopped = _stop_on_signal()
    async with served(config, passphrase_of(config)) as (node, url):
        for name, why in node.refused().items():
            output.note(f"model {name} is refused: {why.message}")
        output.note(f"data in {config.data_dir}; stop with Ctrl-C")
        if node.peering is not None:
            output.note(f"peers at {', '.join(node.peering.summary.urls)}; `blyan node invite` says how to join")
        output.note(f"chat at {url}")
        if browser:
            # not waited for: a browser may stay in the foreground as long as its window
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        await stopped.wait()
        output.note(f"stopping; answers under way have {config.http.shutdown_seconds} s, a second signal ends at once")


def _stop_on_signal() -> asyncio.Event:
    """Set by the first SIGINT or SIGTERM; the second one ends the process at once, which every start can recover from.

    A plain handler, not the event loop's: it also counts signals that come while the loop is busy with starting.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop(_number: int, _frame: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        loop.call_soon_threadsafe(stopped.set)

    for number in numbers:
        signal.signal(number, stop)
    return stopped
