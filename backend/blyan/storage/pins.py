"""Pins: payloads that a sweep must leave although no chain entry names them.

One file per pin, `blobs/pins/<payload_id>`, canonical JSON `{"check": …, "why": …}`; the check is the SHA-256 of the
payload id and reason, so that damage is told from another reason.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Final

from blyan.primitives import canonical, limits
from blyan.primitives.errors import IntegrityFault, InvalidInput
from blyan.primitives.ids import PayloadId, payload_id
from blyan.storage import durable

folder_name: Final = "pins"
_reason: Final = re.compile(r"[ -~]{1,200}")


def pin(folder: Path, payload: PayloadId, why: str) -> None:
    """Keep a payload until it is unpinned; the reason is up to 200 printable ASCII characters."""
    if not _reason.fullmatch(why):
        raise InvalidInput(f"pin: expected a reason of 1 to 200 printable characters, found {why[:80]!r}")
    durable.make_folder(folder, within=folder.parent)
    durable.fsync_folder(folder.parent)  # the folder may be of a process that was killed before this
    durable.write_file(folder / payload, canonical.encode({"check": _check(payload, why), "why": why}))


def _check(payload: PayloadId, why: str) -> str:
    return sha256(f"{payload}\0{why}".encode()).hexdigest()


def unpin(folder: Path, payload: PayloadId) -> bool:
    """Let a payload go; whether it was pinned."""
    durable.refuse_links(folder, folder.parent)
    pinned = (folder / payload).exists()
    if folder.is_dir():
        durable.remove(folder / payload)  # also where it is gone: a power cut must not bring it back
    return pinned


def pins(folder: Path) -> dict[PayloadId, str]:
    """Every pinned payload and why; `IntegrityFault` names a file that is no pin, because guessing could lose data."""
    found: dict[PayloadId, str] = {}
    if folder.is_symlink():
        raise IntegrityFault(
            f"pins: expected a folder, found a symbolic link at {folder}", detail={"file": str(folder)}
        )
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(durable.temporary_prefix):
            continue
        try:
            value = canonical.decode_object(
                durable.read_limited(path, limits.pin_bytes_max), bytes_max=limits.pin_bytes_max
            )
            why = value.get("why")
            payload = payload_id(path.name)
            if not isinstance(why, str) or value != {"check": _check(payload, why), "why": why}:
                raise InvalidInput("another record")
            found[payload] = why
        except (OSError, ValueError, InvalidInput) as reason:
            raise IntegrityFault(
                f"pin {path}: expected a payload id and a reason, found {reason}", detail={"file": str(path)}
            ) from None
    return found
