"""Layers that a stage holds are not given up for other experts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from blyan.inference.placement import Shelf, choose
from blyan.inference.snapshot import ExpertGrid
from blyan.model.manifest import BlockReference, Manifest
from blyan.model.parts import expert_part, layer_part
from blyan.node.holdings import Hosted
from blyan.node.taking_layers import held_for_stages
from blyan.primitives.ids import PayloadId, PublicKey

LAYERS, EXPERTS, TRUNK, EXPERT = 4, 4, 6, 10
WHOLE = TRUNK + EXPERTS * EXPERT
ME, OTHERS = PublicKey("a" * 64), [PublicKey(each * 64) for each in "bcdef"]


def hosted(layers: set[int], here: set[int], *, trunk: bool = False) -> Hosted:
    names = {layer_part(layer): TRUNK for layer in range(LAYERS)}
    names |= {expert_part(layer, expert): EXPERT for layer in range(LAYERS) for expert in range(EXPERTS)}
    parts = {name: cast(BlockReference, SimpleNamespace(length=size, payload=name)) for name, size in names.items()}
    config = SimpleNamespace(layers=LAYERS, experts=EXPERTS, moe_layers=range(LAYERS))
    manifest: Any = SimpleNamespace(config=config, parts=parts)
    grid = ExpertGrid(tuple(range(LAYERS)), EXPERTS)
    return Hosted(PayloadId("ab" * 32), cast(Manifest, manifest), grid, trunk, here, layers=layers)


def test_a_node_of_both_roles_gives_up_what_is_of_no_layer_that_it_holds() -> None:
    """And is content then: nothing is to be given up or fetched any more."""
    model = hosted({1, 2}, set(range(EXPERTS, 3 * EXPERTS)) | {0, 15})  # two whole layers and two experts beyond
    budget = 2 * WHOLE
    kept, trunks = held_for_stages([model], budget)
    assert trunks == 2 * TRUNK
    sizes = dict.fromkeys(range(LAYERS * EXPERTS), EXPERT)
    layers = [number for _, number in kept]
    shelf = Shelf(ME, 6, sizes, dict.fromkeys(sizes, OTHERS), kept=layers)
    made = choose(shelf, model.here, budget - trunks, lambda: 0.5)
    assert (set(made.drop), made.fetch) == ({0, 15}, ())
    assert choose(shelf, layers, budget - trunks, lambda: 0.5).drop == ()


def test_experts_of_a_layer_that_is_still_coming_are_kept() -> None:
    model = hosted({1}, {4, 5, 9})
    assert [number for _, number in held_for_stages([model], 10 * WHOLE)[0]] == [4, 5]


def test_layers_beyond_the_room_are_kept_for_no_stage() -> None:
    """A smaller budget is kept to."""
    model = hosted(set(range(4)), set(range(16)))
    kept, trunks = held_for_stages([model], 2 * WHOLE + 1)
    assert [number for _, number in kept] == list(range(8))
    assert trunks == 2 * TRUNK


def test_a_gateway_holds_whole_layers_alone_and_its_trunk_is_none_of_them() -> None:
    model = hosted(set(range(4)), {4, 5, 6, 7, 8}, trunk=True)
    kept, trunks = held_for_stages([model], 4 * WHOLE)
    assert [number for _, number in kept] == [4, 5, 6, 7]
    assert trunks == 0
