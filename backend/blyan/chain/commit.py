"""The writes of a commit over all three chains, and what one that never was leaves behind.

Steps, each durable before the next: (1) entry bundles, (2) hash tiles, (3) `joint`, whose rename is the commit, (4) the
chains' notes, each of which says of one chain what `joint` says. A crash before 3 leaves tiles beyond the promise,
which nobody reads and the next commit overwrites; one between 3 and 4 leaves notes that lag.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from blyan.chain.entries import ChainName
from blyan.chain.joint import JointCheckpoint
from blyan.chain.log import Extension, Log
from blyan.chain.promise import joint_name
from blyan.storage import durable


def write_entries(
    logs: Mapping[ChainName, Log], following: Mapping[ChainName, Iterable[bytes]]
) -> dict[ChainName, Extension]:
    """Steps 1 and 2 for the chains that grow; nobody sees what is written yet."""
    extensions: dict[ChainName, Extension] = {name: logs[name].extend(entries) for name, entries in following.items()}
    for name, extension in extensions.items():
        logs[name].write_tiles(extension)
    return extensions


def write_promise(
    folder: Path,
    logs: Mapping[ChainName, Log],
    joint: JointCheckpoint,
    notes: Mapping[ChainName, bytes],
    extensions: Mapping[ChainName, Extension],
) -> None:
    """Steps 3 and 4; then the logs are what the joint checkpoint says."""
    durable.make_folder(folder)
    durable.write_file(folder / joint_name, joint.encode())
    assert extensions.keys() <= notes.keys(), "a log that grew has a new note"
    for name, note in notes.items():
        logs[name].write_note(note)
    for name, note in notes.items():
        logs[name].adopt(extensions.get(name), note)


def import_folder(folder: Path) -> Path:
    """Where an import prepares the chains of `folder`."""
    return folder.parent / f".import-{folder.name}"


def remove_leftovers(folder: Path, logs: Mapping[ChainName, Log]) -> list[str]:
    """Remove what no promise names, and say so. For the one process that may write."""
    leftovers = [path for log in logs.values() for path in _remove_unpromised(log)]
    if folder.is_dir():
        durable.sweep(folder)
    aside = import_folder(folder)
    if os.path.lexists(aside):
        durable.remove_tree(aside)
        leftovers.append(aside)
    return [f"removed {len(leftovers)} files of what was never committed, {leftovers[0]} first"] if leftovers else []


def _remove_unpromised(log: Log) -> list[Path]:
    """Temporary files, tiles beyond the checkpoint, and partial ones beside full ones."""
    tiles = log.folder / "tile"
    durable.refuse_links(tiles, within=log.folder.parent)
    removed = [
        path
        for path in log.folder.rglob("*")
        if not path.is_dir()
        and (
            path.name.startswith(durable.temporary_prefix)
            or (path.is_relative_to(tiles) and not log.promises(path.relative_to(tiles).as_posix()))
        )
    ]
    for path in removed:
        durable.remove(path)
    full = [path.with_suffix("") for path in tiles.rglob("*.p") if path.with_suffix("").is_file()]
    return removed + [path for path in full if log.files.remove_partial(path)]
