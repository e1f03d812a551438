"""Whether nodes have the experts that they say they hold: each computes a row, and this node knows what comes out.

Before a copy is given up, others must have shown theirs: what is only said costs nothing to say. It proves that who
answers can have the expert computed now, by itself or by asking whoever holds it, and no more.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from blyan.inference.expert_host import ExpertHost, bytes_of
from blyan.network.link import Link
from blyan.network.questions import Refused
from blyan.node.holdings import Hosted
from blyan.primitives.clock import Entropy
from blyan.primitives.errors import Fault, NotHeld
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.storage import tensor_block
from blyan.wire.expert_call import ExpertBatch, kind, nonce_bytes, packed, read_answer
from blyan.wire.framing import Buffer, WireTensor

_log = logging.getLogger(__name__)
_seconds: Final = 5.0  # for one node's answer
_calls_max: Final = 256  # experts in one message
_near: Final = 0.05  # of the row's length: other kernels, other orders of sums, int8 experts alike

Place = tuple[PayloadId, int]  # a model, and the number of a routed expert of it


@dataclass(frozen=True, slots=True)
class Proving:
    """For the network's loop. `link` gives an open link to a node."""

    host: ExpertHost
    link: Callable[[PublicKey], Link | None]
    entropy: Entropy

    async def proved(
        self, models: Mapping[PayloadId, Hosted], said: Mapping[Place, Collection[PublicKey]], enough: int
    ) -> set[Place]:
        """Of experts that are here and that these nodes say they hold: those that so many of them have shown."""
        layers: dict[tuple[PayloadId, int], list[int]] = defaultdict(list)
        for manifest_id, number in said:
            layers[manifest_id, models[manifest_id].place(number)[0]].append(number)
        shown = Counter[Place]()
        for (manifest_id, layer), numbers in layers.items():
            for at in range(0, len(numbers), _calls_max):
                shown += await self._shown(models[manifest_id], layer, numbers[at : at + _calls_max], said, enough)
        return {place for place in said if shown[place] >= enough}

    async def _shown(
        self,
        hosted: Hosted,
        layer: int,
        numbers: Sequence[int],
        said: Mapping[Place, Collection[PublicKey]],
        enough: int,
    ) -> Counter[Place]:
        """How many nodes have shown each of some experts of one layer; none is asked for what enough have shown."""
        manifest_id, found = hosted.manifest_id, Counter[Place]()
        for node in self._in_any_order({node for number in numbers for node in said[manifest_id, number]}):
            link = self.link(node)
            wanted = [
                number
                for number in numbers
                if node in said[manifest_id, number] and found[manifest_id, number] < enough
            ]
            if link is not None and wanted:
                found.update((manifest_id, number) for number in await self._asked(link, hosted, layer, wanted))
        return found

    def _in_any_order(self, nodes: Iterable[PublicKey]) -> list[PublicKey]:
        return sorted(nodes, key=lambda _: self.entropy(8))

    async def _asked(
        self, link: Link, hosted: Hosted, layer: int, numbers: Sequence[int], *, again: bool = False
    ) -> list[int]:
        """The experts that a node has shown."""
        config, dtype = hosted.manifest.config, tensor_block.dtypes[hosted.manifest.dtype]
        experts = tuple(hosted.place(number)[1] for number in numbers)
        batch = ExpertBatch(
            hosted.manifest_id,
            layer,
            experts,
            (1,) * len(experts),
            config.hidden,
            hosted.manifest.dtype,
            "exact",
            int(_seconds * 1000),
            self.entropy(nonce_bytes).hex(),
        )
        drawn = torch.Generator().manual_seed(int.from_bytes(self.entropy(6), "big"))
        rows = torch.randn((len(experts), config.hidden), generator=drawn).to(dtype)
        tensor = packed(batch, bytes_of(rows))
        try:
            mine = await self.host.computed(batch, (tensor,))
            theirs = await self._answer(link, batch, tensor)
        except Refused as reason:  # also of who holds some of them, which says what it lacks
            lacking = reason.about.get("experts") if reason.said == NotHeld.code and not again else None
            if not isinstance(lacking, list):
                return []
            held = [number for number, expert in zip(numbers, experts, strict=True) if expert not in lacking]
            return await self._asked(link, hosted, layer, held, again=True) if held else []
        except Fault as reason:
            _log.info("peer %s has not shown experts that it says it holds: %s", link.peer.node[:12], reason.message)
            return []
        right, given = (torch.frombuffer(bytearray(each), dtype=dtype).float().numpy() for each in (mine, theirs))
        alike = _alike(right.reshape(rows.shape), given.reshape(rows.shape))
        if not all(alike):
            _log.warning("peer %s computes experts otherwise than it should", link.peer.node[:12])
        return [number for number, same in zip(numbers, alike, strict=True) if same]

    async def _answer(self, link: Link, batch: ExpertBatch, tensor: WireTensor) -> Buffer:
        answer = await link.request(kind, batch.fields(), (tensor,), seconds=_seconds)
        return read_answer(batch, tensor, answer)


def _alike(right: NDArray[np.float32], given: NDArray[np.float32]) -> list[bool]:
    """Which rows are the same, but for rounding; what is not finite is not."""
    apart = np.sqrt(np.square(given - right).sum(axis=1))
    return (apart <= _near * np.sqrt(np.square(right).sum(axis=1))).tolist()
