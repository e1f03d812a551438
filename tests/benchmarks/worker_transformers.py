"""transformers as a contender: `worker_transformers.py TYPE=FOLDER…`, two torch threads, its best settings.

The loop is `generate`'s without what `generate` adds: a prompt whose last scores alone are computed, then one token at
a time with its own cache, in inference mode. Which implementation of the experts is its fastest here is tried first.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from line_protocol import Ask, Timed, serve, stepwise
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils import logging

EXPERTS = ("eager", "grouped_mm")


def contender(model: torch.nn.Module) -> Ask:
    """A loaded model as one that can be asked."""
    state: dict[str, DynamicCache] = {}

    @torch.inference_mode()
    def forward(tokens: Sequence[int]) -> int:
        found = model(
            input_ids=torch.tensor([tokens]), past_key_values=state["cache"], use_cache=True, logits_to_keep=1
        )
        return int(found.logits[0, -1].argmax())

    def begin(prompt: Sequence[int]) -> int:
        state["cache"] = DynamicCache(config=model.config)
        return forward(prompt)

    def ask(prompt: Sequence[int], count: int) -> Timed:
        return stepwise(prompt, count, begin, lambda token: forward([token]))

    return ask


def load() -> tuple[dict[str, Ask], str]:
    """Every checkpoint of the command line with the fastest of its implementations of experts."""
    torch.set_num_threads(2)
    logging.set_verbosity_error()
    found: dict[str, Ask] = {}
    notes: list[str] = []
    for argument in sys.argv[1:]:
        kind, _, folder = argument.partition("=")
        speeds: dict[str, float] = {}
        asks: dict[str, Ask] = {}
        for experts in EXPERTS:
            dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[kind]
            try:
                model = AutoModelForCausalLM.from_pretrained(
                    folder, dtype=dtype, attn_implementation="sdpa", experts_implementation=experts
                ).eval()
                ask = contender(model)
                ask(list(range(3, 35)), 8)
                speeds[experts], asks[experts] = ask(list(range(3, 35)), 24).decode, ask
            except (NotImplementedError, RuntimeError, TypeError, ValueError) as reason:
                print(f"{kind} with experts {experts}: {reason}", file=sys.stderr)
        best = max(speeds, key=lambda experts: speeds[experts])
        found[kind] = asks[best]
        notes.append(f"{kind}: " + ", ".join(f"{name} {speed:.0f} tok/s" for name, speed in speeds.items()))
    return found, "; ".join(notes)


if __name__ == "__main__":
    serve(load)
