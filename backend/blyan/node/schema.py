"""`SCHEMA`: which version of the layout a data directory has, so that no version misreads what another wrote.

Schema 1 is this one. Before there was such a file (schema 0) three notes stood for what `chain/joint` says since. What
is newer is refused; what is older is read by nobody and migrated by the one process that may write (`node/writer`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, TypeAlias

from blyan.primitives import canonical, limits
from blyan.primitives.errors import IntegrityFault, InvalidInput, SchemaTooNew, Unavailable
from blyan.storage import durable

Schema: TypeAlias = Literal[0, 1]

file_name: Final = "SCHEMA"
restore_name: Final = ".restore"  # stands from the first to the last step of a restore (node/backup)
_present: Final = 1


def schema_of(folder: Path) -> Schema | None:
    """The schema of a data directory, none of one without chains.

    `SchemaTooNew` for what a newer version wrote, `IntegrityFault` for a damaged file, `Unavailable` while a restore
    is under way or was interrupted.
    """
    path = folder / file_name
    if (folder / restore_name).exists():
        raise Unavailable(
            f"data directory {folder}: expected a whole one, found a restore that has not ended",
            hint="run the same `blyan db restore` again: it begins anew",
        )
    try:
        raw = durable.read_limited(path, limits.schema_file_bytes_max)
        value = canonical.decode_object(raw, bytes_max=limits.schema_file_bytes_max)
    except FileNotFoundError:
        begun = any((folder / "chain" / name).exists() for name in ("joint", "meta", "parameter", "dataset"))
        return 0 if begun else None
    except (OSError, ValueError, InvalidInput) as reason:
        raise _damaged(path, str(reason)) from None
    found = value.get("schema")
    if value.keys() != {"schema"} or type(found) is not int or found < 1:
        raise _damaged(path, 'expected {"schema":1}, found something else')
    if found > _present:
        raise SchemaTooNew(
            f"data directory {folder}: expected schema {_present}, found {found} in {path}",
            detail={"file": str(path)},
            hint="a newer version wrote it: use that version",
        )
    return 1


def want_present(folder: Path) -> None:
    """Raise `Unavailable` if a reader finds a data directory of an older schema; otherwise as `schema_of`."""
    if schema_of(folder) == 0:
        raise Unavailable(
            f"data directory {folder}: expected schema {_present}, found an older one without {file_name}",
            hint=f"`blyan db migrate --data-dir {folder}`, or the next `blyan up`, brings it up to date",
        )


def write_schema(folder: Path) -> None:
    """Say that a data directory has the present schema."""
    durable.write_file(folder / file_name, canonical.encode({"schema": _present}))


def _damaged(path: Path, why: str) -> IntegrityFault:
    return IntegrityFault(f"schema file {path}: {why}", detail={"file": str(path)}, hint="put it back from a backup")
