"""How much of a prompt goes into a step in which others write (`inference.prompt_tokens`): what each side pays for it.

Back of the envelope: a step that reads n positions of a prompt takes about n ÷ (prefill speed) longer, and every stream
that writes waits for it; so the longest gap between two tokens grows with n, by about 16 ms for 128 positions at 8,000
a second. The prompt of p tokens needs p ÷ n steps, each of which costs what a step without a prompt costs too; so its
first token comes the sooner the larger n is. What writes and what reads share the same arithmetic: no n serves both.

Eight streams write; once each of them has tokens, a prompt comes in. Throughput and gaps are those of the eight between
the prompt's request and its first token, beside their throughput before. Each setting has a node of its own; settings
are gone through forwards and backwards, so that each is measured early and late. Rows are medians of all runs of a
setting, and the longest gap is that of all. Every stream gives the tokens that it gives with every other setting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from benched_node import BenchedNode, completion, node_up
from harness import SMOKE, Page, milliseconds, percentile
from load_generator import STREAM_LIMIT_S, Stream, stream
from reference_models import Reference, chosen, reference

SETTINGS = (32, 128) if SMOKE else (32, 64, 128, 256, 512)
STREAMS, PROMPT = 8, 32
LONG = 256 if SMOKE else 4_000
BEFORE_S = 0.1 if SMOKE else 0.5  # of writing alone
RUNS = 1 if SMOKE else 3  # of a node
KIND = "fp32"


@dataclass(frozen=True)
class Found:
    """One run."""

    alone: float  # tokens a second of all streams before the prompt came
    beside: float  # while it was read
    gaps: list[float]  # seconds between two events of a stream while it was read
    first: float  # seconds to the prompt's first token
    tokens: list[tuple[int, ...]]  # of each stream, the prompt's last

    def agrees(self, other: Found) -> bool:
        """Whether streams of both begin alike, as far as both were read."""
        pairs = zip(self.tokens, other.tokens, strict=True)
        return all(one[: len(two)] == two[: len(one)] for one, two in pairs)


def written(streams: Sequence[Stream], begin: float, end: float) -> float:
    """Tokens a second of all streams between two moments; an event holds what came of one step."""
    return sum(begin < moment <= end for each in streams for moment in each.moments) / (end - begin)


def gaps(streams: Sequence[Stream], begin: float, end: float) -> list[float]:
    """Between two events of a stream, wherever a part of that lies between the moments."""
    return [two - one for each in streams for one, two in pairwise(each.moments) if two > begin and one < end]


async def run(node: BenchedNode, model: Reference, seed: int) -> Found:
    """Eight streams, and a prompt that comes in."""
    name, count = model.model(KIND), model.manifest(KIND).config.context_length - PROMPT
    writing = [Stream(0.0) for _ in range(STREAMS)]
    bodies = [
        completion(name, model.prompt(PROMPT, seed + number), count, user=f"writer-{number}")
        for number in range(STREAMS)
    ]
    tasks = [
        asyncio.create_task(stream(node.address, body, found=found))
        for body, found in zip(bodies, writing, strict=True)
    ]
    try:
        async with asyncio.timeout(STREAM_LIMIT_S):
            while not all(each.first for each in writing):  # noqa: ASYNC110 - streams tell nobody of their tokens
                await asyncio.sleep(0.005)
        begun = time.perf_counter()
        await asyncio.sleep(BEFORE_S)
        long = completion(name, model.prompt(LONG, seed + STREAMS), 1, user="reader")
        came = time.perf_counter()
        read = await stream(node.address, long)
        assert read.done and len(read.tokens) == 1, f"expected a token, found {read.status} {read.fault}"
        ended = [
            each.fault or f"an end after {len(each.tokens)}"
            for each, task in zip(writing, tasks, strict=True)
            if task.done()
        ]

        assert not ended, f"expected streams that outlast the prompt, found: {ended[0]}"
        await asyncio.sleep(0.05)  # the gap in which the prompt's last step lies ends after it
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return Found(
        alone=written(writing, begun, came),
        beside=written(writing, came, read.first),
        gaps=gaps(writing, came, read.first),
        first=read.to_first,
        tokens=[tuple(each.tokens) for each in (*writing, read)],
    )


def measured(model: Reference, setting: int) -> list[Found]:
    """Some runs of a fresh node with this setting."""
    with node_up(model.data_dir, BLYAN_INFERENCE__PROMPT_TOKENS=str(setting)) as node:
        node.jitted(model.model(KIND))
        asyncio.run(run(node, model, 1_000))
        return [asyncio.run(run(node, model, 10_000 * (number + 1))) for number in range(RUNS)]


def tell(page: Page, name: str, setting: int, runs: Sequence[Found]) -> None:
    """The row of one setting."""
    waits = [gap for each in runs for gap in each.gaps]
    alone, beside = median(each.alone for each in runs), median(each.beside for each in runs)
    page.row(
        f"{name} {KIND}, prompt_tokens {setting}: {STREAMS} streams beside a prompt of {LONG:,} tokens",
        f"{beside:,.0f} tok/s; between two tokens p99 {milliseconds(percentile(waits, 0.99))}, "
        f"longest {milliseconds(max(waits))}; the prompt's first token after "
        f"{milliseconds(median(each.first for each in runs))}",
        f"{alone:,.0f} tok/s without it",
    )


def main() -> None:
    page = Page("steps", "Prompts beside streams", __doc__.partition("\n\n")[2].strip())
    for name in chosen(("tiny",)):
        model = reference(name, (KIND,))
        found: dict[int, list[Found]] = {setting: [] for setting in SETTINGS}
        for setting in (*SETTINGS, *(() if SMOKE else reversed(SETTINGS))):
            found[setting] += measured(model, setting)
        for setting in SETTINGS:
            for one, other in zip(found[setting][:RUNS], found[SETTINGS[0]], strict=False):
                assert one.agrees(other), f"prompt_tokens {setting}: expected the tokens of {SETTINGS[0]}"
            tell(page, name, setting, found[setting])
    page.write()


if __name__ == "__main__":
    main()
