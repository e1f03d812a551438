"""`blyan doctor`: what this machine and this data directory lack, and how to mend each. It changes nothing
(the library of the index writes `rocksdict-config.json` anew, as it was, whenever it opens one).

Three storeys: the machine, the data directory, and what may be asked of it now. Where one cannot be looked at, those
that stand on it are passed over: their findings would only repeat it.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Literal, TypeAlias

from blyan.model.footprint import footprint_of
from blyan.node import probe
from blyan.node.blobs_in_use import unmet_needs
from blyan.node.catalogue import manifests_of
from blyan.node.config import read_config
from blyan.node.config_survey import survey
from blyan.node.data_directory import Ground, lock_holder, open_ground
from blyan.node.holdings import read_held
from blyan.node.indexing import behind, folder_name
from blyan.node.keys import folder_name as keys_folder
from blyan.node.keys import next_key, node_key, read_key
from blyan.node.machine import memory, processors
from blyan.node.saved import look_at_books
from blyan.node.verified import last_verified
from blyan.node.writer import left_unclean
from blyan.primitives import limits
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.errors import Fault, IntegrityFault, InvalidInput, NotFound
from blyan.storage.index import EntryIndex

Status: TypeAlias = Literal["ok", "warn", "fail"]

_python: Final = (3, 11)
_torch: Final = (2, 13)
_free_bytes_min: Final = 2 * limits.GIB
_entries_verified_max: Final = 20_000  # about two seconds; more are for `blyan chain verify`
_answer_bytes_max: Final = 4 * limits.KIB
_clock_slack_seconds: Final = 300
_built: Final = 1_767_225_600  # 2026-01-01: no clock is right that is before this version


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: Status
    message: str
    mend: str | None = None  # what to do, where there is something to do
    integrity: bool = False  # bytes are not what they should be


def examine(folder: Path, now: UnixSeconds) -> Iterator[Finding]:
    """Look at everything, the machine first; nothing is written."""
    yield _python_version()
    yield _torch_version()
    yield _configuration(folder)
    yield _threads(folder)
    yield _clock_alone(now)
    yield _disk(folder)
    if not folder.exists():
        yield Finding("data directory", "warn", f"{folder} is not there yet", f"blyan init --data-dir {folder}")
        yield _port(folder)
        return
    yield from _permissions(folder)
    yield _lock(folder)
    yield _unclean(folder)
    try:
        ground = open_ground(folder)
    except NotFound as reason:
        yield Finding("chains", "warn", reason.message, reason.hint)
    except (Fault, OSError) as reason:
        yield _fault("chains", reason)
    else:
        yield from _ground(ground, now)
        yield _accounts(ground)
    yield _port(folder)


def _fault(name: str, reason: Fault | OSError) -> Finding:
    hint = reason.hint if isinstance(reason, Fault) else None
    text = reason.message if isinstance(reason, Fault) else f"{reason.filename}: {reason.strerror}"
    mend = "blyan config check" if isinstance(reason, InvalidInput) else "blyan db check --deep"
    return Finding(name, "fail", text, hint or mend, isinstance(reason, IntegrityFault))


def _python_version() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < _python:
        return Finding(
            "python", "fail", f"expected 3.11 or newer, found {found}", "install a newer python, then scripts/run"
        )
    return Finding("python", "ok", found)


def _torch_version() -> Finding:
    mend = "pip install -c constraints.txt . (README, torch without CUDA)"
    try:
        import torch  # a broken one shows only when it is loaded
    except (ImportError, OSError) as reason:
        return Finding("torch", "fail", f"expected to load it, found {reason}", mend)
    found = metadata.version("torch")
    numbers = tuple(int(each) for each in found.split("+")[0].split(".")[:2] if each.isdecimal())
    if numbers < _torch:
        return Finding("torch", "fail", f"expected {'.'.join(map(str, _torch))} or newer, found {found}", mend)
    return Finding("torch", "ok", f"{found}, {torch.get_num_threads()} threads unless compute.threads says otherwise")


def _configuration(folder: Path) -> Finding:
    found = survey(folder)
    if found.mistakes:
        first = found.mistakes[0]
        more = f" (and {len(found.mistakes) - 1} more)" if len(found.mistakes) > 1 else ""
        return Finding("configuration", "fail", f"{first.where}: {first.message}{more}", "blyan config check")
    if found.warnings:
        return Finding("configuration", "warn", found.warnings[0], "blyan config check")
    changed = sum(each.origin != "default" for each in found.settings[1:])
    return Finding("configuration", "ok", f"{changed} of {len(found.settings) - 1} settings are not the default")


def _threads(folder: Path) -> Finding:
    here = processors()
    try:
        wanted = read_config(folder).compute.threads
    except Fault:
        wanted = 0  # said by the configuration
    if wanted > here:
        message = f"compute.threads is {wanted}, and this process may use {here} processors: they take turns"
        return Finding("processors", "warn", message, f"set compute.threads to {here} or 0")
    return Finding("processors", "ok", f"{here}")


def _clock_alone(now: UnixSeconds) -> Finding:
    if now() < _built:
        message = "the clock is before this version was made: entries would be refused"
        return Finding("clock", "fail", message, "set the clock (timedatectl set-ntp true)")
    return Finding("clock", "ok", "after this version was made")


def _disk(folder: Path) -> Finding:
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    found = os.statvfs(place)
    free = found.f_bavail * found.f_frsize
    try:
        kept = read_config(folder).storage.free_bytes_min
    except Fault:
        kept = 0
    text = f"{free / limits.GIB:.1f} GiB free where {place.absolute()} is"
    if free < max(kept, limits.GIB // 4):
        return Finding("disk", "fail", text, "make room, or move the data directory (--data-dir)")
    if free < kept + _free_bytes_min:
        return Finding(
            "disk", "warn", f"{text}: too little for most models", "blyan blob sweep --dry-run says what can go"
        )
    return Finding("disk", "ok", text)


def _permissions(folder: Path) -> Iterator[Finding]:
    found = folder.stat()
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        yield Finding("data directory", "fail", f"expected a folder, found {folder}", "choose another --data-dir")
        return
    if found.st_uid != os.geteuid() and os.geteuid() != 0:
        message = f"{folder} belongs to user {found.st_uid}, and this is user {os.geteuid()}"
        yield Finding("data directory", "fail", message, f"run as that user, or chown -R {os.geteuid()} {folder}")
    elif mode & 0o022:
        message = f"expected a mode in which nobody else writes, found {mode:04o}"
        yield Finding("data directory", "warn", message, f"chmod go-w {folder}")
    elif not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        message = "expected to be allowed to write, found no permission, or a read-only disk"
        yield Finding("data directory", "fail", message, f"chmod u+rwx {folder}")
    else:
        yield Finding("data directory", "ok", f"{folder}, mode {mode:04o}")
    for path in (node_key(folder), next_key(folder)):
        if path.exists():
            yield _key(path)
    keys = folder / keys_folder
    if keys.is_dir() and (loose := stat.S_IMODE(keys.stat().st_mode)) & 0o077:
        yield Finding("keys folder", "warn", f"expected mode 0700, found {loose:04o}", f"chmod 700 {keys}")


def _key(path: Path) -> Finding:
    try:
        file = read_key(path)
    except (Fault, OSError) as reason:
        return _fault("key", reason)
    if path.name == "next.key":
        return Finding("key", "warn", "a rotation has not ended", "start the node once: it finishes or undoes it")
    return Finding("key", "ok", f"{file.public[:16]}…, {'encrypted' if file.encrypted else 'in plain, owner-only'}")


def _lock(folder: Path) -> Finding:
    try:
        holder = lock_holder(folder)
    except OSError as reason:
        return _fault("lock", reason)
    if holder is None:
        return Finding("lock", "ok", "nobody writes here now")
    if "pid" not in holder:
        return Finding("lock", "ok", "held by a process that is starting or stopping")
    at = f" and answers at {holder['url']}" if holder.get("url") else ""
    return Finding("lock", "ok", f"process {holder['pid']} writes here{at}")


def _unclean(folder: Path) -> Finding:
    found = left_unclean(folder)
    if found is not None:
        return Finding("last end", "warn", found, "blyan up, or any command that writes")
    return Finding("last end", "ok", "clean, or a process is at work")


def _ground(ground: Ground, now: UnixSeconds) -> Iterator[Finding]:
    """What stands on chains that could be opened."""
    for look in (_chains, _index, _blobs, _models):
        try:
            yield look(ground)
        except (Fault, OSError) as reason:
            yield _fault(look.__name__.removeprefix("_"), reason)
    ahead = ground.chains.joint.time - now()
    if ahead > _clock_slack_seconds:
        message = f"the clock is {ahead} s behind the newest checkpoint: new entries would be older than it"
        yield Finding("clock and chains", "fail", message, "set the clock (timedatectl set-ntp true)")
    else:
        yield Finding("clock and chains", "ok", "not before the newest checkpoint")


def _chains(ground: Ground) -> Finding:
    chains = ground.chains
    if chains.snapshot_damage is not None:
        return Finding("chains", "fail", chains.snapshot_damage.message, "blyan db rebuild", integrity=True)
    entries = sum(log.checkpoint.size - log.first for log in chains.logs.values())
    if entries > _entries_verified_max:
        return Finding("chains", "ok", f"{entries} entries, opened but not all verified: `blyan chain verify` does")
    chains.verify()
    return Finding("chains", "ok", f"{entries} entries verified, commit {chains.joint.height} of {chains.network}")


def _index(ground: Ground) -> Finding:
    if not (ground.folder / folder_name).is_dir():
        return Finding("index", "ok", "none yet: the next start makes it")
    with EntryIndex(ground.folder / folder_name, writable=False) as index:
        count = behind(index, ground.chains)
    if count:
        return Finding("index", "ok", f"{count} entries behind: whoever writes next catches up")
    return Finding("index", "ok", "up to date")


def _blobs(ground: Ground) -> Finding:
    """By presence and size: what hashing them would find is for `db check --deep`."""
    unmet = unmet_needs(ground.chains, ground.store, read_held(ground.folder))
    if unmet:
        first = next(iter(unmet.values()))
        mend = "blyan init (built-in model), `blyan model import` again, or `blyan db restore`"
        return Finding("blobs", "fail", f"{len(unmet)} are missing or damaged: {first}", mend, integrity=True)
    ground.store.pins()
    used = ground.store.usage()
    return Finding("blobs", "ok", f"{used.blobs} here, none missing; {used.partials} unfinished")


def _models(ground: Ground) -> Finding:
    found = manifests_of(ground)
    if not found and (held := read_held(ground.folder)):
        names = ", ".join(each.name for each in held.values())
        return Finding("models", "ok", f"none of its own; experts of {names} for other nodes")
    if not found:
        return Finding(
            "models", "warn", "expected at least one model, found none", "blyan init, or blyan model import DIR"
        )
    _, available = memory()
    sizes = {name: footprint_of(manifest).weights for name, (_, manifest) in found.items()}
    largest = max(sizes, key=lambda name: sizes[name])
    if sizes[largest] > available:
        message = (
            f"{largest} has {sizes[largest] / limits.GIB:.1f} GiB of weights, and {available / limits.GIB:.1f} GiB of "
            "memory are free: they are read from disk again and again"
        )
        return Finding("models", "warn", message, f"blyan model plan {largest}; import it with --quantize int4")
    unverified = [
        name
        for name, (version, manifest) in found.items()
        if last_verified(ground.folder, version.manifest, manifest, ground.store) is None
    ]
    if unverified:
        message = f"never verified as their files are now: {', '.join(unverified)}"
        return Finding("models", "warn", message, "blyan model verify --all, or blyan up")
    return Finding("models", "ok", f"{len(found)}, all verified since their files changed, all fit into memory")


def _accounts(ground: Ground) -> Finding:
    try:
        return Finding("accounts", "ok", look_at_books(read_config(ground.folder), ground.chains))
    except (Fault, OSError) as reason:
        return _fault("accounts", reason)


def _port(folder: Path) -> Finding:
    try:
        holder = lock_holder(folder)
        host, port = read_config(folder).address
    except (Fault, OSError):
        return Finding("port", "warn", "not looked at: no address is configured", "blyan config check")
    if holder and holder.get("url"):
        url = str(holder["url"])
        status, body = probe.get(url, "/readyz", bytes_max=_answer_bytes_max)
        if status == 200:
            return Finding("port", "ok", f"this node answers at {url}")
        said = body.strip().splitlines()[0][:200] if body.strip() else f"status {status}" if status else "nothing"
        return Finding("port", "fail", f"this node at {url} is not ready: {said}", f"curl '{url}/readyz?verbose'")
    if not port or _is_free(host, port):
        return Finding("port", "ok", f"{host}:{port} is free")
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    status, body = probe.get(url, "/livez", bytes_max=_answer_bytes_max)
    who = "another node" if status == 200 and body == "ok\n" else "a web server" if status else "something else"
    mend = "stop it, or blyan up --listen 127.0.0.1:0 (or set http.listen)"
    return Finding("port", "fail", f"{who} answers at {url}", mend)


def _is_free(host: str, port: int) -> bool:
    """Whether a server could listen there, tried as it would."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((host, port))
        except OSError:
            return False
    return True
