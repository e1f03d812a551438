"""Greedy answers of a model under training: many conversations at once, each step computed from the start.

There is no cache: a small model's short answers are cheaper to compute again than to keep, and this is the plainest
form of what a node does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from blyan.learning.batches import DialogueEncoder
from blyan.model.config import ModelConfig
from blyan.model.gate import Routing
from blyan.model.training import FlatWeights, run_forward
from blyan.model.transformer import logits

_at_once = 128


@torch.no_grad()
def greedy_answers(
    parameters: Mapping[str, Tensor],
    config: ModelConfig,
    encoder: DialogueEncoder,
    conversations: Sequence[Sequence[Mapping[str, object]]],
    tokens_max: int,
) -> list[str]:
    """The likeliest answer to each conversation, token by token, up to its end or `tokens_max` tokens."""
    prompts = [encoder.prompt(messages) for messages in conversations]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers = [""] * len(prompts)
    for begin in range(0, len(order), _at_once):
        chosen = order[begin : begin + _at_once]
        for index, ids in zip(chosen, _answered(parameters, config, encoder, prompts, chosen, tokens_max), strict=True):
            answers[index] = encoder.tokenizer.decode(ids)
    return answers


def _answered(
    parameters: Mapping[str, Tensor],
    config: ModelConfig,
    encoder: DialogueEncoder,
    prompts: Sequence[list[int]],
    chosen: Sequence[int],
    tokens_max: int,
) -> list[list[int]]:
    rows = {index: list(prompts[index]) for index in chosen}
    going = list(chosen)
    for _ in range(tokens_max):
        width = max(len(rows[index]) for index in going)
        # Filled up on the right: what stands there is not seen by what stands before it.
        tokens = torch.tensor([rows[index] + [encoder.end] * (width - len(rows[index])) for index in going])
        hidden = run_forward(parameters, config, tokens.to(next(iter(parameters.values())).device))
        last = hidden[torch.arange(len(going)), torch.tensor([len(rows[index]) - 1 for index in going])]
        best = logits(FlatWeights(parameters), config, last).argmax(dim=-1).tolist()
        for index, token in zip(going, best, strict=True):
            rows[index].append(token)
        going = [index for index, token in zip(going, best, strict=True) if token != encoder.end]
        going = [index for index in going if len(rows[index]) < config.context_length]
        if not going:
            break
    return [[token for token in rows[index][len(prompts[index]) :] if token != encoder.end] for index in chosen]


@torch.no_grad()
def experts_chosen(
    parameters: Mapping[str, Tensor],
    config: ModelConfig,
    encoder: DialogueEncoder,
    dialogues: Sequence[Sequence[Mapping[str, object]]],
) -> Tensor:
    """How often each expert of each layer was chosen for tokens of these dialogues' answers: [layers, experts]."""
    counts = torch.zeros(config.layers, config.experts, dtype=torch.int64)
    for begin in range(0, len(dialogues), _at_once):
        batch = encoder.batch(dialogues[begin : begin + _at_once])
        routings: list[Routing] = []
        run_forward(parameters, config, batch.tokens, routings)
        learned = batch.learned.flatten()
        for layer, routing in enumerate(routings):
            counts[layer] += torch.bincount(routing.chosen[learned].flatten(), minlength=config.experts)
    return counts
