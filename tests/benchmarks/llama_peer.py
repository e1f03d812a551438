"""llama.cpp as a peer: `llama-cpp-python` built from its source on PyPI for this very processor.

$BLYAN_BENCH_LLAMA names an environment that has it; otherwise one is built in the cache folder, which takes a compiler
and about half an hour of two cores, once: `python tests/benchmarks/llama_peer.py` does it in the background and says
where its log is. A benchmark that finds none says so on its page.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

from harness import ROOT
from line_protocol import Worker
from reference_models import CACHE, Reference

VERSION = "0.3.36"
GGUF_VERSION = "0.19.0"
BUILD = CACHE / f"llama-{VERSION}"
LOG = CACHE / f"llama-{VERSION}.log"
HERE = Path(__file__).parent
# ours → theirs; `+bf16`: embeddings and output matrix as Blyan stores them
TYPES = {
    "fp32": "f32",
    "bf16": "bf16",
    "int8": "q8_0+bf16",
    "int4": "q4_0+bf16",
    "int8, all": "q8_0",
    "int4, all": "q4_0",
}


def python() -> Path | None:
    """The interpreter that has llama.cpp, or None."""
    places = [Path(named)] if (named := os.environ.get("BLYAN_BENCH_LLAMA")) else [BUILD]
    for place in places:
        found = place / "bin/python"
        if found.exists() and not subprocess.run([found, "-c", "import llama_cpp, gguf"], check=False).returncode:
            return found
    return None


def worker(model: Reference, types: tuple[str, ...]) -> Worker | None:
    """llama.cpp with the model in each type of `TYPES` that begins with one of `types`; None if there is none."""
    interpreter = python()
    if interpreter is None:
        return None
    arguments: list[str] = []
    for ours, theirs in TYPES.items():
        if ours.partition(",")[0] not in types:
            continue
        path = model.folder / f"{theirs}.gguf"
        if not path.exists():
            command = [interpreter, HERE / "gguf_checkpoint.py", model.folder / "fp32", path, theirs]
            subprocess.run(command, check=True)
        arguments.append(f"{ours}={path}")
    return Worker([interpreter, HERE / "worker_llama.py", *arguments], PYTHONPATH="")


def build() -> int:
    """Make the environment, all output to the log; the exit code."""
    venv.create(BUILD, with_pip=True)
    pip = [BUILD / "bin/python", "-m", "pip", "install"]
    environment = {**os.environ, "CMAKE_ARGS": "-DGGML_NATIVE=ON", "PYTHONPATH": ""}
    source = [f"llama-cpp-python=={VERSION}", "--no-binary", "llama-cpp-python"]
    done = subprocess.run([*pip, *source, f"gguf=={GGUF_VERSION}"], check=False, env=environment)
    print("done" if not done.returncode else f"failed with {done.returncode}", flush=True)
    return done.returncode


def main() -> int:
    if "--here" in sys.argv:
        return build()
    if found := python():
        print(f"there is one: {found}")
        return 0
    CACHE.mkdir(parents=True, exist_ok=True)
    with LOG.open("w") as log:
        command = ["nice", "-n", "10", sys.executable, __file__, "--here"]
        begun = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=ROOT)
    print(f"building llama.cpp as process {begun.pid}; {LOG} says how far it is. Benchmark when it has ended.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
