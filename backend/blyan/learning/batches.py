"""Dialogues to padded batches of token ids, in an order that the seed decides and a position resumes.

Dialogues of like length share a batch, so that little of it is padding, and none sees another; only what the assistant
says is learned. They are drawn in pools of a seed each: to go on at a later one, no earlier one is drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from blyan.learning.draws import Draws
from blyan.learning.tokenizer_training import render, turn_end, turn_start
from blyan.model.training import Batch

Dialogues = Callable[[int], Iterator[Sequence[Mapping[str, object]]]]  # an endless stream for each seed
Row = tuple[list[int], list[bool]]

_pool_batches = 64  # dialogues for about this many batches are sorted by length together
_width_step = 16  # few widths, so that few shapes of products: a new one costs a kernel of oneDNN's in bfloat16
_seeds_apart = 1_000_003  # between two runs' seeds lie the seeds of this many pools


@dataclass(frozen=True, slots=True)
class Position:
    """Where in the order of batches a training is."""

    pool: int = 0
    batch: int = 0


class DialogueEncoder:
    """Token ids of rendered dialogues and which of them are learned.

    `apart` is a mark between two letters that shall be tokens of their own; it is no part of the text.
    """

    def __init__(self, tokenizer: Tokenizer, apart: str) -> None:
        self.tokenizer = tokenizer
        self._apart = apart
        (self._start,) = tokenizer.encode(turn_start).ids
        (self.end,) = tokenizer.encode(turn_end).ids
        self._assistant = tokenizer.encode("assistant\n").ids

    def encode(self, dialogues: Sequence[Sequence[Mapping[str, object]]]) -> list[Row]:
        """Per dialogue its ids, and True at each token of an assistant's text and at the turn's end after it."""
        pieces = [render(dialogue).split(self._apart) for dialogue in dialogues]
        encodings = iter(self.tokenizer.encode_batch([piece for text in pieces for piece in text]))
        rows: list[Row] = []
        for text in pieces:
            ids = [number for _ in text for number in next(encodings).ids]
            rows.append((ids, self._learned(ids)))
        return rows

    def prompt(self, messages: Sequence[Mapping[str, object]]) -> list[int]:
        """Token ids of a conversation up to where the assistant begins to answer."""
        return self.tokenizer.encode(render(messages, add_generation_prompt=True)).ids

    def batch(self, dialogues: Sequence[Sequence[Mapping[str, object]]]) -> Batch:
        """All dialogues in one batch."""
        return _padded(self.encode(dialogues), self.end)

    def batches(
        self, dialogues: Dialogues, seed: int, batch_tokens: int, start: Position = Position()
    ) -> Iterator[tuple[Position, Batch]]:
        """Endless batches of about `batch_tokens` tokens each, padding included, with the position after each."""
        for number in range(start.pool, _seeds_apart):
            rows = self._pool(dialogues(pool_seed(seed, number)), _pool_batches * batch_tokens)
            batches = Draws(seed + number).shuffled(_cut(rows, batch_tokens))
            for index in range(start.batch if number == start.pool else 0, len(batches)):
                after = Position(number, index + 1) if index + 1 < len(batches) else Position(number + 1)
                yield after, _padded(batches[index], self.end)

    def _pool(self, stream: Iterator[Sequence[Mapping[str, object]]], tokens: int) -> list[Row]:
        pool: list[Row] = []
        total = 0
        while total < tokens:
            fresh = self.encode([next(stream) for _ in range(64)])
            pool += fresh
            total += sum(len(ids) for ids, _ in fresh)
        return sorted(pool, key=lambda row: len(row[0]))

    def _learned(self, ids: list[int]) -> list[bool]:
        learned, header, speaking, position = [False] * len(ids), len(self._assistant), False, 0
        while position < len(ids):
            if ids[position] == self._start:
                speaking = ids[position + 1 : position + 1 + header] == self._assistant
                position += header if speaking else 0
            elif speaking:
                learned[position] = True
                speaking = ids[position] != self.end
            position += 1
        return learned


def pool_seed(seed: int, number: int) -> int:
    """The seed of the dialogues of one pool."""
    return seed * _seeds_apart + number


def _cut(pool: list[Row], batch_tokens: int) -> list[list[Row]]:
    """Batches of `batch_tokens` at most, as wide as their longest dialogue: an even number of rows for each width."""
    batches: list[list[Row]] = []
    end = len(pool)
    while end:  # from the longest down, so that the width of a batch is known before its rows
        width = _width(len(pool[end - 1][0]))
        count = min(end, max(1, batch_tokens // (2 * width) * 2))
        batches.append(pool[end - count : end])
        end -= count
    return batches


def _width(length: int) -> int:
    return -(-length // _width_step) * _width_step


def _padded(rows: Sequence[Row], filler: int) -> Batch:
    width = _width(max(len(ids) for ids, _ in rows))
    tokens = torch.tensor([ids + [filler] * (width - len(ids)) for ids, _ in rows])
    learned = torch.tensor([flags + [False] * (width - len(flags)) for _, flags in rows])
    present = torch.arange(width) < torch.tensor([[len(ids)] for ids, _ in rows])
    return Batch(tokens, present, learned)
