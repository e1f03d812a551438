"""Layers on other nodes: a gateway that holds none of them answers through stages what one node answers alone."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, serving
from swarm_in_process import Member, in_one_process
from swarm_nodes import ask, nothing, of_layers, part_of_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 20}
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "seed": 7, "max_tokens": 20}
PLAIN = {"expert_memory": "0B"}


@contextlib.asynccontextmanager
async def pipeline(root: Path, *spans: range, **network: object) -> AsyncIterator[tuple[Member, list[Member]]]:
    """A gateway with what is of no layer, and stages with these layers, of the checkpoint in `root`/hf."""
    part_of_checkpoint(root / "gateway", root / "hf", "random", nothing, True)
    stages: list[Path] = []
    for number, span in enumerate(spans):
        stages.append(root / f"stage{number}")
        part_of_checkpoint(stages[-1], root / "hf", "random", of_layers(span), span)
    async with in_one_process(root / "gateway", stages, "stage", plan="pipeline", **network) as (gateway, members):
        yield gateway, members


async def test_two_stages_answer_token_for_token_as_one_node(tmp_path: Path) -> None:
    save_random_checkpoint(tmp_path / "hf", family="mixtral", vocab_size=260, scale=3.0)
    save_byte_tokenizer(tmp_path / "hf")
    import_into(tmp_path / "whole", tmp_path / "hf", "random")
    async with (
        pipeline(tmp_path, range(2), range(2, 4)) as (gateway, stages),
        serving(tmp_path / "whole", inference=PLAIN) as client,
    ):
        whole = str(client.make_url("/")).rstrip("/")
        for options in (GREEDY, SAMPLED):
            expected = await ask(whole, "Say something", model="random", ignore_eos=True, **options)
            assert len(set(expected.tokens)) >= 8, "a model that repeats itself would show little"
            found = await ask(gateway.url, "Say something", model="random", ignore_eos=True, **options)
            assert (found.error, expected.tokens) == (None, found.tokens)
        assert all(stage.peering.staging.host.counters.calls for stage in stages)
