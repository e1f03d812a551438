"""A member of a swarm that keeps its own rules: real links, real summaries, and answers that are crooked.

It can compute what it is asked for, so that each crook changes one thing of an answer that would be right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from blyan.inference.expert_host import ExpertHost, HostedModel
from blyan.model.loading import load_model
from blyan.network.dialling import Dialler, Expected
from blyan.network.gossip import SummaryTable
from blyan.network.handshake import Swarm as Secret
from blyan.network.identity import make_identity
from blyan.network.link import Handler, Link
from blyan.network.links import Links
from blyan.primitives.clock import system_entropy, system_monotonic, system_seconds
from blyan.primitives.ids import PayloadId
from blyan.primitives.keys import Key
from blyan.storage.blob_store import BlobStore
from blyan.wire.expert_call import kind
from blyan.wire.framing import Message
from blyan.wire.peer import Holding, Summary
from swarm_nodes import SECRET

Twist = Callable[["CrookedNode", Link, Message, Message], Awaitable[Message]]  # call, right answer → what is answered


async def honest(_node: CrookedNode, _link: Link, _call: Message, answer: Message) -> Message:
    """No twist at all."""
    return answer


class CrookedNode:
    """A context: dials `url` and says that it holds everything of a model, which lies in `data_dir`."""

    def __init__(
        self, data_dir: Path, manifest_id: PayloadId, twist: Twist = honest, *, key: Key | None = None
    ) -> None:
        self.key = key or Key.from_seed(system_entropy(32))
        self.identity = make_identity(self.key, system_seconds, system_entropy)
        self.twist = twist
        self.secret = Secret(SECRET)
        self.asked = 0
        self.answers: list[tuple[Message, Message]] = []  # calls and right answers
        self.links: list[Link] = []
        self.changes: dict[str, Any] = {}  # of its summary
        self._store = BlobStore(data_dir / "blobs")
        self._manifest_id = manifest_id
        self._model = load_model(self._store, manifest_id)
        self._sequence = 0
        hosted = HostedModel(self._model.manifest.config, self._model.weights, lambda _layer, _expert: True)
        self._host = ExpertHost(lambda _manifest: hosted, system_monotonic)
        self.handlers: dict[str, Handler] = {kind: self._answer}
        self.dialler = Dialler(self.identity, self.secret, self.handlers, system_monotonic, system_entropy)
        self.table = SummaryTable()
        self.manners = Links(self.dialler, self.table, self.summary, _Nobody(), system_monotonic, lambda: 0.5)
        self.handlers.update(self.manners.handlers)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, reason: BaseException | None, trace: TracebackType | None
    ) -> None:
        for link in self.links:
            await link.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._host.close()

    def summary(self) -> Summary:
        """Signed, with what `changes` says differently."""
        self._sequence += 1
        config = self._model.manifest.config
        count = len(config.moe_layers) * config.experts
        made = Summary(
            self.key.public,
            self.identity.boot,
            self.identity.started,
            self._sequence,
            self.identity.certificate_hash,
            self.secret.tag,
            roles=("expert",),
            holdings={self._manifest_id: Holding(False, b"\xff" * (count // 8))},
        )
        return replace(made, **self.changes).sign(self.key)

    async def dial(self, url: str) -> Link:
        """A link to a peer port, on which it keeps the manners of links."""
        link = await self.dialler.dial(url, Expected(), self.summary())
        self.links.append(link)
        self.manners.joined(link)
        self._tasks.append(asyncio.create_task(link.run()))
        return link

    async def _answer(self, link: Link, message: Message) -> Message:
        self.asked += 1
        answer = await self._host.answer(link, message)
        self.answers.append((message, answer))
        return await self.twist(self, link, message, answer)


class _Nobody:
    """A watcher that keeps no account."""

    def linked(self, summary: Summary, now: float) -> None: ...

    def heard(self, summary: Summary, now: float) -> bool:
        return True

    def unlinked(self, node: object, boot: str) -> None: ...

    def pinged(self, node: object, seconds: float, now: float) -> None: ...


async def send_raw(
    link: Link, fields: dict[str, Any], *, tensors: Sequence[dict[str, Any]] = (), after: bytes = b""
) -> None:
    """A frame that no encoder of ours would make."""
    header = orjson.dumps({"v": 1, "fields": fields, "tensors": list(tensors)})
    await link._socket.send_bytes(len(header).to_bytes(4, "little") + header + after)
