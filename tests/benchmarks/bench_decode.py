"""One stream: decode and prefill, against transformers and llama.cpp in the same run.

Back of the envelope: each token reads every weight that it meets once, and nothing it computes takes as long; so bytes
per token over the bandwidth of reading memory bound decoding. Bytes are those of the types as they are stored: int8 and
int4 are the projections, while embeddings, output matrix and norms stay bf16, which is most of what a token reads where
the vocabulary is large and the model small. The bandwidth is measured before each model over a region of that size with
two threads. Prefill is bound by arithmetic: 2 operations per parameter that a token meets.

Every contender is a process of its own with two threads that sleeps while others compute; each round asks all of them
for the same new prompt, in turn, the next round backwards. `engine` is our compute thread, times taken where its events
leave it; `HTTP` is `blyan up` with a streamed completion, so the difference is the door. Ratios are medians of rounds,
round by round. transformers is the better of fp32 and bf16, with the faster of its expert implementations. llama.cpp is
built for this processor; `all` are its files as its own converter makes them, with embeddings and output matrix
quantised too, the others leave those bf16 as we do (the same weights and types on both sides, which the target means).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import llama_peer
from bandwidth import read_bandwidth
from benched_node import node_up
from harness import SMOKE, Page
from line_protocol import Ask, Worker
from reference_models import TYPES, Reference, bytes_per_token, chosen, parameters, reference

HERE = Path(__file__).parent
PROMPT, COUNT = 32, 16 if SMOKE else 128
LONG = 64 if SMOKE else 512
ROUNDS = 2 if SMOKE else 7
WARM = 1 if SMOKE else 3
EQUAL_LLAMA = 16 if SMOKE else 24  # it keeps keys and values in fp16, which decides the first near tie
DECODE_TARGETS = {"fp32": 1.8, "bf16": 3.5, "int8": 5.0}  # times transformers' best
PREFILL_TARGET = 1.3
LLAMA_TARGET = 0.8


@dataclass
class Speeds:
    """What one contender reached, tokens a second, one number a round."""

    ask: Ask
    decode: list[float] = field(default_factory=list)
    prefill: list[float] = field(default_factory=list)


def contenders(model: Reference, stack: ExitStack, page: Page) -> dict[str, Speeds]:
    """Every contender for a model by its label, ready to be asked."""
    engine = Worker([sys.executable, HERE / "worker_engine.py", model.name, *TYPES])
    stack.callback(engine.close)
    found = {f"engine {kind}": Speeds(engine.ask(kind)) for kind in TYPES}
    node = stack.enter_context(node_up(model.data_dir))
    node.jitted(*(model.model(kind) for kind in TYPES))
    found |= {f"HTTP {kind}": Speeds(node.ask(model.model(kind))) for kind in TYPES}
    folders = [f"{kind}={model.folder / kind}" for kind in ("fp32", "bf16")]
    peer = Worker([sys.executable, HERE / "worker_transformers.py", *folders], OMP_NUM_THREADS="2")
    stack.callback(peer.close)
    found |= {f"transformers {kind}": Speeds(peer.ask(kind)) for kind in peer.models}
    page.row(f"{model.name}: transformers, which implementation of experts is faster", peer.note)
    llama = llama_peer.worker(model, TYPES)
    if llama is None:
        page.row(
            f"{model.name}: llama.cpp", "**none here, not compared**: see tests/benchmarks/llama_peer.py", "wanted"
        )
    else:
        stack.callback(llama.close)
        found |= {f"llama.cpp {kind}": Speeds(llama.ask(kind)) for kind in llama.models}
    return found


def want_equal(model: Reference, found: Mapping[str, Speeds], page: Page) -> None:
    """All contenders are the same model: greedy tokens in fp32, and ours with and without HTTP in every type."""
    prompt = model.prompt(PROMPT, seed=1)
    ours = found["engine fp32"].ask(prompt, COUNT).tokens
    theirs = found["transformers fp32"].ask(prompt, COUNT).tokens
    assert ours == theirs, f"fp32: expected transformers' tokens {theirs}, found {ours}"
    said = f"{COUNT} of {COUNT} as transformers, {len(set(ours))} different"
    if "llama.cpp fp32" in found:
        theirs = found["llama.cpp fp32"].ask(prompt, COUNT).tokens
        same = next((at for at, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]), COUNT)
        assert same >= EQUAL_LLAMA, f"f32: expected llama.cpp's tokens {theirs}, found {ours}"
        said += f"; {same} of {COUNT} as llama.cpp"
    page.row(f"{model.name}: greedy tokens in fp32", said, "equal")
    for kind in TYPES:
        direct, http = (found[f"{door} {kind}"].ask(prompt, COUNT).tokens for door in ("engine", "HTTP"))
        assert direct == http, f"{kind}: expected {direct} through HTTP too, found {http}"


def measure(model: Reference, found: Mapping[str, Speeds]) -> None:
    """All rounds. No prompt comes twice, so that nobody can have kept what it computed for one."""
    for turn in range(WARM):
        for each in found.values():
            each.ask(model.prompt(PROMPT, seed=1_000 + turn), COUNT)
            each.ask(model.prompt(LONG, seed=2_000 + turn), 2)
    for turn in range(ROUNDS):
        order = list(found.values())
        for each in order if turn % 2 == 0 else reversed(order):
            each.decode.append(each.ask(model.prompt(PROMPT, seed=3_000 + turn), COUNT).decode)
            each.prefill.append(LONG / each.ask(model.prompt(LONG, seed=4_000 + turn), 1 + 1).first_s)


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over rounds."""
    return median(mine / other for mine, other in zip(ours, theirs, strict=True))


def spread(speeds: list[float]) -> str:
    """The median, and all there was."""
    return f"{median(speeds):,.0f} tok/s ({min(speeds):,.0f}–{max(speeds):,.0f})"


def best(found: Mapping[str, Speeds], what: str) -> tuple[str, list[float]]:
    """transformers' better type."""
    theirs = {label: getattr(each, what) for label, each in found.items() if label.startswith("transformers")}
    label = max(theirs, key=lambda label: median(theirs[label]))
    return label, theirs[label]


def report(model: Reference, found: Mapping[str, Speeds], page: Page, bandwidth: Mapping[str, float]) -> None:
    """The rows of one model."""
    total, met = parameters(model.manifest("fp32").config)
    page.row(f"**{model.name}**", f"{total / 1e6:.1f} M parameters, {met / 1e6:.1f} M a token")
    for what, bare in (("decode", f"{COUNT} tokens after {PROMPT}"), ("prefill", f"{LONG} tokens")):
        for label, each in found.items():
            page.row(f"{model.name}: {what} {label}, {bare}", spread(getattr(each, what)))
    for kind in TYPES:
        size = bytes_per_token(model.manifest(kind), PROMPT + COUNT // 2)
        bound = bandwidth[kind] / size
        share = median(found[f"engine {kind}"].decode) / bound
        page.row(
            f"{model.name}: decode {kind}, share of the bound",
            f"{share:.0%} of {bound:,.0f} tok/s",
            f"{size / 1e6:.2f} MB a token at {bandwidth[kind] / 1e9:.1f} GB/s",
        )
    for what in ("decode", "prefill"):
        label, theirs = best(found, what)
        for kind in TYPES:
            ours = getattr(found[f"engine {kind}"], what)
            target = DECODE_TARGETS.get(kind) if what == "decode" else PREFILL_TARGET
            wanted = f"≥ {target} ×" if target else ""
            page.row(f"{model.name}: {what} {kind} ÷ {label}", f"{ratio(ours, theirs):.2f} ×", wanted)
            for peer in (f"llama.cpp {kind}", f"llama.cpp {kind}, all"):
                if peer in found:
                    wanted = f"≥ {LLAMA_TARGET} ×" if what == "decode" and not peer.endswith("all") else ""
                    page.row(
                        f"{model.name}: {what} {kind} ÷ {peer}",
                        f"{ratio(ours, getattr(found[peer], what)):.2f} ×",
                        wanted,
                    )
            through = getattr(found[f"HTTP {kind}"], what)
            page.row(f"{model.name}: {what} {kind}, HTTP ÷ engine", f"{ratio(through, ours):.2f} ×")


def main() -> None:
    page = Page("decode", "One stream: decode and prefill", __doc__.partition("\n\n")[2].strip())
    page.row("load before the run", " ".join(f"{load:.2f}" for load in os.getloadavg()), "nothing beside")
    for name in chosen():
        model = reference(name)
        sizes = {kind: bytes_per_token(model.manifest(kind), PROMPT + COUNT // 2) for kind in TYPES}
        bandwidth = {kind: read_bandwidth(size) for kind, size in sizes.items()}
        with ExitStack() as stack:
            found = contenders(model, stack, page)
            want_equal(model, found, page)
            measure(model, found)
        report(model, found, page, bandwidth)
    page.write()


if __name__ == "__main__":
    main()
