"""Swarms of real nodes: data directories that hold a part of a model, and one process for each that find each other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import orjson

from blyan.model.hf_import import read_checkpoint
from blyan.model.manifest import Manifest, read_manifest
from blyan.model.parts import part_position
from blyan.node import builtin
from blyan.node.config import read_config
from blyan.node.holdings import HeldModel, ends_of, read_held, write_held
from blyan.node.importing import import_checkpoint
from blyan.node.quantizing import QuantizationRequest
from blyan.node.swarm_secret import write_swarm
from blyan.node.writer import WritableGround, opened
from blyan.primitives.clock import system_entropy, system_seconds
from blyan.primitives.ids import PayloadId
from blyan.storage.blob_store import BlobStore
from blyan.wire.peer import encode_code
from chaos_proxy import ChaosProxy
from forked import Nursery
from kept_ports import kept_port
from running_node import RunningNode

SECRET = bytes(range(16))
CODE = encode_code(SECRET)
Keep = Callable[[int, int], bool]  # layer, expert


def everything(_layer: int, _expert: int) -> bool:
    """Keep all experts."""
    return True


def nothing(_layer: int, _expert: int) -> bool:
    """Keep none."""
    return False


def of_layers(layers: range) -> Keep:
    """Keep those of some layers."""
    return lambda layer, _expert: layer in layers


def every(of: int, *which: int) -> Keep:
    """Keep the experts whose number leaves one of these rests, shifted from layer to layer."""
    return lambda layer, expert: (expert + layer) % of in which


def part_of_builtin(data_dir: Path, keep: Keep, trunk: bool | range) -> PayloadId:
    """A data directory of a node of the swarm with some experts of the built-in model, and its trunk or not."""
    with _ground(data_dir) as ground:
        manifest = builtin.install(ground).model.manifest
        _leave(ground, manifest, keep, trunk)
    return manifest


def part_of_checkpoint(
    data_dir: Path, folder: Path, name: str, keep: Keep, trunk: bool | range, request: QuantizationRequest | None = None
) -> PayloadId:
    """The same of a checkpoint that is imported; of the trunk all, nothing, or what is of some layers."""
    with _ground(data_dir) as ground:
        made = import_checkpoint(ground, read_checkpoint(folder), name, lambda _done, _total: None, request)
        manifest = made.published.model.manifest
        _leave(ground, manifest, keep, trunk)
    return manifest


@contextlib.contextmanager
def _ground(data_dir: Path) -> Iterator[WritableGround]:
    """With a key of its own: `nodes.writing` gives all the same one."""
    with opened(read_config(data_dir, {}, {}), now=system_seconds, entropy=system_entropy, new=True) as ground:
        yield ground
    write_swarm(data_dir, SECRET)


def _leave(ground: WritableGround, manifest_id: PayloadId, keep: Keep, trunk: bool | range) -> None:
    manifest = read_manifest(ground.store, manifest_id)
    layers = {f"layer.{layer}" for layer in (trunk if isinstance(trunk, range) else ())}
    layers |= {*ends_of(manifest, trunk)} if isinstance(trunk, range) else set()
    for part, block in manifest.blocks.items():
        at = position(part)
        if not ((trunk is True or part in layers) if at is None else keep(*at)):
            ground.store.path(block.payload).unlink(missing_ok=True)
    write_held(ground.folder, {manifest_id: HeldModel(manifest.name, trunk is True)})


def position(part: str) -> tuple[int, int] | None:
    """Layer and expert of a routed expert's part, None for the trunk's."""
    layer, expert = (None, None) if part == "tokenizer" else part_position(part)
    return None if layer is None or expert is None else (layer, expert)


def parts_held(data_dir: Path, manifest_id: PayloadId) -> tuple[Manifest, set[str]]:
    """Which parts of a model have their file in the folder of blobs: nothing else is asked."""
    manifest = read_manifest(BlobStore(data_dir / "blobs"), manifest_id)
    files = {each.name for each in (data_dir / "blobs").glob("??/*")}
    return manifest, {part for part, block in manifest.blocks.items() if block.payload in files}


def room(data_dir: Path) -> str:
    """As `network.memory`: what the experts that are here take, so that nothing else is taken of the swarm."""
    total = 1
    for manifest_id in read_held(data_dir):
        manifest, parts = parts_held(data_dir, manifest_id)
        total += sum(manifest.blocks[part].length for part in parts if position(part) is not None)
    return f"{total}B"


def room_for(data_dir: Path, manifest_id: PayloadId) -> str:
    """`network.memory` of an expert node that takes no more than it has."""
    manifest, held = parts_held(data_dir, manifest_id)
    return f"{sum(manifest.blocks[part].length for part in held)}B"


class SwarmNode(RunningNode):
    """One process of a swarm. Its peer port stays the same when it starts again."""

    def __init__(self, data_dir: Path, nursery: Nursery | None = None, **settings: str) -> None:
        """`settings` are of the section `network` unless they name another."""
        self.name = data_dir.name
        self.peer_port = kept_port(self)
        self.settings = {"listen": f"127.0.0.1:{self.peer_port}", "memory": room(data_dir)} | settings
        with _ground(data_dir) as ground:
            self.key = ground.key.public
        super().__init__(data_dir, nursery=nursery)

    def start(self) -> None:
        """As a person would, with the environment made of the settings of now."""
        named = {key if "__" in key else f"network__{key}": value for key, value in self.settings.items()}
        self.environment = {f"BLYAN_{key.upper()}": value for key, value in named.items()}
        self.environment |= {"BLYAN_COMPUTE__THREADS": "1", "OMP_NUM_THREADS": "1"}
        super().start()

    @property
    def join_url(self) -> str:
        """What others set as `network.join`."""
        return f"wss://127.0.0.1:{self.peer_port}#{CODE}"

    def send(self, number: signal.Signals) -> None:
        """A signal to the process."""
        os.kill(self.pid, number)

    def linked(self) -> set[str]:
        """The first twelve digits of the keys of those it has a link to, by what it said."""
        found: set[str] = set()
        for line in self.said:
            if seen := re.search(r"peer ([0-9a-f]{12}) is linked( no more)?", line):
                (found.discard if seen[2] else found.add)(seen[1])
        return found

    def ended_links(self, other: SwarmNode) -> int:
        """How often the last link to a node has ended, by what it said."""
        return sum(f"peer {other.key[:12]} is linked no more" in line for line in self.said)

    def wait_linked(self, others: Sequence[SwarmNode], seconds: float = 30) -> None:
        """Until it has a link to each of these."""
        wanted = {other.key[:12] for other in others}
        wait_for(lambda: wanted <= self.linked(), f"{self.name} to be linked to all of {len(wanted)}", seconds)


@dataclass
class Swarm:
    """A context: a gateway and expert nodes, every link between them through a proxy of the expert node's.

    The gateway dials: nobody can dial it (it announces a port where nobody listens), so no way leads past a proxy.
    With `direct` there are no proxies, and expert nodes join the gateway, as people would have them.
    """

    gateway: SwarmNode
    experts: Sequence[SwarmNode]
    direct: bool = False
    proxies: list[ChaosProxy] = field(default_factory=list[ChaosProxy])
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Self:
        for node in self.experts:
            node.settings.setdefault("roles", "expert")
            if self.direct:
                node.settings |= {"join": self.gateway.join_url}
                continue
            proxy = self._stack.enter_context(ChaosProxy(node.peer_port))
            proxy.patience_s = 30.0  # until it has started
            node.settings |= {"announce": f"wss://127.0.0.1:{proxy.port}"}
            self.proxies.append(proxy)
        if not self.direct:
            joined = ",".join(f"wss://127.0.0.1:{proxy.port}#{CODE}" for proxy in self.proxies)
            self.gateway.settings |= {"join": joined, "announce": "wss://127.0.0.1:9"}
        nodes = [self.gateway, *self.experts]
        for node in nodes:
            self._stack.callback(node.stop)
        try:
            with ThreadPoolExecutor(len(nodes)) as pool:
                list(pool.map(SwarmNode.start, nodes))
            self.gateway.wait_linked(self.experts)
        except BaseException:
            self._stack.close()
            raise
        for proxy in self.proxies:
            proxy.patience_s = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        with ThreadPoolExecutor(len(self.experts) + 1) as pool:
            list(pool.map(RunningNode.stop, [self.gateway, *self.experts]))
        self._stack.close()


def linked_among(nodes: Sequence[SwarmNode]) -> None:
    """Wait until those that run have a link to each other."""
    keys = {node.key[:12] for node in nodes if node.running}
    there = [node for node in nodes if node.running]
    wait_for(lambda: all(keys - {each.key[:12]} <= each.linked() for each in there), "nodes linked to each other")


def wait_for(what: Callable[[], object], said: str, seconds: float = 20) -> None:
    """Until something holds; `AssertionError` says what did not."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, f"expected {said} within {seconds:g} s"
        time.sleep(0.02)


@dataclass
class Heard:
    """An answer as it came."""

    status: int = 200
    tokens: list[str] = field(default_factory=list[str])
    logprobs: list[float] = field(default_factory=list[float])
    times: list[float] = field(default_factory=list[float])  # when each token came, from when it was asked
    text: str = ""
    finish: str | None = None
    error: dict[str, Any] | None = None
    seconds: float = 0.0

    @property
    def pause(self) -> float:
        """The longest that was waited between two tokens, in seconds."""
        return max((after - before for before, after in zip(self.times, self.times[1:], strict=False)), default=0.0)


async def ask(
    url: str,
    prompt: str,
    *,
    at: Mapping[int, Callable[[], object]] | None = None,
    stream: bool = True,
    model: str = builtin.name,
    told: bool = True,
    **options: object,
) -> Heard:
    """One chat; `at` says what is to happen as soon as so many tokens have come (of a stream).

    `told`: of tokens as texts with their log-probabilities, else of their ids alone, which are all the same.
    """
    body: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    body |= {"logprobs": True} if told else {"return_token_ids": True}
    body |= {"max_tokens": 48, "seed": 1, "temperature": 0.0, "stream": stream, **options}
    if (
        told and options.get("ignore_eos") and model == builtin.name
    ):  # else it says that it ended, again and again: no text
        body["logit_bias"] = dict.fromkeys(("0", "1", "2"), -100)
    heard, began = Heard(), time.monotonic()
    async with (
        aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=60)) as session,
        session.post("/v1/chat/completions", json=body) as response,
    ):
        heard.status = response.status
        if stream and response.status == 200:
            await _hear(response, heard, began, at or {})
        else:
            _take(heard, await response.json(loads=orjson.loads), "message", time.monotonic() - began)
    heard.seconds = time.monotonic() - began
    return heard


async def _hear(
    response: aiohttp.ClientResponse, heard: Heard, began: float, at: Mapping[int, Callable[[], object]]
) -> None:
    done = 0
    async for line in response.content:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        _take(heard, orjson.loads(line[6:]), "delta", time.monotonic() - began)
        for number in [each for each in at if done < each <= len(heard.tokens)]:
            await asyncio.to_thread(at[number])
        done = len(heard.tokens)


def _take(heard: Heard, said: dict[str, Any], part: str, now: float) -> None:
    if "error" in said:
        heard.error = said["error"]
        return
    for choice in said["choices"]:
        heard.text += choice[part].get("content") or ""
        heard.finish = choice.get("finish_reason") or heard.finish
        for each in (choice.get("logprobs") or {}).get("content") or []:
            heard.tokens.append(each["token"])
            heard.logprobs.append(each["logprob"])
            heard.times.append(now)
        ids: list[int] = choice.get("token_ids") or []
        heard.tokens += map(str, ids)
        heard.times += [now] * len(ids)
