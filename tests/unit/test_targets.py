"""Who is dialled, and when: addresses that were given, and those that summaries name."""

from __future__ import annotations

from dataclasses import replace

from blyan.network.targets import Target, Targets
from blyan.wire.peer import Summary
from swarms import node, said

URL = "wss://127.0.0.1:1"


def at(number: int, url: str = URL, certificate: str = "11") -> Summary:
    return replace(said(number), peer_urls=(url,), certificate=certificate * 32)


def nobody(_target: Target) -> bool:
    return False


def dialled(targets: Targets, now: float) -> list[tuple[str, str | None, str | None]]:
    return [(each.url, each.expected.node, each.expected.certificate) for each in targets.ready(now, nobody)]


def test_a_process_that_came_after_another_is_found_at_the_same_address() -> None:
    """While its summary is not known yet: a dial that failed is repeated without the old certificate."""
    targets = Targets()
    targets.follow([at(1)])
    (target,) = targets.ready(0, nobody)
    assert target.expected.certificate == "11" * 32
    target.failed("another process", 0, 0.5)
    targets.follow([at(1)])
    assert dialled(targets, 0.4) == []
    assert dialled(targets, 1) == [(URL, node(1), None)]


def test_a_new_summary_of_another_process_is_followed_at_once() -> None:
    """However long the pause was by then."""
    targets = Targets()
    targets.follow([at(1)])
    (target,) = targets.ready(0, nobody)
    for _ in range(10):
        target.failed("nobody there", 0, 0.5)
    targets.follow([at(1)])
    assert dialled(targets, 4) == []
    targets.follow([at(1, certificate="22")])
    assert dialled(targets, 4) == [(URL, node(1), "22" * 32)]


def test_an_address_that_two_nodes_name_is_tried_for_both() -> None:
    """So that nobody makes another unreachable by naming its address."""
    targets = Targets()
    targets.follow([at(1), at(2, certificate="22")])
    assert dialled(targets, 0) == [(URL, node(1), "11" * 32), (URL, node(2), "22" * 32)]


def test_what_only_a_summary_named_is_forgotten_with_its_node() -> None:
    """What was given stays, and so does one that is being dialled until that is over."""
    targets = Targets()
    targets.seek([("wss://127.0.0.1:2", None)])
    targets.follow([at(1), at(2, "wss://127.0.0.1:3")])
    busy = targets.ready(0, nobody)[1]
    busy.busy = True
    targets.follow([])
    busy.busy = False
    assert [url for url, _, _ in dialled(targets, 0)] == ["wss://127.0.0.1:2", URL]
    targets.follow([])
    assert [url for url, _, _ in dialled(targets, 0)] == ["wss://127.0.0.1:2"]


def test_pauses_grow_and_end_with_an_answer() -> None:
    """From half a second to half a minute."""
    targets = Targets()
    targets.seek([(URL, None)])
    (target,) = targets.ready(0, nobody)
    pauses = []
    for _ in range(9):
        target.failed("no", 0, 0.5)
        pauses.append(target.after)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert targets.why_not(URL) == "no"
    target.answered(node(1))
    assert (target.node, target.pause, targets.why_not(URL)) == (node(1), 0.5, "")


def test_few_are_dialled_at_once() -> None:
    """The others when those are done."""
    targets = Targets()
    targets.seek((f"wss://127.0.0.1:{number}", None) for number in range(1, 40))
    first = targets.ready(0, nobody)
    assert len(first) == 16
    for target in first:
        target.busy = True
    assert targets.ready(0, nobody) == []


def test_what_is_heard_on_the_local_network_is_dialled_until_it_is_heard_no_more() -> None:
    """Unless it was given too: nobody on the network takes that away."""
    targets = Targets()
    given, heard = ("wss://h:1", node(1)), ("wss://h:2", node(2))
    targets.seek([given])
    targets.heard([given, heard])
    targets.follow([])
    assert {given, heard} == {each[:2] for each in dialled(targets, 0.0)}
    targets.unheard([given, heard, ("wss://h:3", node(3))])
    targets.follow([])
    assert [given] == [each[:2] for each in dialled(targets, 0.0)]
