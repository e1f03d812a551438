"""Room for every intermediate of a step in jitted code, and a step's runs laid out in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blyan.model import fused_layout as at
from blyan.model.config import ModelConfig
from blyan.model.kernels import panel
from blyan.model.rotary import rotary_table
from blyan.model.stepping import KVPages, Run, RunResult, page_positions
from blyan.model.weight_tables import WeightTables

_task_rows: Final = 8  # positions of a run whose attention is one piece of work
_spare: Final = 16  # numbers behind each array, which the last vector may touch
_angle_rows: Final = 1024  # positions whose angles are computed at once


class Angles:
    """Cosines and sines of positions [positions, 2, head_dim] fp32, rounded as the hidden states are."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self._config, self._dtype = config, dtype
        self._kept: dict[int, Tensor] = {}  # by the reach that chose the frequencies

    def of(self, start: int, count: int, reach: int) -> tuple[Tensor, int]:
        """A table and the position of its first row."""
        scaling = self._config.rope_scaling
        if scaling is not None and scaling.kind == "dynamic" and reach > scaling.original_context:
            return self._computed(start, count, reach), start  # every length has frequencies of its own
        regime = 0
        if scaling is not None and scaling.kind in ("dynamic", "longrope"):
            regime = int(reach > scaling.original_context)
        held = self._kept.get(regime)
        if held is None or len(held) < start + count:
            length = -(-(start + count) // _angle_rows) * _angle_rows
            length = max(length, 0 if held is None else 2 * len(held))
            held = torch.cat([self._computed(begin, _angle_rows, reach) for begin in range(0, length, _angle_rows)])
            self._kept[regime] = held
        return held, 0

    def _computed(self, start: int, count: int, reach: int) -> Tensor:
        config = self._config
        tables = rotary_table(config.head_dim, config.rope_theta, config.rope_scaling, start, count, reach)
        return torch.stack(tables, dim=1).to(self._dtype).float().contiguous()


def _numbers(config: ModelConfig, pages: int, widest: int) -> NDArray[np.int64]:
    """`dims`: what the configuration says, and the width of the widest expert or dense layer."""
    norms = {"none": 0, "head": 1, "projection": 2}
    dims = np.zeros(14, np.int64)
    for column, value in (
        (at.LAYERS, config.layers),
        (at.HIDDEN, config.hidden),
        (at.HEADS, config.heads),
        (at.KV_HEADS, config.kv_heads),
        (at.HEAD_DIM, config.head_dim),
        (at.EXPERTS, config.experts),
        (at.TOP_K, config.experts_per_token),
        (at.VOCAB, config.vocab_size),
        (at.NORMALISE, int(config.normalise_top_k)),
        (at.WIDE, int(config.facts.wide_routing_weights)),
        (at.QK_NORM, norms[config.facts.qk_norm]),
        (at.PAGES, pages),
        (at.INNER, config.expert_intermediate),
        (at.ROOM, widest),
    ):
        dims[column] = value
    return dims


class Room:
    """Arrays for a step of at most `rows` rows and `pages` entries of page tables."""

    def __init__(
        self, config: ModelConfig, kv: KVPages, tables: WeightTables, threads: int, rows: int, pages: int
    ) -> None:
        self.rows, self.pages = rows, pages
        self._config = config
        shared = int(tables.trunk[:, at.EXTRA_INNER].max())
        pairs = rows * (config.experts_per_token + 1)
        widest = max(config.expert_intermediate, shared)
        self.dims = _numbers(config, kv.pages, widest)
        wide, narrow = config.heads * config.head_dim, config.kv_heads * config.head_dim
        lanes = -(-config.experts // 8) * 8
        longest = pages * page_positions + 16  # positions of one sequence, with room for a last vector
        deepest = max(config.hidden, wide, widest)  # inputs of a matrix
        numbers = {
            at.X: rows * config.hidden,
            at.NORMED: rows * config.hidden,
            at.QUERIES: rows * wide,
            at.NEW_KEYS: rows * narrow,
            at.NEW_VALUES: rows * narrow,
            at.ATTENDED: rows * wide,
            at.PROJECTED: rows * config.hidden,
            at.GATED: pairs * widest,
            at.RAISED: pairs * widest,
            at.LOWERED: pairs * config.hidden,
            at.MIXED: rows * config.hidden,
            at.ROUTING: rows * lanes,
            at.ATTENTION: threads * 2 * longest,
            at.PANELS: threads * panel * deepest,
        }
        self.places = np.zeros(22, np.int64)
        self._arrays = {place: np.empty(count + _spare, np.float32) for place, count in numbers.items()}
        for place, array in self._arrays.items():
            self.places[place] = array.ctypes.data
        for place, tensor in (
            (at.EMBED, tables.embed),
            (at.FINAL_NORM, tables.norm),
            (at.HEAD, tables.head),
        ):
            self.places[place] = 0 if tensor is None else tensor.data_ptr()
        for place, pool in ((at.KEYS, kv.keys), (at.VALUES, kv.values)):
            # where layer 0 would lie: of some layers' pages the first may be another
            self.places[place] = pool.data_ptr() - kv.first * pool.stride(0) * pool.itemsize
        self.places[at.SCORE_BYTES] = longest * 4
        self.places[at.PANEL_BYTES] = panel * deepest * 4
        top_k, moe = config.experts_per_token, max(1, len(config.moe_layers))
        self.sizes = np.zeros(3, np.int64)
        self._step_rows = np.zeros((rows, 4), np.int64)
        self._tasks = np.zeros((rows, 4), np.int64)
        self._page_tables = np.zeros(pages, np.int64)
        self._scored = np.zeros(rows, np.int64)
        self.bad = np.zeros(rows, np.int64)
        self.chosen = np.zeros((moe, rows, top_k), np.int64)
        self.listed = np.zeros(pairs, np.int64)  # rows, expert by expert: one slot each
        self.ranges = np.zeros((config.experts + 2, 4), np.int64)  # of slots: see `fused_experts.group_rows`
        self.work: tuple[Any, ...] = (
            self.sizes,
            self._step_rows,
            self._tasks,
            self._page_tables,
            self._scored,
            self.bad,
            self.chosen,
            np.zeros((rows, top_k), np.float32),
            np.zeros((rows, top_k), np.int64),
            self.listed,
            self.ranges,
        )

    def rows_at(self, place: int) -> NDArray[np.float32]:
        """What stands at `X`, `NORMED` (a row each) or `LOWERED` (a slot each): [n, hidden], a view."""
        array = self._arrays[place]
        return array[: len(array) - _spare].reshape(-1, self._config.hidden)

    def lay_out(self, runs: Sequence[Run], angles: Angles, scores: NDArray[np.float32]) -> list[Tensor]:
        """Write down a step; what is returned must live until it was computed."""
        first = scored = 0
        alive: list[Tensor] = []
        rows: list[int] = []  # of each row: token, its angles' address, page, place in the page
        tasks: list[int] = []  # of each: first row, rows, first position, first entry of the page table
        listed: list[int] = []
        wanted: list[int] = []
        row_bytes = 2 * self._config.head_dim * 4
        for run in runs:
            count, start, pages = len(run.tokens), run.start, run.pages
            table, begin = angles.of(start, count, max(run.reach, start + count))
            alive.append(table)
            address = table.data_ptr() - begin * row_bytes
            for position, token in enumerate(run.tokens, start):
                page, place = divmod(position, page_positions)
                rows += (token, address + position * row_bytes, pages[page], place)
            for done in range(0, count, _task_rows):
                tasks += (first + done, min(_task_rows, count - done), start + done, len(listed))
            listed += pages
            first += count
            scored += run.scored
            wanted += range(first - run.scored, first)
        # flat: an array of a list of numbers is made several times as quickly as one of a list of tuples
        self._step_rows[:first] = np.array(rows, np.int64).reshape(-1, 4)
        self._tasks[: len(tasks) // 4] = np.array(tasks, np.int64).reshape(-1, 4)
        self._page_tables[: len(listed)] = listed
        self._scored[:scored] = wanted
        self.bad[:scored] = 0
        self.sizes[:] = first, len(tasks) // 4, scored
        self.places[at.SCORES] = scores.ctypes.data
        return alive

    def results(self, runs: Sequence[Run], scores: NDArray[np.float32]) -> list[RunResult]:
        """What each run gave."""
        results: list[RunResult] = []
        first = scored = 0
        moe, hidden = len(self._config.moe_layers), self._config.hidden
        all_chosen = self.chosen[:moe, : int(self.sizes[0])].astype(np.int32)
        for run in runs:
            count = len(run.tokens)
            chosen = all_chosen[:, first : first + count]
            states = None
            if run.hidden:
                found = self._arrays[at.NORMED][first * hidden : (first + count) * hidden]
                states = torch.from_numpy(found.reshape(count, hidden).copy())
            results.append(RunResult(scores[scored : scored + run.scored], chosen, states))
            first, scored = first + count, scored + run.scored
        return results
