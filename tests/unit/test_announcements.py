"""What is made of what somebody announced on the local network, and how many candidates there are at a time."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Interface, IPv6Interface

import pytest
from zeroconf.asyncio import AsyncServiceInfo

from blyan.network import discovery
from blyan.network.discovery import Announcement, Candidate, Discovery, candidate_of, service_type
from blyan.primitives import limits
from blyan.primitives.clock import system_entropy
from blyan.primitives.errors import InvalidInput
from blyan.primitives.ids import PublicKey

OURS = Announcement(PublicKey("aa" * 32), "01" * 16, "5e" * 8, 9650, 8645)
THEIRS = Announcement(PublicKey("bb" * 32), "02" * 16, "5e" * 8, 9651)
NETWORKS = (IPv4Interface("10.9.0.1/24"), IPv4Interface("192.168.7.3/30"))


def text(ours: Announcement = THEIRS, **other: str | None) -> dict[bytes, bytes | None]:
    said = {**ours.text(), **other}
    return {name.encode(): value if value is None else value.encode() for name, value in said.items()}


def test_what_a_node_announces_makes_it_a_candidate_elsewhere() -> None:
    """At the addresses that are near, at most so many."""
    addresses = ["10.9.0.2", "8.8.8.8", "192.168.7.2", "10.9.1.2"]
    made = candidate_of(text(), addresses, 9651, OURS, NETWORKS)
    assert Candidate(THEIRS.node, ("wss://10.9.0.2:9651", "wss://192.168.7.2:9651")) == made
    many = candidate_of(text(), [f"10.9.0.{n}" for n in range(2, 60)], 1, OURS, NETWORKS)
    assert limits.summary_urls_max == len(many.urls)


def test_addresses_of_ipv6_come_after_those_of_ipv4_and_link_local_ones_last() -> None:
    """These with the interface by which they were heard: without it they are of no use."""
    addresses = ["fe80::7%3", "fe80::8", "fd00:9::2", "2001:db8::1", "10.9.0.2"]
    networks = (*NETWORKS, IPv6Interface("fd00:9::1/64"), IPv6Interface("fe80::1%3/64"))
    made = candidate_of(text(), addresses, 9651, OURS, networks)
    assert made is not None
    assert made.urls == ("wss://10.9.0.2:9651", "wss://[fd00:9::2]:9651", "wss://[fe80::7%3]:9651")
    with pytest.raises(InvalidInput):
        candidate_of(text(), ["fe80::8"], 9651, OURS, networks)


@pytest.mark.parametrize(
    "changed",
    [{"swarm": "00" * 8}, {"swarm": None}, {"node": OURS.node}, {"versions": "2-9"}, {"versions": "0-0"}],
)
def test_others_and_ourselves_are_no_candidates(changed: dict[str, str | None]) -> None:
    """Another swarm or none, our own key, versions that we do not speak."""
    assert candidate_of(text(**changed), ["10.9.0.2"], 9651, OURS, NETWORKS) is None


@pytest.mark.parametrize(
    ("changed", "address", "port"),
    [
        ({"v": "2"}, "10.9.0.2", 1),
        ({"v": None}, "10.9.0.2", 1),
        ({"versions": "1"}, "10.9.0.2", 1),
        ({"versions": "99999-1"}, "10.9.0.2", 1),
        ({"node": "ab"}, "10.9.0.2", 1),
        ({"node": None}, "10.9.0.2", 1),
        ({}, "10.9.0.2", 0),
        ({}, "10.9.0.2", 65_536),
        ({}, "10.9.0.2", None),
        ({}, "8.8.8.8", 1),
        ({}, "127.0.0.1", 1),
    ],
)
def test_nonsense_is_refused(changed: dict[str, str | None], address: str, port: int | None) -> None:
    """Versions, keys, ports and addresses, also those of loopback."""
    with pytest.raises(InvalidInput):
        candidate_of(text(**changed), [address], port, OURS, (*NETWORKS, IPv4Interface("127.0.0.1/8")))


def info_of(number: int, extra: dict[str, str] | None = None) -> AsyncServiceInfo:
    said = {**THEIRS.text(), "node": f"{number:064x}", **(extra or {})}
    name = f"n{number}.{service_type}"
    return AsyncServiceInfo(
        service_type, name, port=9651, properties=said, server="h.local.", parsed_addresses=["10.9.0.2"]
    )


class Watched(Discovery):
    """Discovery that is told what came, in place of a network."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.lost: list[str] = []
        super().__init__(
            OURS,
            "10.9.0.1",
            lambda candidate: self.found.append(candidate.node),
            lambda candidate: self.lost.append(candidate.node),
            entropy=system_entropy,
        )

    def _interfaces(self) -> tuple[IPv4Interface, ...]:
        return NETWORKS


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(discovery, "_pause_seconds", 0.0)
    monkeypatch.setattr(limits, "candidates_max", 3)
    return Watched()


async def test_few_candidates_are_known_at_a_time_and_the_oldest_goes_first(watched: Watched) -> None:
    """Each that was found and is not gone is one of them."""
    for number in range(5):
        await watched._take(f"n{number}.{service_type}", info_of(number))
    assert [f"{number:064x}" for number in range(5)] == watched.found
    assert [f"{number:064x}" for number in range(2)] == watched.lost


async def test_a_node_under_two_names_is_found_once_and_gone_with_the_last(watched: Watched) -> None:
    """So that nobody has another forgotten by repeating what it said."""
    for name in ("a", "b", "a"):
        await watched._take(f"{name}.{service_type}", info_of(7))
    watched._lose(f"b.{service_type}")
    assert ([f"{7:064x}"], []) == (watched.found, watched.lost)
    watched._lose(f"a.{service_type}")
    assert [f"{7:064x}"] == watched.lost


async def test_a_record_larger_than_any_of_ours_is_not_read(watched: Watched) -> None:
    """Whatever else is in it."""
    await watched._take(f"n1.{service_type}", info_of(1, {f"x{n}": "y" * 200 for n in range(6)}))
    assert watched.found == []


async def test_candidates_do_not_follow_each_other_too_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is somebody to be dialled."""
    monkeypatch.setattr(discovery, "_pause_seconds", 0.1)
    watched = Watched()
    began = asyncio.get_running_loop().time()
    for number in range(4):
        await watched._take(f"n{number}.{service_type}", info_of(number))
    assert asyncio.get_running_loop().time() - began >= 0.29
