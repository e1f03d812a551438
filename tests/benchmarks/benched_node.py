"""A node as people start it, `blyan up` in its own process, and its door as a contender."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from harness import ROOT
from line_protocol import Ask, Timed

sys.path.insert(0, str(ROOT / "tests"))

from running_node import RunningNode


@contextlib.contextmanager
def node_up(data_dir: Path, **environment: str) -> Iterator[BenchedNode]:
    """A node on an existing data directory, with its metrics open."""
    before = dict(os.environ)
    settings = {"BLYAN_METRICS__LISTEN": "127.0.0.1:0", "BLYAN_STORAGE__VERIFY_AT_START": "false"}
    os.environ.update(settings | environment)
    node = BenchedNode(data_dir, apart=True)
    try:
        node.start()
        os.environ.clear()
        os.environ.update(before)
        yield node
    finally:
        os.environ.clear()
        os.environ.update(before)
        node.stop()


class BenchedNode(RunningNode):
    """One that is looked at from outside."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def memory(self) -> tuple[int, int]:
        """Bytes in memory, and those of them that belong to it alone and not to a file."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = {name: int(size) << 10 for name, size in re.findall(r"(VmRSS|RssAnon):\s+(\d+) kB", status)}
        return found["VmRSS"], found["RssAnon"]

    def cpu_seconds(self) -> float:
        """That it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def histogram(self, name: str) -> Counter[float]:
        """Upper bound of each bucket → how many were in it so far."""
        found: Counter[float] = Counter()
        before = 0
        for sample, value in self.metrics().items():  # in rising order, each with all below it
            if bound := re.fullmatch(name + r'_bucket\{le="(.+)"\}', sample):
                found[float(bound[1].replace("+Inf", "inf"))] = int(value) - before
                before = int(value)
        return found

    def jitted(self, *models: str) -> None:
        """Ask each model until the jitted step computes all of them."""
        deadline = time.monotonic() + 300
        ask = self.timed()
        while time.monotonic() < deadline:
            for model in models:
                ask("/v1/completions", completion(model, [1, 2, 3], 2))
            if self.metrics().get("blyan_models_jitted") == len(models):
                return
            time.sleep(0.5)
        raise TimeoutError(f"expected {len(models)} models to be computed by jitted code within 300 s")

    def ask(self, model: str) -> Ask:
        """One streamed completion after another."""
        timed = self.timed()
        return lambda prompt, count: timed("/v1/completions", completion(model, prompt, count))

    def timed(self) -> Callable[[str, Mapping[str, object]], Timed]:
        """Streamed answers to requests of a path and a body, over one connection."""
        connection = http.client.HTTPConnection(*self.address, timeout=600)

        def asked(path: str, body: Mapping[str, object]) -> Timed:
            raw = json.dumps(body)
            began = time.perf_counter()
            connection.request("POST", path, raw, {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {response.read()[:500]!r}")
            tokens: list[int] = []
            moments: list[tuple[float, int]] = []
            while line := response.readline():
                now = time.perf_counter()
                if found := tokens_of(line):
                    tokens += found
                    moments.append((now, len(tokens)))
            (first, with_it), (last, _) = moments[0], moments[-1]
            return Timed(tokens, first - began, with_it, last - first)

        return asked


def completion(model: str, prompt: Sequence[int] | str, count: int, **more: object) -> dict[str, object]:
    """The body of a greedy completion that ends at its length and not before."""
    said = {"model": model, "prompt": prompt, "max_tokens": count, "stream": True, "temperature": 0}
    return {**said, "ignore_eos": True, "return_token_ids": True, **more}


def tokens_of(line: bytes) -> list[int]:
    """Token ids in one line of an event stream; none in those that hold something else."""
    if not line.startswith(b"data: {"):
        return []
    event = json.loads(line[6:])
    if "error" in event:
        raise RuntimeError(f"expected tokens, found {event['error']}")
    return [token for choice in event["choices"] for token in choice.get("token_ids") or ()]
