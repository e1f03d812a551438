"""How the matrices of a model are stored, if not as they came, and what that cost.

`int8`: one fp32 scale per output channel. `int4`: one fp32 scale per group of inputs. `fp8`: E4M3 and one scale per
output channel. `bf16`: every tensor rounded. Matrices are the attention and feed-forward projections; embeddings,
norms, gates and biases stay as they are. What lies in a block is `stored_tensors`; no tensor library here, so that
commands which only read manifests are quick. See docs/spec/manifest.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from blyan.primitives import limits
from blyan.primitives.errors import UnsupportedModel

schemes: Final = ("int8", "int4", "fp8", "bf16")
methods: Final = ("round", "search")
int4_groups: Final = (16, 32, 64, 128, 256)  # powers of two: how many scales a row has tells which
_text_pattern: Final = re.compile(r"[0-9a-f]{64}|random")


@dataclass(frozen=True, slots=True)
class Quantization:
    """What was done to a model's matrices at import, and what it cost, measured on `tokens` tokens of a text."""

    scheme: str
    group: int = 0  # inputs that share a scale (int4)
    method: str = "round"  # `search`: the scale with the least error where the model's inputs are large
    text: str = ""  # SHA-256 of the text's bytes; `random`: tokens drawn, for the model has no tokenizer
    tokens: int = 0
    loss_before: int = 0  # micronats a token, of the model as it came
    loss_after: int = 0
    divergence: int = 0  # micronats a token: of the answers after from those before (Kullback-Leibler)
    speed_before: int = 0  # tokens a second, all of `tokens` at once, weights in memory
    speed_after: int = 0

    def __post_init__(self) -> None:
        _require(self.scheme in schemes, "scheme", self.scheme, f"one of {', '.join(schemes)}")
        _require(self.method in methods, "method", self.method, f"one of {', '.join(methods)}")
        _require(self.method == "round" or self.scheme == "int4", "method", self.method, "search with int4 only")
        allowed = int4_groups if self.scheme == "int4" else (0,)
        _require(self.group in allowed, "group", self.group, f"one of {allowed} for {self.scheme}")
        _require(not self.text or bool(_text_pattern.fullmatch(self.text)), "text", self.text, "a digest or `random`")
        for name in ("tokens", "loss_before", "loss_after", "divergence", "speed_before", "speed_after"):
            found = getattr(self, name)
            _require(0 <= found <= limits.canonical_integer_max, name, found, "a count")

    @property
    def plan(self) -> tuple[str, int, str]:
        """What was asked for: scheme, group, method."""
        return self.scheme, self.group, self.method


def _require(holds: bool, field: str, found: object, expected: str) -> None:
    if not holds:
        raise UnsupportedModel(f"quantization {field}: expected {expected}, found {found!r}")
