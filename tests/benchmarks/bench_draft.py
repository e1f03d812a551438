"""Guessing ahead by prompt lookup: the same requests to two nodes, one that guesses and one that does not.

Back of the envelope: a step that verifies k guesses reads the trunk once and the experts of k + 1 positions, so with a
right guesses a step of up to 1 + a tokens costs as much as one, while wrong ones cost the experts they met and their
arithmetic. Requests are those of tests/benchmarks/draft_workload.py, seeded. Both answers are compared token by token.
Seconds are of whole answers through HTTP, each request asked of both nodes in turn, the order changing; the ratio is
that of all seconds together. Guessing is a default only if no workload loses and the repetitive ones win.
"""

from __future__ import annotations

import os
import time

from benched_node import BenchedNode, node_up
from draft_workload import Request, asked_again, first, noise, records, sums, texts
from harness import SMOKE, Page
from reference_models import BUILT_IN, Reference, chosen, reference

GUESSED = int(os.environ.get("DRAFT_TOKENS", "8"))
EACH = 2 if SMOKE else 40
COUNT = 16 if SMOKE else 128
SETTING = "BLYAN_INFERENCE__DRAFT_TOKENS"
KINDS = {BUILT_IN: ("fp32",), "tiny": ("fp32", "bf16"), "200m": ("bf16",), "smoke": ("fp32",)}


def workloads(model: Reference, kind: str) -> dict[str, list[Request]]:
    """What this model is asked, by name."""
    served, vocab = model.model(kind), model.manifest(kind).config.vocab_size
    found = {
        "records with changes, greedy": first(records(served, 1, vocab, COUNT), EACH),
        "noise at temperature 1": first(noise(served, 2, vocab, COUNT), EACH),
    }
    if model.name == BUILT_IN:
        found |= {
            "asked again": first(asked_again(served, 3), EACH),
            "sums in a conversation": first(sums(served, 4), EACH),
            "copy, edit, extract": first(texts(served, 5), EACH),
        }
    return found


def drafts(node: BenchedNode) -> tuple[float, float]:
    """Guesses so far that were right, and all."""
    found = node.metrics()
    right, wrong = (found[f'blyan_draft_tokens_total{{outcome="{outcome}"}}'] for outcome in ("accepted", "refused"))
    return right, right + wrong


def compare(name: str, requests: list[Request], plain: BenchedNode, guessing: BenchedNode, page: Page) -> None:
    """The row of one workload."""
    nodes = (plain, guessing)
    asks = [node.timed() for node in nodes]
    for path, body in requests[:3]:
        for ask in asks:
            ask(path, body)
    right_before, all_before = drafts(guessing)
    seconds, tokens = [0.0, 0.0], 0
    for turn, (path, body) in enumerate(requests):
        answers: dict[int, list[int]] = {}
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            began = time.perf_counter()
            answers[which] = asks[which](path, body).tokens
            seconds[which] += time.perf_counter() - began
        assert answers[0] == answers[1], f"{name}: expected {answers[0]} with guesses too, found {answers[1]}"
        tokens += len(answers[0])
    right, guessed = (
        after - before for after, before in zip(drafts(guessing), (right_before, all_before), strict=True)
    )
    share = f"{right / guessed:.0%} of {guessed:,.0f} guesses right" if guessed else "nothing guessed"
    page.row(
        name,
        f"{seconds[0] / seconds[1]:.2f} × as fast: {tokens / seconds[1]:,.0f} against {tokens / seconds[0]:,.0f} tok/s",
        f"{share}; same tokens in {len(requests)} answers",
    )


def main() -> None:
    page = Page("draft", "Guessing ahead by prompt lookup", __doc__.partition("\n\n")[2].strip())
    page.row("guesses a step at most", str(GUESSED), "`inference.draft_tokens`")
    for name in chosen((BUILT_IN, "tiny", "200m")):
        model = reference(name)
        with (
            node_up(model.data_dir, **{SETTING: "0"}) as plain,
            node_up(model.twin(), **{SETTING: str(GUESSED)}) as guessing,
        ):
            for kind in KINDS[name]:
                for what, requests in workloads(model, kind).items():
                    compare(f"{name} {kind}: {what}", requests, plain, guessing, page)
    page.write()


if __name__ == "__main__":
    main()
