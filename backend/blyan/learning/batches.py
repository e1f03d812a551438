"""Dialogues to padded batches of token ids.

Dialogues of like length share a batch, so that little of it is padding; only what the assistant says is learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from tokenizers import Tokenizer

from blyan.learning import curriculum
from blyan.learning.draws import Draws
from blyan.learning.tokenizer_training import render, turn_end, turn_start
from blyan.model.training import Batch

_pool_batches = 16  # dialogues for this many batches are sorted by length together


class DialogueEncoder:
    """Token ids of rendered dialogues and which of them are learned."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        (self._start,) = tokenizer.encode(turn_start).ids
        (self._end,) = tokenizer.encode(turn_end).ids
        self._assistant = tokenizer.encode("assistant\n").ids

    def encode(self, dialogues: Sequence[curriculum.Dialogue]) -> list[tuple[list[int], list[bool]]]:
        """Per dialogue its ids, and True at each token of an assistant's text and at the turn's end after it."""
        encodings = self.tokenizer.encode_batch([render(dialogue) for dialogue in dialogues])
        return [(encoding.ids, self._learned(encoding.ids)) for encoding in encodings]

    def batch(self, dialogues: Sequence[curriculum.Dialogue]) -> Batch:
        """All dialogues in one batch."""
        return _padded(self.encode(dialogues), self._end)

    def batches(self, seed: int, batch_tokens: int) -> Iterator[Batch]:
        """Endless training batches of about `batch_tokens` tokens each, padding included."""
        stream, draws = curriculum.dialogues(seed), Draws(seed + 1)
        while True:
            pool: list[tuple[list[int], list[bool]]] = []
            total = 0
            while total < _pool_batches * batch_tokens:
                fresh = self.encode([next(stream) for _ in range(64)])
                pool += fresh
                total += sum(len(ids) for ids, _ in fresh)
            pool.sort(key=lambda row: len(row[0]))
            for rows in draws.shuffled(_cut(pool, batch_tokens)):
                yield _padded(rows, self._end)

    def _learned(self, ids: list[int]) -> list[bool]:
        learned, header, speaking, position = [False] * len(ids), len(self._assistant), False, 0
        while position < len(ids):
            if ids[position] == self._start:
                speaking = ids[position + 1 : position + 1 + header] == self._assistant
                position += header if speaking else 0
            elif speaking:
                learned[position] = True
                speaking = ids[position] != self._end
            position += 1
        return learned


def _cut(pool: list[tuple[list[int], list[bool]]], batch_tokens: int) -> list[list[tuple[list[int], list[bool]]]]:
    batches: list[list[tuple[list[int], list[bool]]]] = [[]]
    for row in pool:
        if (len(batches[-1]) + 1) * len(row[0]) > batch_tokens and batches[-1]:
            batches.append([])
        batches[-1].append(row)
    return batches


def _padded(rows: Sequence[tuple[list[int], list[bool]]], filler: int) -> Batch:
    width = max(len(ids) for ids, _ in rows)
    tokens = torch.tensor([ids + [filler] * (width - len(ids)) for ids, _ in rows])
    learned = torch.tensor([flags + [False] * (width - len(flags)) for _, flags in rows])
    present = torch.arange(width) < torch.tensor([[len(ids)] for ids, _ in rows])
    return Batch(tokens, present, learned)
