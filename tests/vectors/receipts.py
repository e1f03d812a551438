"""The vector of a receipt: a file with everything in it, what opens it, and changes with the check that each fails."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blyan.inference.receipt import output_bytes
from blyan.primitives import canonical
from receipts import CHOICES, KEY, REQUEST, SALT, TIME, Network, free, paid

# places in the file, and the first check that fails where the value there is another
_changes: dict[str, tuple[tuple[str | int, ...], Callable[[Any], Any]]] = {
    "file": (("receipt", "v"), lambda _: 2),
    "signature": (("receipt", "time"), lambda time: time + 1),
    "record": (("proof", "record"), lambda record: record.replace('"kind":"settle"', '"kind":"post"')),
    "amount": (("proof", "record"), lambda record: record.replace('"1980"', '"1979"', 1)),
    "inclusion": (("proof", "path", 0), lambda path: path[:-1] + ("1" if path[-1] == "0" else "0")),
    "checkpoint": (("checkpoint", "joint", "height"), lambda height: height + 1),
    "writer": (("checkpoint", "meta", 0, "entry", "time"), lambda time: time + 1),
}


def receipt_vectors() -> Any:
    """Read by `tests/unit/test_vectors.py`, and by the page."""
    with tempfile.TemporaryDirectory() as scratch:
        network, file = paid(Path(scratch))
        raw, without = file.encode(), _free(network)
        network.store.close()
    return {
        "file": raw.decode(),
        "free": without,
        "origin": KEY.public,
        "request": REQUEST.decode(),
        "output": output_bytes(CHOICES).decode(),
        "salt": SALT.hex(),
        "time": TIME,
        "refused": {check: _changed(raw, *change) for check, change in _changes.items()},
    }


def _free(network: Network) -> str:
    return network.file(free()).encode().decode()


def _changed(raw: bytes, place: tuple[str | int, ...], change: Callable[[Any], Any]) -> str:
    value: Any = json.loads(raw)
    *outer, last = place
    inner = value
    for each in outer:
        inner = inner[each]
    inner[last] = change(inner[last])
    return canonical.encode(value).decode()
