"""The curve of a training as SVG: loss and share of the exam over tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

_width, _height, _margin = 720, 320, 48
_lines_max = 400  # points drawn of one line


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The lines of a training's `curve.jsonl`."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def svg_of(lines: Sequence[dict[str, Any]]) -> str:
    """Loss on a logarithmic scale at the left, exact match at the right, over millions of tokens."""
    losses = [(line["tokens"], line["loss"]) for line in lines if "loss" in line]
    marks = [(line["tokens"], line["marks"]["share"]) for line in lines if "marks" in line]
    most = max([tokens for tokens, _ in losses + marks], default=1)
    low = min((loss for _, loss in losses), default=0.01)
    high = max((loss for _, loss in losses), default=10.0)
    bottom, top = math.floor(math.log10(max(low, 1e-4))), math.ceil(math.log10(max(high, 1e-3)))

    def across(tokens: float) -> float:
        return _margin + (_width - 2 * _margin) * tokens / most

    def down(share: float) -> float:
        return _margin + (_height - 2 * _margin) * (1 - share)

    def loss_at(loss: float) -> float:
        return down((math.log10(max(loss, 1e-4)) - bottom) / max(1, top - bottom))

    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_width} {_height}" font-size="11">',
        f'<rect width="{_width}" height="{_height}" fill="white"/>',
    ]
    for power in range(bottom, top + 1):
        height = loss_at(10.0**power)
        drawn.append(f'<path d="M{_margin} {height:.1f}H{_width - _margin}" stroke="#ddd"/>')
        drawn.append(f'<text x="{_margin - 6}" y="{height + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    below = _height - _margin + 18
    for part in (0, 0.25, 0.5, 0.75, 1):
        at, millions = across(part * most), part * most / 1e6
        drawn.append(f'<text x="{_width - _margin + 6}" y="{down(part) + 4:.1f}">{part:.0%}</text>')
        drawn.append(f'<text x="{at:.1f}" y="{below}" text-anchor="middle">{millions:.1f}</text>')
    drawn.append(_line([(across(x), loss_at(y)) for x, y in losses], "#1f5fbf"))
    drawn.append(_line([(across(x), down(y)) for x, y in marks], "#c2410c"))
    drawn.append(f'<text x="{_margin}" y="20" fill="#1f5fbf">loss, nats a learned token</text>')
    drawn.append(f'<text x="{_width - _margin}" y="20" fill="#c2410c" text-anchor="end">exam, exact match</text>')
    drawn.append(f'<text x="{_width / 2}" y="{_height - 8}" text-anchor="middle">millions of tokens</text></svg>')
    return "\n".join(drawn) + "\n"


def _line(points: Sequence[tuple[float, float]], colour: str) -> str:
    step = max(1, len(points) // _lines_max)
    kept = [*points[::step], *points[-1:]]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in kept)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
