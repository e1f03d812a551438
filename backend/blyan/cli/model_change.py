"""`blyan model create|copy|remove|pull`: by the node that runs on the data directory, or without one directly."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from blyan.cli.output import Output, byte_size
from blyan.cli.passphrase import passphrase_of
from blyan.network.peers import parse_peer
from blyan.node.config import read_config
from blyan.node.data_directory import Ground, lock_holder, open_ground
from blyan.node.writer import WritableGround, opened
from blyan.primitives import limits
from blyan.primitives.clock import system_entropy, system_seconds
from blyan.primitives.errors import Denied, Fault, InvalidInput, NotFound, PeerFault, Unavailable, UsageMistake, kind_of
from blyan.primitives.model_name import canonical_name
from blyan.storage import durable
from blyan.wire.ollama_create import recipe_of

_kinds: Final[Mapping[int, type[Fault]]] = {400: InvalidInput, 403: Denied, 404: NotFound, 503: Unavailable}


def add_commands(commands: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register the verbs of the group `model`."""
    created = commands.add_parser("create", parents=[common, readable], help="a model of another one, by a Modelfile")
    created.add_argument("name", metavar="NAME", type=canonical_name)
    created.add_argument("-f", "--file", metavar="MODELFILE", default="Modelfile", help="- is stdin")
    created.set_defaults(run=_create)
    copied = commands.add_parser("copy", parents=[common, readable], help="the same model under another name too")
    copied.add_argument("name", metavar="NAME", type=canonical_name)
    copied.add_argument("new", metavar="NEW", type=canonical_name)
    copied.set_defaults(run=_copy)
    removed = commands.add_parser("remove", parents=[common, readable], help="retire a model: it is no longer offered")
    removed.add_argument("name", metavar="NAME", type=canonical_name)
    removed.add_argument("--yes", action="store_true", help="do it")
    removed.add_argument("--dry-run", action="store_true", help="say what it would do")
    removed.set_defaults(run=_remove)
    pulled = commands.add_parser("pull", parents=[common, readable], help="get what a configured folder or peer has")
    pulled.add_argument("name", metavar="NAME", type=canonical_name)
    pulled.add_argument(
        "--from", metavar="URL", dest="sources", action="append", default=[], help="a node to ask; not those configured"
    )
    pulled.add_argument("--trust", metavar="KEY", help="the key that must have signed what they say they have")
    pulled.set_defaults(run=_pull)


def _create(options: argparse.Namespace, output: Output) -> int:
    text = _modelfile(options.file)
    recipe = recipe_of(text)  # what is wrong with it is said before anything is opened

    def here(ground: WritableGround) -> None:
        from blyan.model.chat_template import TemplateRenderer
        from blyan.node.model_changes import create_from

        renderer = TemplateRenderer(system_seconds)
        try:
            create_from(ground, renderer, options.name, recipe)
        finally:
            renderer.close()

    _changed(options, output, "POST", "/api/create", {"model": options.name, "modelfile": text}, here)
    return _told(options, output, options.name)


def _copy(options: argparse.Namespace, output: Output) -> int:
    def here(ground: WritableGround) -> None:
        from blyan.node.model_changes import copy_model

        copy_model(ground, options.name, options.new)

    _changed(options, output, "POST", "/api/copy", {"source": options.name, "destination": options.new}, here)
    return _told(options, output, options.new)


def _remove(options: argparse.Namespace, output: Output) -> int:
    from blyan.node.model_changes import removable, remove_model

    if options.yes == options.dry_run:
        raise UsageMistake(
            "model remove: expected --yes or --dry-run, found " + ("both" if options.yes else "neither"),
            hint="--dry-run says what would be taken away",
        )
    found = removable(open_ground(options.data_dir), options.name)
    if options.yes:

        def here(ground: WritableGround) -> None:
            remove_model(ground, options.name)

        _changed(options, output, "DELETE", "/api/delete", {"model": options.name}, here)
    value = {
        "name": found.model.name,
        "version": found.model.version,
        "removed": options.yes,
        "bytes_freed": found.bytes_freed,
    }
    done = "removed" if options.yes else "would be removed"
    freed = f"{byte_size(found.bytes_freed)} that no other model needs go with `blyan blob sweep`"
    output.data(value, f"{found.model.name} {found.model.version}: {done}; {freed}")
    return 0


def _pull(options: argparse.Namespace, output: Output) -> int:
    texts = _sources(options)
    peers = [parse_peer(text, "--from") for text in texts]  # what is wrong is said before anything is opened

    def here(ground: WritableGround) -> None:
        from blyan.node.pulling import pull_model

        config, say = read_config(options.data_dir), _statuses(output)
        rate = config.network.fetch_bytes
        pull_model(ground, config.models, options.name, say, system_seconds, peers, rate=rate)

    _changed(options, output, "POST", "/api/pull", {"model": options.name, "from": texts}, here)
    return _told(options, output, options.name)


def _sources(options: argparse.Namespace) -> list[str]:
    """`URL#KEY` of each --from; the key is its own, or that of --trust."""
    sources: list[str] = options.sources
    keyless = [url for url in sources if "#" not in url]
    if bool(keyless) != (options.trust is not None):
        raise UsageMistake(
            f"model pull: expected --trust KEY with each --from URL that names no key, found "
            f"{'none' if keyless else 'no such URL'}",
            hint="the other node's `blyan chain status` names its sequencer: ask its operator",
        )
    return [url if "#" in url else f"{url}#{options.trust}" for url in sources]


def _changed(
    options: argparse.Namespace,
    output: Output,
    method: str,
    path: str,
    body: Mapping[str, Any],
    here: Callable[[WritableGround], None],
) -> None:
    """Ask the node that runs on the data directory; where none does, open it and do it here."""
    holder = lock_holder(options.data_dir)
    if holder is not None and holder.get("url"):
        asyncio.run(_asked(str(holder["url"]), method, path, body, _statuses(output)))
        return
    config = read_config(options.data_dir)
    with opened(config, now=system_seconds, entropy=system_entropy, passphrase=passphrase_of(config)) as ground:
        here(ground)


async def _asked(
    url: str, method: str, path: str, body: Mapping[str, Any], said: Callable[[Mapping[str, Any]], None]
) -> None:
    import aiohttp  # what only parses a command line does not need it

    timeout = aiohttp.ClientTimeout(total=None, connect=10)  # a pull takes as long as it takes
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
            session.request(method, url + path, json=body) as response,
        ):
            async for line in response.content:
                value: object = json.loads(line) if line.strip() else {}
                status = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
                if "error" in status:
                    kind = kind_of(str(status["code"])) if "code" in status else _kinds.get(response.status, PeerFault)
                    raise kind(str(status["error"])[:4_096], hint=status.get("hint"))
                said(status)
            if response.status not in (200, 201):
                raise PeerFault(f"node {url}{path}: expected status 200, found {response.status}")
    except (aiohttp.ClientError, TimeoutError, ValueError) as reason:
        raise PeerFault(f"node {url}: expected an answer, found {type(reason).__name__} {reason}") from None


def _statuses(output: Output) -> Callable[[Mapping[str, Any]], None]:
    """Statuses as lines of progress: one for each new one, and a count for what has bytes."""
    before = ""
    layers: dict[str, tuple[int, int]] = {}
    progress = output.progress("pulled", in_bytes=True)

    def said(status: Mapping[str, Any]) -> None:
        nonlocal before
        text, total, done = str(status.get("status", "")), status.get("total"), status.get("completed")
        if isinstance(total, int) and isinstance(done, int):
            layers[text] = (done, total)
            so_far, known = (sum(each) for each in zip(*layers.values(), strict=True))
            if so_far < known:  # the last layer alone ends the line
                progress(so_far, known)
        elif text and text not in (before, "success"):
            output.note(text)
            before = text

    return said


def _told(options: argparse.Namespace, output: Output, name: str) -> int:
    """What the chain says of the model now."""
    ground: Ground = open_ground(options.data_dir)
    version = ground.chains.state.current(name)
    if version is None:
        raise Unavailable(f"model {name}: expected it on the chain, found that somebody took it away again")
    value = {"name": version.name, "version": version.version, "manifest": version.manifest}
    output.data(value, f"{version.name} {version.version}: manifest {version.manifest}")
    return 0


def _modelfile(path: str) -> str:
    try:
        if path == "-":
            raw = sys.stdin.buffer.read(4 * limits.modelfile_chars_max + 1)
        else:
            raw = durable.read_limited(Path(path), 4 * limits.modelfile_chars_max)
        return raw.decode("utf-8")
    except FileNotFoundError:
        raise NotFound(f"Modelfile {path}: expected a file, found none", hint="name it with -f FILE") from None
    except (OSError, ValueError) as reason:
        raise InvalidInput(f"Modelfile {path}: expected UTF-8 text, found {reason}") from None
