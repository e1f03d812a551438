"""The join code of this node's swarm: `keys/swarm`, owner-only, made when a node first listens for peers.

Whoever has the code is a member: it is shared by all and proves nothing about who somebody is, which keys do.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from blyan.network.handshake import Swarm
from blyan.node.keys import folder_name
from blyan.primitives import limits
from blyan.primitives.clock import Entropy
from blyan.primitives.errors import Denied, IntegrityFault, InvalidInput
from blyan.storage import durable
from blyan.wire.peer import encode_code, parse_code, secret_bytes

_mode: Final = 0o600


def swarm_path(folder: Path) -> Path:
    """The file of a data directory."""
    return folder / folder_name / "swarm"


def read_swarm(folder: Path) -> Swarm | None:
    """The swarm that a data directory belongs to, None if to none; `Denied` if others may read the file."""
    path = swarm_path(folder)
    try:
        mode = stat.S_IMODE(path.stat(follow_symlinks=False).st_mode)
        raw = durable.read_limited(path, limits.key_file_bytes_max)
    except FileNotFoundError:
        return None
    if mode & 0o077:
        raise Denied(f"{path}: expected mode 0600, found {mode:04o}", hint=f"chmod 600 {path}")
    try:
        return Swarm(parse_code(raw.decode("ascii")))
    except (InvalidInput, UnicodeDecodeError):
        raise IntegrityFault(
            f"{path}: expected a join code, found something else",
            detail={"file": str(path)},
            hint="put it back from a backup, or remove it and join again",
        ) from None


def write_swarm(folder: Path, secret: bytes) -> Swarm:
    """Belong to a swarm from the next start on."""
    durable.make_folder(folder / folder_name, 0o700, within=folder)
    durable.write_file(swarm_path(folder), encode_code(secret).encode("ascii") + b"\n", _mode)
    return Swarm(secret)


def swarm_of(folder: Path, joins: tuple[tuple[str, bytes], ...], entropy: Entropy) -> Swarm:
    """The swarm to be in: the one to join, the one of before, or a new one.

    `InvalidInput` if it is in one and is to join another: whoever wants that removes the file first.
    """
    held = read_swarm(folder)
    if not joins:
        return held or write_swarm(folder, entropy(secret_bytes))
    secret = joins[0][1]
    if held is not None and held.secret != secret:
        raise InvalidInput(
            f"network.join: expected the join code of the swarm that {folder} is in, found another",
            hint=f"remove {swarm_path(folder)} to leave the one it is in",
        )
    return held or write_swarm(folder, secret)
