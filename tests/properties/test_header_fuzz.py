"""TensorBlock headers under random damage: nothing but `MalformedBlock` may come out, and no views outside the file.

hypothesis for structure, atheris for coverage: sixty seconds on each run of `scripts/test`, ten million inputs in the
long one, whose result stands in docs/benchmarks/long-runs.md.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.primitives.errors import MalformedBlock
from blyan.storage import tensor_block

SIZES = st.one_of(st.integers(-2, 600), st.sampled_from([1 << 31, 1 << 63, 1 << 64, True, 2.5, None, "8"]))
TENSORS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*tensor_block.dtypes, "C64", "f32", None, 3]),
        "shape": st.lists(SIZES, max_size=10),
        "data_offsets": st.lists(SIZES, max_size=3),
    }
)
NAMES = st.one_of(st.text("aZ_.0/ é", max_size=5), st.sampled_from(["_pad.0", "_pad.1"]))
HEADERS = st.dictionaries(NAMES, TENSORS, max_size=4)
TOKENS = st.sampled_from([*'{}[]":,\\', '\\"', "\n", "1", "w", "dtype", "U8", "é"])


def check(raw: bytes, file_bytes: int) -> None:
    try:
        places = tensor_block.parse_layout(raw, file_bytes)
    except MalformedBlock:
        return
    for place in places:
        assert 0 < place.offset <= place.offset + place.length <= file_bytes
        assert place.offset % 256 == 0


@settings(max_examples=400, deadline=None)
@given(header=HEADERS, data=st.integers(0, 1024), marked=st.booleans())
def test_any_header_is_a_layout_within_the_file_or_malformed(header: dict[str, Any], data: int, marked: bool) -> None:
    """Structured input: plausible fields with implausible values."""
    raw = json.dumps(({"__metadata__": tensor_block.metadata} if marked else {}) | header).encode()
    raw += b" " * (-(8 + len(raw)) % 4096)
    check(len(raw).to_bytes(8, "little") + raw, 8 + len(raw) + data)


@settings(max_examples=400, deadline=None)
@given(raw=st.binary(max_size=200), length=st.integers(0, 1 << 65), file_bytes=st.integers(0, 1 << 40))
def test_any_bytes_are_malformed_or_a_layout(raw: bytes, length: int, file_bytes: int) -> None:
    """Unstructured input, with lying lengths."""
    check((length % (1 << 64)).to_bytes(8, "little") + raw, file_bytes)
    check(raw, file_bytes)


@settings(max_examples=400, deadline=None)
@given(tokens=st.lists(TOKENS, max_size=60))
def test_any_header_of_json_tokens_is_malformed_or_a_layout(tokens: list[str]) -> None:
    """Strings without end, lone escapes and brackets inside strings."""
    raw = ("{" + "".join(tokens)).encode()
    raw += b" " * (-(8 + len(raw)) % 4096)
    check(len(raw).to_bytes(8, "little") + raw, 8 + len(raw))


DRIVER = Path(__file__).resolve().parent.parent / "fuzz" / "headers.py"


def fuzz(folder: Path, *arguments: str, timeout: float) -> int:
    """Run the coverage-guided fuzzer; the number of inputs it tried. A finding is in its output."""
    pytest.importorskip("atheris", reason="no wheel of atheris for this machine")
    done = subprocess.run(
        [sys.executable, DRIVER, folder, *arguments], capture_output=True, check=False, text=True, timeout=timeout
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4_000:]
    found = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    assert found is not None
    return int(found[1])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_ten_seconds_of_guided_mutations_find_nothing_else(tmp_path: Path, seed: int) -> None:
    """From the start each time; ten million of them are tried by the long one below."""
    assert fuzz(tmp_path, "--seconds", "10", "--seed", str(seed), timeout=300) > 10_000


@pytest.mark.long
@pytest.mark.parametrize("part", range(10))
def test_ten_million_guided_mutations_find_nothing_else(tmp_path: Path, part: int, long_result: Any) -> None:
    """A million a part, each from its own seed."""
    inputs = fuzz(tmp_path, "--runs", "1000000", "--seed", str(100 + part), timeout=6 * 3600)
    assert inputs >= 1_000_000
    long_result(f"TensorBlock header fuzz, part {part + 1} of 10", f"{inputs:,} inputs, none but `MalformedBlock`")
