"""An EVM chain of the tests' own: anvil, from package.json, on a free port."""

from __future__ import annotations

import json
import platform
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services import missing

ROOT = Path(__file__).resolve().parent.parent
CHAIN_ID = 31_337


def anvil_program() -> str | None:
    """Where the program lies."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "")
    inside = ROOT / f"node_modules/@foundry-rs/anvil-linux-{machine}/bin/anvil"
    return str(inside) if inside.exists() else shutil.which("anvil")


class Chain:
    """A running anvil."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, method: str, *parameters: Any) -> Any:
        """The result of a JSON-RPC call."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=5) as response:
            answer = json.load(response)
        assert "error" not in answer, answer
        return answer["result"]

    def send(self, to: str, data: bytes) -> None:
        """A transaction of anvil's first account; returns when it is in a block."""
        what = {"from": self.ask("eth_accounts")[0], "to": to, "data": "0x" + data.hex(), "gas": hex(2_000_000)}
        sent = self.ask("eth_sendTransaction", what)
        while self.ask("eth_getTransactionReceipt", sent) is None:
            time.sleep(0.01)


@pytest.fixture(scope="session")
def chain() -> Iterator[Chain]:
    """One anvil for the tests of this process."""
    program = anvil_program()
    if program is None:
        missing("anvil (scripts/install test,lint)")
        raise FileNotFoundError("anvil")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "--port", str(port), "--chain-id", str(CHAIN_ID), "--silent"]
    process = subprocess.Popen(command)
    found = Chain(f"http://127.0.0.1:{port}")
    try:
        deadline = time.monotonic() + 15
        while True:
            try:
                found.ask("eth_chainId")
                break
            except OSError:
                assert time.monotonic() < deadline, "anvil answers"
                time.sleep(0.02)
        yield found
    finally:
        process.terminate()
        process.wait(10)
