"""In bf16 every plan chooses what one node chooses, wherever that is clear (docs/ARCHITECTURE.md, invariant 4).

Position by position, each after the same tokens: a difference at one says nothing of those after it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import torch

from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, serving
from swarm_in_process import Member, serving_member, until
from swarm_nodes import everything, nothing, of_layers, part_of_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

TOLERANCE = 0.05  # nat
SPANS = (range(2), range(2, 4))
TOKENS = torch.randint(0, 256, (120,), generator=torch.Generator().manual_seed(1)).tolist()
LENGTHS = range(8, 120, 4)  # of beginnings that are gone on from
SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_k": 2, "seed": 11}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def urls(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """One node with everything, a gateway of a pipeline, and one that delegates."""
    root = tmp_path_factory.mktemp("bf16")
    save_random_checkpoint(root / "hf", family="mixtral", vocab_size=260, dtype="bfloat16", scale=1.0)
    save_byte_tokenizer(root / "hf")
    import_into(root / "whole", root / "hf", "random")
    for name in ("pipeline", "static_delegate"):
        part_of_checkpoint(root / name, root / "hf", "random", nothing, True)
    for number, span in enumerate(SPANS):
        part_of_checkpoint(root / f"stage{number}", root / "hf", "random", of_layers(span), span)
    part_of_checkpoint(root / "lead", root / "hf", "random", everything, True)
    async with contextlib.AsyncExitStack() as stack:
        gateways: dict[str, Member] = {}
        for plan in ("pipeline", "static_delegate"):
            gateways[plan], _ = await stack.enter_async_context(serving_member(root / plan, plan=plan))
        join = tuple(each.join_url for each in gateways.values())
        others = [("stage0", "stage"), ("stage1", "stage"), ("lead", "expert")]
        members = [
            (await stack.enter_async_context(serving_member(root / name, join=join, roles=(role,))))[0]
            for name, role in others
        ]
        keys = {each.peering.identity.key.public for each in members}
        await until(lambda: all(keys <= each.links for each in gateways.values()), "links to all")
        await until(lambda: members[1].peering.identity.key.public in members[0].links, "links of the stages")
        client = await stack.enter_async_context(serving(root / "whole", inference={"expert_memory": "0B"}))
        yield {"whole": str(client.make_url("/")).rstrip("/")} | {plan: each.url for plan, each in gateways.items()}
        assert all(each.peering.staging.host.counters.calls for each in members[:2])
        delegating = gateways["static_delegate"].node.answering.delegating
        assert delegating is not None and delegating.counters.asked and not delegating.counters.own


async def one_more(url: str, tokens: list[int], **options: object) -> tuple[str, dict[str, float]]:
    """The next token, and log-probabilities of the likeliest two and that one."""
    body = {"model": "random", "prompt": tokens, "logprobs": 2, "max_tokens": 1, "ignore_eos": True, **options}
    async with aiohttp.ClientSession(url) as session, session.post("/v1/completions", json=body) as response:
        assert response.status == 200, await response.text()
        said = (await response.json())["choices"][0]["logprobs"]
        return said["tokens"][0], said["top_logprobs"][0]


async def all_of(url: str, **options: object) -> list[tuple[str, dict[str, float]]]:
    return list(await asyncio.gather(*(one_more(url, TOKENS[:length], **options) for length in LENGTHS)))


@pytest.mark.parametrize("plan", ["pipeline", "static_delegate"])
async def test_a_plan_chooses_what_one_node_chooses(urls: dict[str, str], plan: str) -> None:
    """Greedy: the same token where the margin exceeds twice the tolerance. Seeded: the same draw, but near a border."""
    clear = differing = drawn = 0
    worst = 0.0
    for options in ({"temperature": 0.0}, SAMPLED):
        expected, found = await all_of(urls["whole"], **options), await all_of(urls[plan], **options)
        for (token, likely), (other, theirs) in zip(expected, found, strict=True):
            worst = max([worst, *(abs(likely[each] - theirs[each]) for each in likely.keys() & theirs.keys())])
            best = sorted(likely.values(), reverse=True)
            if options is SAMPLED:
                drawn += token != other
            elif best[0] - best[1] > 2 * TOLERANCE:
                clear += 1
                differing += token != other
    said = f"{clear} of {len(LENGTHS)} clear, {differing} of these differ; {drawn} draws differ"
    print(f"bf16, {plan}: largest difference {worst:.2g} nat, {said}")
    assert clear >= 5
    assert (worst <= TOLERANCE, differing) == (True, 0)
    assert drawn <= 0.1 * len(LENGTHS)
