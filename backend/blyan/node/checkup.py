"""`blyan db check`: everything a data directory keeps, compared with what it should be, without changing it."""

from __future__ import annotations

from dataclasses import dataclass

from blyan.node.blobs_in_use import unmet_needs
from blyan.node.data_directory import Ground
from blyan.node.holdings import read_held
from blyan.node.indexing import behind, differences, folder_name
from blyan.node.ledger import check_books
from blyan.node.saved import check_accounts
from blyan.primitives.errors import Fault, IntegrityFault
from blyan.storage.index import EntryIndex, IndexDamaged


@dataclass(frozen=True, slots=True)
class Checkup:
    """What was found: sentences, and how much there is."""

    damage: list[str]
    notes: list[str]  # nothing wrong, worth knowing
    blobs: int
    bytes: int  # of all blobs


def check_up(ground: Ground, *, deep: bool, database: str = "") -> Checkup:
    """Chains, index, blobs that are needed, books, accounts, pins, unfinished payloads; `deep` hashes every blob again.

    The books are those of `database`, if one is named.
    """
    damage: list[str] = []
    notes: list[str] = []
    try:
        ground.chains.verify()
    except Fault as reason:
        damage.append(reason.message)
    damage += _index(ground, notes)
    damage += _needed(ground)
    damage += check_books(ground.folder, ground.chains, database=database)
    damage += check_accounts(ground.folder)
    usage = ground.store.usage()
    if deep:
        for payload in ground.store.payloads():
            try:
                ground.store.verify(payload)
            except IntegrityFault as reason:
                damage.append(reason.message)
    for payload in ground.store.unfinished():
        try:
            ground.store.verify_unfinished(payload)
        except IntegrityFault as reason:
            damage.append(reason.message)
    if usage.leftover_bytes:
        notes.append(f"{usage.leftover_bytes} bytes of temporary files, which the next start removes")
    if usage.partials:
        notes.append(f"{usage.partials} unfinished payloads, {usage.partial_bytes} bytes")
    return Checkup(damage, notes, usage.blobs, usage.blob_bytes)


def _index(ground: Ground, notes: list[str]) -> list[str]:
    if not (ground.folder / folder_name).is_dir():
        notes.append("no index yet: the next start makes it, or `blyan db rebuild`")
        return []
    try:
        with EntryIndex(ground.folder / folder_name, writable=False) as index:
            if count := behind(index, ground.chains):
                notes.append(f"the index is {count} entries behind; whoever writes next catches up")
            return [f"index {index.folder}: {sentence}" for sentence in differences(index, ground.chains)]
    except IndexDamaged as reason:
        return [reason.message]


def _needed(ground: Ground) -> list[str]:
    """Payloads that are needed and not here, or not whole as far as their size tells."""
    damage = list(unmet_needs(ground.chains, ground.store, read_held(ground.folder)).values())
    try:
        ground.store.pins()
    except IntegrityFault as reason:
        damage.append(reason.message)
    return damage
