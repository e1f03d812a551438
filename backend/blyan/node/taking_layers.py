"""What a node with the role `stage` takes: whole layers, with their experts, that a model's pipelines lack most."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from blyan.inference.stage_route import layers_to_hold
from blyan.model.manifest import BlockReference
from blyan.node.holdings import Hosted, blocks_of_layer, ends_of
from blyan.node.peering import Peering
from blyan.node.stage_roster import whole_layers
from blyan.node.swarm_blobs import SwarmBlobs, linked_nodes

_everything: Final = 1 << 62  # bytes: no budget


async def take_layers(peering: Peering, blobs: SwarmBlobs) -> None:
    """Fetch the layers of each model that help its pipelines most, as much as fits; nothing is given up.

    `Fault`s of fetching.
    """
    budget = peering.config.network.memory_bytes
    room = _everything if budget is None else budget
    for hosted in peering.holdings.models():
        config, linked = hosted.manifest.config, linked_nodes(peering)
        said = [
            (each.roles, each.holdings[hosted.manifest_id]) for each in linked if hosted.manifest_id in each.holdings
        ]
        if not said:
            continue
        blocks = [blocks_of_layer(hosted.manifest, layer) for layer in range(config.layers)]
        sizes = [sum(block.length for block in layer) for layer in blocks]
        whole = [whole_layers(hosted, held, config) for roles, held in said if "stage" in roles]
        others = [sum(layer in each for each in whole) for layer in range(config.layers)]
        mine = [layer for layer in range(config.layers) if hosted.whole(layer)]
        span = layers_to_hold(sizes, others, mine, room, peering.draw())
        kept = sum(sizes[layer] for layer in mine if layer not in span)
        for layer in span:
            if layer not in mine and kept + sum(sizes[each] for each in span if each <= layer) <= room:
                await _fetch_layer(peering, blobs, hosted, blocks[layer])
        room -= sum(sizes[layer] for layer in {*mine, *span})
        ends = ends_of(hosted.manifest, span) if span else ()
        parts = [hosted.manifest.parts[part] for part in ends]
        if sum(part.length for part in parts) <= room:
            room -= sum(part.length for part in parts)
            if not hosted.ends.issuperset(ends):
                await _fetch_ends(peering, blobs, hosted, parts)


def held_for_stages(models: Iterable[Hosted], room: int) -> tuple[list[tuple[Hosted, int]], int]:
    """The experts here, by number, of layers that a stage holds, and the bytes of the trunk's parts of these layers.

    As many layers as fit `room`: what is beyond it is kept for no stage. Experts of a layer that is still being fetched
    count too: else they would be given up before the last has come.
    """
    found: list[tuple[Hosted, int]] = []
    trunks = 0
    for hosted in models:
        for layer in sorted(hosted.layers):
            if hosted.trunk and not hosted.whole(layer):  # a gateway's
                continue
            blocks = blocks_of_layer(hosted.manifest, layer)
            room -= sum(block.length for block in blocks)
            if room < 0:
                return found, trunks
            trunks += 0 if hosted.trunk else blocks[0].length
            if layer in hosted.grid.layers:
                first = hosted.grid.layers.index(layer) * hosted.grid.experts
                found += [(hosted, each) for each in range(first, first + hosted.grid.experts) if each in hosted.here]
        beside = 0 if hosted.trunk else sum(hosted.manifest.parts[part].length for part in hosted.ends)
        if hosted.layers and beside <= room:
            trunks, room = trunks + beside, room - beside
    return found, trunks


async def _fetch_ends(peering: Peering, blobs: SwarmBlobs, hosted: Hosted, blocks: Sequence[BlockReference]) -> None:
    """Embeddings and head are of use beside layers; without them the lead embeds and draws."""
    try:
        await blobs.fetch(hosted, blocks, trunk=True)
    finally:
        await asyncio.to_thread(peering.look_again, hosted.manifest_id)


async def _fetch_layer(peering: Peering, blobs: SwarmBlobs, hosted: Hosted, blocks: Sequence[BlockReference]) -> None:
    try:
        trunk, experts = blocks[:1], blocks[1:]
        await blobs.fetch(hosted, trunk, trunk=True)
        if experts:
            await blobs.fetch(hosted, experts)
    finally:
        await asyncio.to_thread(peering.look_again, hosted.manifest_id)
