"""When an older version of a model is given up: not while somebody answers with it, or the newer one is not whole."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from blyan.inference.snapshot import ExpertGrid
from blyan.model.manifest import Manifest
from blyan.node.holdings import Hosted
from blyan.node.versions import OldVersions, is_whole, replaced, told_trunks
from blyan.primitives.ids import PayloadId
from blyan.wire.peer import Holding, Summary, bits_of
from swarms import said

OLD, NEW, NEXT, OTHER = (PayloadId(each * 64) for each in "abcd")


def hosted(model: PayloadId, version: str, here: set[int] | None = None, name: str = "m") -> Hosted:
    manifest = cast(Manifest, SimpleNamespace(name=name, version=version))
    return Hosted(model, manifest, ExpertGrid((0,), 4), here=here or set[int]())


def peer(number: int, **holds: tuple[bool, set[int]]) -> Summary:
    """Models by their names here: whether it has the trunk, and which experts."""
    named = {"old": OLD, "new": NEW}
    holdings = {named[name]: Holding(trunk, bits_of(numbers)) for name, (trunk, numbers) in holds.items()}
    return replace(said(number), holdings=holdings)


VERSIONS = [hosted(OLD, "1.9.0"), hosted(NEW, "1.10.0"), hosted(OTHER, "2.0.0", name="another")]


def test_an_older_version_is_replaced_by_the_one_that_this_node_answers_with() -> None:
    """Not by a newer one with which it does not answer, nor by a model of another name."""
    assert {old: new.manifest_id for old, new in replaced(VERSIONS, lambda _: NEW, {NEW}).items()} == {OLD: NEW}
    assert not replaced(VERSIONS, lambda _: OLD, {NEW})
    assert not replaced(VERSIONS, lambda _: None, {OLD})


def test_where_this_node_answers_with_none_it_is_the_newest_that_others_answer_with() -> None:
    found = replaced([*VERSIONS, hosted(NEXT, "1.11.0")], lambda _: None, {OLD, NEW, NEXT})
    assert {old: new.manifest_id for old, new in found.items()} == {OLD: NEXT, NEW: NEXT}


def test_a_model_is_whole_if_every_expert_is_here_or_with_somebody() -> None:
    assert is_whole(hosted(NEW, "1", {0, 1}), [peer(1, new=(False, {2})), peer(2, new=(False, {3}))])
    assert not is_whole(hosted(NEW, "1", {0, 1}), [peer(1, new=(False, {2})), peer(2, old=(True, {3}))])


@pytest.mark.parametrize(
    "others",
    [[peer(1, old=(True, set()), new=(True, {2, 3}))], [peer(1, new=(True, {2}))]],
    ids=["somebody answers with the old one", "the new one lacks an expert"],
)
def test_an_older_version_that_is_needed_is_not_given_up(others: list[Summary]) -> None:
    new = hosted(NEW, "1.10.0", {0, 1})
    versions = OldVersions(60.0)
    for now in (0.0, 1_000.0):
        assert versions.to_give_up({OLD: new}, told_trunks(others), others, now) == []


def test_it_is_given_up_when_nobody_needed_it_for_a_while_without_a_break() -> None:
    """A gateway that was away for a moment begins the time anew."""
    new, versions = hosted(NEW, "1.10.0", {0, 1, 2, 3}), OldVersions(60.0)
    quiet, needing = [peer(1, new=(True, set()))], [peer(2, old=(True, set()))]
    for others, now, given_up in [
        (quiet, 0, []),
        (needing, 59, []),
        (quiet, 61, []),
        (quiet, 120, []),
        (quiet, 121, [OLD]),
    ]:
        assert given_up == versions.to_give_up({OLD: new}, told_trunks(others), others, now)
