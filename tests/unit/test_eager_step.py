"""The plain stepper gives the plain loop's numbers, bit for bit, however pages lie and whoever else is in the step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from blyan.model.config import ModelConfig
from blyan.model.eager_step import EagerStepper
from blyan.model.expert_memory import ExpertMemory
from blyan.model.gate import Routing
from blyan.model.generate import forward_locally
from blyan.model.kv_cache import KVCache
from blyan.model.parts import expert_part
from blyan.model.quantization import Quantization
from blyan.model.rope_scaling import RopeScaling
from blyan.model.stage_step import EagerLayers
from blyan.model.stepping import KVPages, Run, RunResult, Stretch, page_positions
from blyan.model.transformer import logits
from blyan.model.weights import ModelWeights
from blyan.primitives.errors import BlockCorrupt, NotComputable
from blyan.storage.blob_store import BlobStore
from random_models import RandomWeights, small_config
from stored_models import flip, store_random_model

PAGES = (5, 0, 7, 2, 3, 9)  # scattered, and not all of them
MODELS: dict[str, dict[str, Any]] = {
    "mixtral": {"family": "mixtral", "moe_layers": (0, 1, 2)},
    "qwen2_moe with bias": {"family": "qwen2_moe", "attention_bias": True},
    "qwen3_moe, one KV head": {"kv_heads": 1},
    "olmoe, clipped, tied": {"family": "olmoe", "clip_qkv": 0.7, "tied_embeddings": True},
    "a window in two layers": {"window": 11, "window_layers": (0, 2)},
    "a rope that depends on the length": {
        "rope_scaling": RopeScaling("dynamic", factor=4.0, original_context=40),
    },
}


def plain(
    weights: RandomWeights, config: ModelConfig, tokens: Sequence[int], cuts: Sequence[int], reach: int
) -> tuple[list[Tensor], list[Tensor], list[np.ndarray]]:
    """Of each piece, computed by the plain loop's means: last scores, hidden states, chosen experts."""
    cache = KVCache(config, reach=reach)
    scores, hiddens, chosen = [], [], []
    for begin, end in pairwise(cuts):
        routed: list[np.ndarray] = []

        def note(_layer: int, routing: Routing, routed: list[np.ndarray] = routed) -> None:
            routed.append(routing.chosen.numpy())

        hidden = forward_locally(weights, config, tokens[begin:end], cache, note)
        hiddens.append(hidden)
        scores.append(logits(weights, config, hidden[-1]).float().numpy())
        chosen.append(np.stack(routed))
    return scores, hiddens, chosen


def model(changes: dict[str, Any], dtype: torch.dtype, scheme: Quantization | None = None):
    config = small_config(**changes)
    weights = RandomWeights(config, dtype=dtype, scheme=scheme)
    kv = KVPages(config, dtype, 12)
    kv.keys.fill_(torch.nan)  # what was never written must not be read
    kv.values.fill_(torch.nan)
    return weights, config, EagerStepper(weights, config, kv)


def prompt(count: int, seed: int = 1) -> tuple[int, ...]:
    return tuple(torch.randint(0, 211, (count,), generator=torch.Generator().manual_seed(seed)).tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", MODELS)
def test_paged_steps_equal_the_contiguous_cache(case: str, dtype: torch.dtype) -> None:
    """In one prompt piece and in several, then token by token over the edge of a page; scattered pages."""
    weights, config, stepper = model(MODELS[case], dtype)
    tokens = prompt(2 * page_positions + 9)
    for prefill in ((0, 60), (0, 7, 32, 33, 60)):
        cuts = (*prefill, *range(61, len(tokens) + 1))
        scores, hiddens, chosen = plain(weights, config, tokens, cuts, reach=60)
        for at, (begin, end) in enumerate(pairwise(cuts)):
            run = Run(tokens[begin:end], begin, PAGES, scored=1, hidden=True, reach=60)
            [found] = stepper.step([run])
            assert np.array_equal(found.scores[0], scores[at])
            assert found.scores.shape == (1, config.vocab_size) and found.scores.dtype == np.float32
            assert found.hidden is not None and torch.equal(found.hidden, hiddens[at])
            assert np.array_equal(found.chosen, chosen[at])
            assert found.chosen.dtype == np.int32


@pytest.mark.parametrize("scheme", [Quantization("int8"), Quantization("int4", group=32)], ids=["int8", "int4"])
def test_quantised_weights_go_the_same_way(scheme: Quantization) -> None:
    """The plain product with what the codes stand for."""
    weights, config, stepper = model({}, torch.bfloat16, scheme)
    tokens = prompt(40)
    scores, _, _ = plain(weights, config, tokens, (0, 39, 40), reach=39)
    stepper.step([Run(tokens[:39], 0, PAGES, reach=39)])
    [found] = stepper.step([Run(tokens[39:], 39, PAGES, scored=1, reach=39)])
    assert np.array_equal(found.scores[0], scores[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_run_does_not_depend_on_the_others_of_its_step(dtype: torch.dtype) -> None:
    """A prompt piece, a token and a draft together give what each gives alone."""
    weights, config, stepper = model({}, dtype)
    tokens = [prompt(n, seed=n) for n in (50, 41, 20)]
    first = [Run(some[:-4], 0, pages) for some, pages in zip(tokens, ((0, 1), (2, 3), (4,)), strict=True)]
    stepper.step(first)
    runs = [
        Run(tokens[0][-4:], 46, (0, 1), scored=0, hidden=True),
        Run(tokens[1][-4:-3], 37, (2, 3), scored=1),
        Run(tokens[2][-4:], 16, (4,), scored=4),
    ]
    together = stepper.step(runs)
    for run, found in zip(runs, together, strict=True):
        [alone] = EagerStepper(weights, config, stepper._kv).step([run])
        assert np.array_equal(found.scores, alone.scores) and found.scores.shape == (run.scored, 211)
        assert np.array_equal(found.chosen, alone.chosen) and found.chosen.shape == (2, len(run.tokens), 3)
        assert (found.hidden is None) == (not run.hidden)


def test_an_expert_that_is_not_in_memory_is_read_once_for_all_runs_that_chose_it(tmp_path: Path) -> None:
    """Four streams over a budget of nothing: each has the bits that it has alone, in one step and in one stage."""
    store = BlobStore(tmp_path / "blobs", writable=True)
    manifest = store_random_model(store)
    config, runs = manifest.config, [Run(prompt(9, seed), 0, (seed,), scored=1) for seed in range(3)]
    runs.append(runs[2]._replace(pages=(3,)))  # one that chooses the very experts of another

    def stepping(runs: Sequence[Run]) -> tuple[list[RunResult], ExpertMemory]:
        memory = ExpertMemory(0, lambda: 0.0)
        weights = ModelWeights(manifest, store, memory)
        return EagerStepper(weights, config, KVPages(config, torch.float32, 4)).step(runs), memory

    together, memory = stepping(runs)
    chosen = [result.chosen for result in together]
    distinct = sum(len(np.unique(np.concatenate(layer))) for layer in zip(*chosen, strict=True))
    assert memory.usage().calls == {"hot": 0, "warm": 0, "cold": distinct}
    for run, found in zip(runs, together, strict=True):
        [alone], lone = stepping([run])
        each_read = lone.usage().bytes_read // lone.usage().calls["cold"]  # all experts are of one size
        assert memory.usage().bytes_read == distinct * each_read
        assert np.array_equal(found.scores, alone.scores) and np.array_equal(found.chosen, alone.chosen)

    memory = ExpertMemory(0, lambda: 0.0)
    weights, layers = ModelWeights(manifest, store, memory), range(config.layers)
    stage = EagerLayers(weights, config, KVPages(config, torch.float32, 4), layers)
    hidden = torch.cat([weights.embed()[list(run.tokens)] for run in runs])
    _, experts = stage.through(hidden, [Stretch(len(run.tokens), 0, run.pages) for run in runs])
    assert np.array_equal(experts, np.concatenate(chosen, axis=1))
    assert memory.usage().calls["cold"] == distinct


def test_a_damaged_expert_fails_those_alone_that_chose_it(tmp_path: Path) -> None:
    """The step that they share fails; made again run by run, as a scheduler does, the others have their numbers."""
    store = BlobStore(tmp_path / "blobs", writable=True)
    manifest = store_random_model(store)
    config, runs = manifest.config, [Run(prompt(1, seed), 0, (seed,), scored=1) for seed in range(2)]
    weights = ModelWeights(manifest, store, ExpertMemory(0, lambda: 0.0))
    stepper = EagerStepper(weights, config, KVPages(config, torch.float32, 2))
    expected = stepper.step(runs)
    used = [{(at, int(e)) for at, layer in enumerate(each.chosen) for e in layer.flatten()} for each in expected]
    at, expert = min(used[0] - used[1])
    flip(store.path(manifest.parts[expert_part(config.moe_layers[at], expert)].payload), 4_200)
    with pytest.raises(BlockCorrupt):
        stepper.step(runs)
    with pytest.raises(BlockCorrupt):
        stepper.step(runs[:1])
    assert np.array_equal(stepper.step(runs[1:])[0].scores, expected[1].scores)


def test_several_rows_are_scored_like_the_rows_of_the_echo() -> None:
    """The last `scored` positions, in order."""
    weights, config, stepper = model({}, torch.float32)
    tokens = prompt(45)
    hidden = forward_locally(weights, config, tokens, KVCache(config, reach=45))
    [found] = stepper.step([Run(tokens, 0, PAGES, scored=20, reach=45)])
    assert np.array_equal(found.scores, logits(weights, config, hidden[25:]).float().numpy())


def test_pages_of_another_sequence_are_read_and_not_written() -> None:
    """A shared prefix gives the numbers of one's own."""
    weights, config, stepper = model({}, torch.float32)
    tokens = prompt(page_positions + 8)
    cuts = (0, page_positions, len(tokens))
    scores, _, _ = plain(weights, config, tokens, cuts, reach=0)
    stepper.step([Run(tokens[:page_positions], 0, (4,))])
    before = stepper._kv.keys[:, 4].clone()
    [found] = stepper.step([Run(tokens[page_positions:], page_positions, (4, 8), scored=1)])
    assert np.array_equal(found.scores[0], scores[1])
    assert torch.equal(stepper._kv.keys[:, 4], before)
    assert torch.isnan(stepper._kv.keys[:, [0, 1, 2, 3, 5, 6, 7, 9]]).all()


def test_scores_that_are_no_numbers_are_refused() -> None:
    """As in the plain loop: never a token chosen from NaN."""
    weights, _config, stepper = model({}, torch.float32)
    weights.part("head")["norm.weight"][3] = torch.inf
    assert stepper.step([Run(prompt(3), 0, PAGES)])[0].scores.shape == (0, 211)
    with pytest.raises(NotComputable, match="expected finite"):
        stepper.step([Run(prompt(3), 0, PAGES, scored=1)])


def test_a_model_without_routed_layers_has_chosen_nothing() -> None:
    """Zero layers, and still one column per position."""
    _, _, stepper = model({"moe_layers": ()}, torch.float32)
    assert stepper.step([Run(prompt(6), 0, PAGES)])[0].chosen.shape == (0, 6, 3)
