"""The built-in model: ordinary blocks that are shipped inside the package, made by `scripts/train_builtin.py`."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import orjson

from blyan.model.manifest import Manifest, parse_manifest
from blyan.node.publish import Published, install_bundle
from blyan.node.writer import WritableGround
from blyan.primitives import limits
from blyan.primitives.errors import NotFound
from blyan.storage import durable
from blyan.storage.tile import index_of

name = "blyan-genesis"


def bundle_folder() -> Path:
    """Where the built-in model's manifest and blocks lie; `NotFound` in an installation that lacks them."""
    folder = Path(str(resources.files("blyan"))) / "builtin"
    if not (folder / "manifest.json").is_file():
        raise NotFound(
            f"built-in model: expected {folder / 'manifest.json'}, found none",
            hint="install the package again, or run scripts/train_builtin.py",
        )
    return folder


def marks(manifest: Manifest) -> dict[str, Any] | None:
    """What the exam of the built-in model gave, if this is the one that was examined, under whatever version."""
    folder = Path(str(resources.files("blyan"))) / "builtin"
    if not ((folder / "marks.json").is_file() and (folder / "manifest.json").is_file()):
        return None
    found = orjson.loads(durable.read_limited(folder / "marks.json", limits.builtin_marks_bytes_max))
    shipped = parse_manifest(durable.read_limited(folder / "manifest.json", limits.manifest_bytes_max))
    as_shipped = replace(manifest, version=shipped.version).encode()
    return found if found.get("manifest") == index_of(as_shipped).payload_id else None


def source_of(made: str) -> str:
    """What a manifest says of the training that it is of, by the digest of what that was made from."""
    return f"blyan:scripts/train_builtin.py made:{made[:32]}"


def install(ground: WritableGround) -> Published:
    """Publish the built-in model; damaged blocks of it are replaced, and nothing changes where it is there already."""
    return install_bundle(ground, bundle_folder())


def install_first(ground: WritableGround) -> None:
    """Give a node that is to serve its first model, if it has none and may publish one.

    A start repairs nothing: damage on the disk is for the operator to see, and `install` to mend. What was removed by
    its owner stays away too.
    """
    state = ground.chains.state
    if not state.models and not state.retired and ground.may_write:
        install(ground)
