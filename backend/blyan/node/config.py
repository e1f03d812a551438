"""Configuration: the one reader of files and environment.

`node.toml` in the data directory < environment `BLYAN_SECTION__KEY` < flags. The result is one frozen value, complete
with defaults; an unknown key or a value of the wrong kind is refused, with a suggestion.
"""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from blyan.network.peers import parse_peer
from blyan.network.sources import source_url
from blyan.node.accounts_config import AccountsConfig, QuotasConfig
from blyan.node.compute_config import ComputeConfig, InferenceConfig
from blyan.node.http_config import HttpConfig, MetricsConfig
from blyan.node.ledger_config import LedgerConfig
from blyan.node.network_config import NetworkConfig
from blyan.primitives import limits
from blyan.primitives.errors import Denied, Fault, InvalidInput
from blyan.primitives.nearest import did_you_mean
from blyan.storage import durable
from blyan.storage.space import SpaceLimits

# What is done with a value that does not fit: its section, its key if that is known, and what is wrong with it.
Refusal: TypeAlias = Callable[[str, str | None, InvalidInput], None]

file_name: Final = "node.toml"
_prefix: Final = "BLYAN_"
_not_sections: Final = frozenset({"DATA_DIR", "TEST_INSTALL", "WHEELS"})  # the last two are read by scripts and tests
# Kubernetes puts these into every container where a service is called `blyan…`.
_of_kubernetes: Final = re.compile(
    r"(^|_)SERVICE_HOST$|(^|_)SERVICE_PORT(_\w+)?$|(^|_)PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?$"
)
_log = logging.getLogger(__name__)


_log_levels = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What a running node says of its work."""

    format: str = "text"  # or json: one object a line
    level: str = "info"  # debug, info, warning, error
    file: bool = False  # also to logs/node.log in the data directory
    file_bytes_max: int = 16 * limits.MIB  # then a new file is begun
    files_kept: int = 4  # older ones

    def __post_init__(self) -> None:
        if self.format not in ("text", "json"):
            raise InvalidInput(f"log.format: expected text or json, found {self.format[:80]!r}")
        if self.level not in _log_levels:
            raise InvalidInput(f"log.level: expected one of {', '.join(_log_levels)}, found {self.level[:80]!r}")
        if not limits.KIB <= self.file_bytes_max <= limits.GIB or not 1 <= self.files_kept <= limits.log_files_max:
            raise InvalidInput(
                f"log.file_bytes_max, log.files_kept: expected {limits.KIB} to {limits.GIB} and 1 to "
                f"{limits.log_files_max}, found {self.file_bytes_max} and {self.files_kept}"
            )


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
    mirrors: tuple[str, ...] = ()  # http://HOST[:PORT][/PATH]: further sources of bytes, which need no trust

    def __post_init__(self) -> None:
        if max(len(self.peers), len(self.directories), len(self.mirrors)) > limits.peers_max:
            raise InvalidInput(f"models: expected at most {limits.peers_max} peers, directories, mirrors, found more")
        for text in self.peers:
            parse_peer(text)
        for text in self.mirrors:
            source_url(text, "models.mirrors")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything that can be set."""

    data_dir: Path
    http: HttpConfig = field(default_factory=HttpConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    keys: KeysConfig = field(default_factory=KeysConfig)
    models: ModelsConfig = field(default_factory=ModelsConfig)
    accounts: AccountsConfig = field(default_factory=AccountsConfig)
    quotas: QuotasConfig = field(default_factory=QuotasConfig)
    ledger: LedgerConfig = field(default_factory=LedgerConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    log: LogConfig = field(default_factory=LogConfig)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the API; as `door_address`."""
        return door_address(self.http, self.accounts)


def door_address(http: HttpConfig, accounts: AccountsConfig) -> tuple[str, int]:
    """Host and port of the API; `Denied` off loopback without accounts, because then nobody shows who they are."""
    if not http.loopback and not accounts.origin:
        raise Denied(
            f"http.listen: expected a loopback address, found {http.address[0]!r} and no accounts",
            hint="set accounts.origin, or put a reverse proxy with authentication before 127.0.0.1",
        )
    return http.address


_sections: dict[str, type[Any]] = {
    "http": HttpConfig,
    "compute": ComputeConfig,
    "inference": InferenceConfig,
    "storage": StorageConfig,
    "keys": KeysConfig,
    "models": ModelsConfig,
    "accounts": AccountsConfig,
    "quotas": QuotasConfig,
    "ledger": LedgerConfig,
    "metrics": MetricsConfig,
    "network": NetworkConfig,
    "log": LogConfig,
}


def sections() -> Mapping[str, type[Any]]:
    """Section → the class that holds its settings, their kinds and their defaults."""
    return _sections


def data_dir_from_environment() -> Path:
    """`BLYAN_DATA_DIR`, or `./.blyan`."""
    return Path(os.environ.get("BLYAN_DATA_DIR") or ".blyan")


def state_dir_from_environment() -> Path | None:
    """Where this user's `blyan` keeps what is worth keeping and no configuration (XDG); None without a home."""
    chosen, home = os.environ.get("XDG_STATE_HOME", ""), os.environ.get("HOME", "")
    if Path(chosen).is_absolute():
        return Path(chosen) / "blyan"
    return Path(home) / ".local/state/blyan" if Path(home).is_absolute() else None


def user_data_dir_from_environment() -> Path | None:
    """Where this user's `blyan` keeps what is theirs and cannot be made again (XDG); None without a home."""
    chosen, home = os.environ.get("XDG_DATA_HOME", ""), os.environ.get("HOME", "")
    if Path(chosen).is_absolute():
        return Path(chosen) / "blyan"
    return Path(home) / ".local/share/blyan" if Path(home).is_absolute() else None


def cache_dir_from_environment() -> Path | None:
    """Where this user's `blyan` keeps what can be made again, if the environment says so (XDG)."""
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return chosen / "blyan" if chosen.is_absolute() else None


def process_environment() -> Mapping[str, str]:
    """The environment of this process."""
    return os.environ


def read_config(
    data_dir: Path, flags: Mapping[str, Mapping[str, Any]] | None = None, environment: Mapping[str, str] | None = None
) -> NodeConfig:
    """Merge file, environment and flags; `InvalidInput` names the origin, key and value that does not fit.

    A variable that looks like ours and is none is said in the log.
    """
    merged: dict[str, dict[str, Any]] = {name: {} for name in _sections}
    path = data_dir / file_name
    if path.is_file():
        merge(merged, read_file(path), str(path), from_text=False)
    given = os.environ if environment is None else environment
    for sentence in unread_variables(given):
        _log.warning("%s", sentence)
    merge(merged, from_environment(given), "environment", from_text=True)
    merge(merged, flags or {}, "flags", from_text=False)
    return NodeConfig(data_dir=data_dir, **{name: _sections[name](**values) for name, values in merged.items()})


def read_file(path: Path) -> dict[str, Any]:
    """What a configuration file says; `InvalidInput` if it is no TOML."""
    try:
        return tomllib.loads(durable.read_limited(path, limits.config_file_bytes_max).decode("utf-8"))
    except (ValueError, OSError) as reason:
        raise InvalidInput(f"{path}: expected TOML, found {reason}") from None


def variable_of(section: str, key: str) -> str:
    """The environment variable of a setting."""
    return f"{_prefix}{section.upper()}__{key.upper()}"


def from_environment(environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Section → key → text of every variable of the form `BLYAN_SECTION__KEY`."""
    values: dict[str, dict[str, str]] = {}
    for name, text in environment.items():
        if name.startswith(_prefix) and name.removeprefix(_prefix) not in _not_sections and "__" in name:
            section, key = name.removeprefix(_prefix).lower().split("__", 1)
            values.setdefault(section, {})[key] = text
    return values


def unread_variables(environment: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that begins like one of ours and is read by nobody.

    `InvalidInput` for one that is a setting but for its underscores: whoever set it believes that it holds.
    """
    settings = {
        f"{section}{f.name}".replace("_", ""): variable_of(section, f.name)
        for section, kind in _sections.items()
        for f in fields(kind)
    }
    found: list[str] = []
    for name in sorted(environment):
        rest = name.removeprefix(_prefix)
        if rest == name or rest in _not_sections or "__" in name or _of_kubernetes.search(rest):
            continue
        meant = settings.get(rest.replace("_", "").lower())
        if meant is not None:
            raise InvalidInput(
                f"environment: expected {meant}, found {name}",
                hint="between section and key stand two underscores: BLYAN_SECTION__KEY",
            )
        known = [*settings.values(), *(f"{_prefix}{other}" for other in _not_sections)]
        found.append(f"environment: {name[:128]} is read by nobody{did_you_mean(name, known)}")
    return found


def _refuse(_section: str, _key: str | None, reason: InvalidInput) -> None:
    raise reason


def merge(
    merged: dict[str, dict[str, Any]],
    values: Mapping[str, Any],
    origin: str,
    *,
    from_text: bool,
    refuse: Refusal = _refuse,
) -> None:
    """Put one origin's values over those before it, each of the kind that its setting has."""
    for section, entries in values.items():
        if section not in _sections or not isinstance(entries, Mapping):
            message = f"{origin}: expected a section of {sorted(_sections)}, found {section!r}"
            refuse(section, None, InvalidInput(message + did_you_mean(section, _sections)))
            continue
        known = {f.name: str(f.type) for f in fields(_sections[section])}
        for key, value in cast("Mapping[str, Any]", entries).items():
            if key not in known:
                message = f"{origin}: expected a key of [{section}], found {key!r}"
                refuse(section, key, InvalidInput(message + did_you_mean(key, known)))
                continue
            try:
                merged[section][key] = _convert(value, known[key], f"{origin}: {section}.{key}", from_text)
            except InvalidInput as reason:
                refuse(section, key, reason)


def faults_of(section: str, values: Mapping[str, Any]) -> list[Fault]:
    """What is wrong with these settings of a section beyond their kinds: ranges, addresses, files that they name."""
    kind = _sections[section]
    try:
        made = kind(**values)
        for name, member in vars(kind).items():
            if isinstance(member, property):
                getattr(made, name)
        if isinstance(made, KeysConfig):
            made.passphrase()
    except Fault as reason:
        return [reason]
    return []


def _convert(value: Any, kind: str, what: str, from_text: bool) -> Any:
    if from_text:
        value = _from_text(value, kind)
    if kind == "tuple[str, ...]" and (texts := _texts(value)) is not None:
        return texts
    if type(value).__name__ != kind or (kind == "int" and value < 0):
        quoted = f'in quotes: {what.rpartition(".")[2]} = "{value}"' if kind == "str" else None
        raise InvalidInput(f"{what}: expected {kind}, found {value!r}", hint=quoted)
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
