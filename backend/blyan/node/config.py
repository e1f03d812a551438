"""Configuration: the one reader of files and environment.

`node.toml` in the data directory < environment `BLYAN_SECTION__KEY` < flags. The result is one frozen value, complete
with defaults; an unknown key or a value of the wrong kind is refused, with a suggestion.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from blyan.network.peers import parse_peer
from blyan.primitives import limits
from blyan.primitives.errors import Denied, InvalidInput
from blyan.storage import durable
from blyan.storage.space import SpaceLimits

_prefix = "BLYAN_"
_not_sections = frozenset({"DATA_DIR"})


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """The door of the API and the page."""

    listen: str = "127.0.0.1:8645"  # HOST:PORT, port 0 for a free one
    allowed_hosts: tuple[str, ...] = ()  # further Host names that are answered (DNS rebinding is not)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; `Denied` off loopback, because nothing authenticates callers yet."""
        host, separator, port = self.listen.rpartition(":")
        host = host.strip("[]")
        if not separator or not port.isdecimal() or int(port) > 65_535:
            raise InvalidInput(f"http.listen: expected HOST:PORT, found {self.listen!r}")
        try:
            loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise Denied(
                f"http.listen: expected a loopback address, found {host!r}",
                hint="this version has no sign-in; put a reverse proxy with authentication before 127.0.0.1",
            )
        return host, int(port)


@dataclass(frozen=True, slots=True)
class ComputeConfig:
    """How the model is computed."""

    threads: int = 0  # torch threads; 0: torch's own choice

    def __post_init__(self) -> None:
        if self.threads > limits.compute_threads_max:
            raise InvalidInput(f"compute.threads: expected 0 to {limits.compute_threads_max}, found {self.threads}")


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """How blocks are kept."""

    verify_at_start: bool = True  # hash all experts in the background after the start, not only on first use
    bytes_max: int = 0  # what all blobs together may take; 0: the whole disk
    free_bytes_min: int = 0  # what storing a blob must leave free on the disk

    def __post_init__(self) -> None:
        _ = self.space  # which refuses what is out of range

    @property
    def space(self) -> SpaceLimits:
        """The limits of the blob store."""
        return SpaceLimits(self.bytes_max or None, self.free_bytes_min)


@dataclass(frozen=True, slots=True)
class KeysConfig:
    """Where the passphrase of an encrypted key comes from."""

    passphrase_file: str = ""  # readable by the owner alone; its last line feed does not count

    def passphrase(self) -> bytes | None:
        """What the file says, None if none is named; `Denied` if others may read it."""
        if not self.passphrase_file:
            return None
        path = Path(self.passphrase_file)
        try:
            mode = path.stat().st_mode & 0o777
            with path.open("rb") as file:
                raw = file.read(limits.passphrase_bytes_max + 2)
        except OSError as reason:
            raise InvalidInput(f"keys.passphrase_file: expected to read {path}, found: {reason.strerror}") from None
        if mode & 0o077:
            raise Denied(f"{path}: expected a mode that lets nobody else read it, found {mode:04o}")
        passphrase = raw.removesuffix(b"\n")
        if not 0 < len(passphrase) <= limits.passphrase_bytes_max:
            raise InvalidInput(
                f"keys.passphrase_file: expected 1 to {limits.passphrase_bytes_max} bytes in {path}, found "
                f"{len(passphrase) or 'none'}"
            )
        return passphrase


@dataclass(frozen=True, slots=True)
class ModelsConfig:
    """Where models may be pulled from; nothing is, where nothing is named."""

    directories: tuple[str, ...] = ()  # folders that hold checkpoint folders, each named as its model will be
    peers: tuple[str, ...] = ()  # http://HOST:PORT#KEY: other nodes, with the key of the sequencer that is trusted

    def __post_init__(self) -> None:
        if len(self.peers) > limits.peers_max or len(self.directories) > limits.peers_max:
            raise InvalidInput(f"models: expected at most {limits.peers_max} peers and directories, found more")
        for text in self.peers:
            parse_peer(text)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything that can be set."""

    data_dir: Path
    http: HttpConfig = field(default_factory=HttpConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    keys: KeysConfig = field(default_factory=KeysConfig)
    models: ModelsConfig = field(default_factory=ModelsConfig)


_sections: dict[str, type[Any]] = {
    "http": HttpConfig,
    "compute": ComputeConfig,
    "storage": StorageConfig,
    "keys": KeysConfig,
    "models": ModelsConfig,
}


def data_dir_from_environment() -> Path:
    """`BLYAN_DATA_DIR`, or `./.blyan`."""
    return Path(os.environ.get("BLYAN_DATA_DIR") or ".blyan")


def read_config(
    data_dir: Path, flags: Mapping[str, Mapping[str, Any]] | None = None, environment: Mapping[str, str] | None = None
) -> NodeConfig:
    """Merge file, environment and flags; `InvalidInput` names the origin, key and value that does not fit."""
    merged: dict[str, dict[str, Any]] = {name: {} for name in _sections}
    path = data_dir / "node.toml"
    if path.is_file():
        try:
            values = tomllib.loads(durable.read_limited(path, limits.config_file_bytes_max).decode("utf-8"))
        except (ValueError, OSError) as reason:
            raise InvalidInput(f"{path}: expected TOML, found {reason}") from None
        _merge(merged, values, str(path), from_text=False)
    _merge(merged, _from_environment(os.environ if environment is None else environment), "environment", from_text=True)
    _merge(merged, flags or {}, "flags", from_text=False)
    return NodeConfig(data_dir=data_dir, **{name: _sections[name](**values) for name, values in merged.items()})


def _from_environment(environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    values: dict[str, dict[str, str]] = {}
    for name, text in environment.items():
        if not name.startswith(_prefix) or name.removeprefix(_prefix) in _not_sections or "__" not in name:
            continue
        section, key = name.removeprefix(_prefix).lower().split("__", 1)
        values.setdefault(section, {})[key] = text
    return values


def _merge(merged: dict[str, dict[str, Any]], values: Mapping[str, Any], origin: str, *, from_text: bool) -> None:
    for section, entries in values.items():
        if section not in _sections or not isinstance(entries, Mapping):
            raise InvalidInput(
                f"{origin}: expected a section of {sorted(_sections)}, found {section!r}{_like(section, _sections)}"
            )
        known = {f.name: str(f.type) for f in fields(_sections[section])}
        for key, value in cast("Mapping[str, Any]", entries).items():
            if key not in known:
                raise InvalidInput(f"{origin}: expected a key of [{section}], found {key!r}{_like(key, known)}")
            merged[section][key] = _convert(value, known[key], f"{origin}: {section}.{key}", from_text)


def _convert(value: Any, kind: str, what: str, from_text: bool) -> Any:
    if from_text:
        value = _from_text(value, kind)
    if kind == "tuple[str, ...]" and (texts := _texts(value)) is not None:
        return texts
    if type(value).__name__ != kind or (kind == "int" and value < 0):
        raise InvalidInput(f"{what}: expected {kind}, found {value!r}")
    return value


def _texts(value: object) -> tuple[str, ...] | None:
    """A list of texts as a tuple; None for anything else."""
    items = cast("Sequence[object]", value) if isinstance(value, list | tuple) else None
    if items is None or not all(isinstance(item, str) for item in items):
        return None
    return tuple(cast("Sequence[str]", items))


def _from_text(text: str, kind: str) -> Any:
    if kind == "int":
        return int(text) if text.isdecimal() else text
    if kind == "bool":
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    return text.split(",") if kind == "tuple[str, ...]" else text


def _like(found: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(found, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
