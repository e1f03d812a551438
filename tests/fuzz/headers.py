"""Coverage-guided fuzzing of TensorBlock headers: `headers.py FOLDER (--seconds N | --runs N) [--seed N]`.

atheris (libFuzzer) mutates; what comes out of `parse_layout` must be a layout within the file or `MalformedBlock`,
within five seconds and 2 GiB. The first byte of an input says how it becomes a file: raw, or as a header that is padded
and measured as a writer would, so that mutations reach past the length field. libFuzzer's final statistics say how many
inputs it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["blyan.storage.tensor_block"]):
    from blyan.storage import tensor_block

from blyan.primitives.errors import MalformedBlock

WORDS = [
    "__metadata__", "format", "pt", "blyan", "tensorblock/1", "dtype", "shape", "data_offsets", "_pad.0", "_pad.1",
    *tensor_block.dtypes, "[0,256]", "[256,512]", "4294967296", "9223372036854775808", "-1", "1e3", "0.5", "null",
    '{"a":{"dtype":"F32","shape":[64],"data_offsets":[0,256]}}', "\\\\u0061", "[[[[", "{{{{",
]  # fmt: skip
POLYGLOTS = {"zip": b"PK\x03\x04", "gzip": b"\x1f\x8b\x08", "elf": b"\x7fELF\x02\x01\x01", "png": b"\x89PNG\r\n\x1a\n"}


def one_input(data: bytes) -> None:
    """What libFuzzer calls."""
    raw, file_bytes = file_of(data)
    try:
        places = tensor_block.parse_layout(raw, file_bytes)
    except MalformedBlock:
        return
    for place in places:
        assert 0 < place.offset < place.offset + place.length <= file_bytes
        assert place.offset % 256 == 0


def file_of(data: bytes) -> tuple[bytes, int]:
    """The beginning of a file and its size."""
    if not data or data[0] % 4 == 0:
        return data[1:], len(data[1:])
    extra = int.from_bytes(data[1:4], "little") if data[0] % 4 == 1 else 256 * (data[0] >> 2)
    header = data[4:] if data[0] % 4 == 1 else data[1:]
    if data[0] % 4 == 3:  # the metadata that everything needs, before what the fuzzer thought of
        header = b'{"__metadata__":{"format":"pt","blyan":"tensorblock/1"},' + header
    header += b" " * (-(8 + len(header)) % 4096)
    return len(header).to_bytes(8, "little") + header, 8 + len(header) + extra


def seeds() -> list[bytes]:
    """Valid and refused blocks of the frozen vectors, and files of other formats."""
    held = json.loads((Path(__file__).resolve().parent.parent / "vectors/tensor_block.json").read_text())
    raws = [bytes.fromhex(each["block"]) for each in held["valid"]] + [
        bytes.fromhex(x) for x in held["refused"].values()
    ]
    headers = [raw[8 : 8 + int.from_bytes(raw[:8], "little")].rstrip() for raw in raws if len(raw) > 8]
    found = [b"\0" + raw[:600] for raw in raws] + [b"\0" + magic + raws[0][:600] for magic in POLYGLOTS.values()]
    found += [b"\2" + header for header in headers]
    return found + [b"\3" + header.partition(b"},")[2] for header in headers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the corpus, kept between runs")
    parser.add_argument("--seconds", type=int, default=0)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    corpus = arguments.folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (corpus / f"seed{number}").write_bytes(seed)
    words = arguments.folder / "words"
    words.write_text("".join(f"{json.dumps(word)}\n" for word in WORDS if word.isascii() and "\\" not in word))
    options = [f"-dict={words}", "-max_len=8192", "-timeout=5", "-rss_limit_mb=4096", f"-seed={arguments.seed}"]
    options += [f"-artifact_prefix={arguments.folder}/", "-verbosity=0", "-print_final_stats=1"]
    if arguments.seconds:
        options.append(f"-max_total_time={arguments.seconds}")
    if arguments.runs:
        options.append(f"-runs={arguments.runs}")
    atheris.Setup([sys.argv[0], *options, str(corpus)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
