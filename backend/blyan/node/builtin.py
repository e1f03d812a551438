"""The built-in model: ordinary blocks that are shipped inside the package, made by `scripts/train_builtin.py`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from blyan.node.data_directory import Ground, create_keys, open_ground
from blyan.node.publish import Published, install_bundle
from blyan.primitives.clock import Entropy, UnixSeconds
from blyan.primitives.errors import NotFound

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


def initialise(folder: Path, entropy: Entropy, now: UnixSeconds) -> tuple[Ground, Published]:
    """Keys, genesis entry and the built-in model in `folder`; what is there already stays, damaged blocks are replaced.

    The caller holds the lock.
    """
    create_keys(folder, entropy)
    ground = open_ground(folder, writable=True)
    return ground, install_bundle(ground, bundle_folder(), now)


def open_or_initialise(folder: Path, entropy: Entropy, now: UnixSeconds) -> Ground:
    """Open the ground of a node that is to serve, initialised if it is new. The caller holds the lock.

    A start repairs nothing: damage on the disk is for the operator to see, and `initialise` to mend.
    """
    create_keys(folder, entropy)
    ground = open_ground(folder, writable=True)
    if not ground.chains.state.models:
        install_bundle(ground, bundle_folder(), now)
    return ground
