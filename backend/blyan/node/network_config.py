"""The section of the configuration that says how this node meets others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

from blyan.node.http_config import host_and_port
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput
from blyan.primitives.sizes import parse_size
from blyan.wire.expert_call import Activations
from blyan.wire.peer import parse_code, roles_known, want_url

roles_here: Final = ("gateway", "expert", "stage")  # of those known, what this version does
plans: Final = ("auto", "local", "dynamic", "static_delegate", "pipeline")
activations: Final = ("exact", "int8")


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Peers: where they reach this node, whom it joins, what it does for them."""

    listen: str = ""  # HOST:PORT of the peer port, port 0 for a free one; empty: this node has no peers
    announce: tuple[str, ...] = ()  # wss://HOST:PORT, where others reach the peer port, if not where it listens
    join: tuple[str, ...] = ()  # wss://HOST:PORT#CODE: who is dialled first; CODE alone looks on the local network
    roles: tuple[str, ...] = ("gateway",)
    memory: str = ""  # bytes of experts that are taken of the swarm, such as 8GiB
    plan: str = "auto"  # which plan answers: auto, local, dynamic, static_delegate, pipeline
    activations: str = "exact"  # int8: hidden states go out with 8 bits a number, and answers change a little
    call_seconds: int = 10  # for the expert calls of one layer, everything included
    peer_rows: int = 0  # rows that one node may have computed here in a minute; 0 is without limit
    relay: bool = False  # make nodes reachable that have no port of their own: their bytes go through here
    through_relays: bool = False  # this node's peer port cannot be reached: the nodes that it joins make it reachable
    mdns: bool = False  # announce the peer port on the local network, and try who is announced there
    moves_per_hour: int = 12  # experts given up for others that are worth more; what keeps them from being lost is free
    use_seconds: int = 60  # between two times that nodes are asked which experts they use
    redis: str = ""  # by which nodes of the swarm hear of each other, gossip being rare then; empty: by gossip alone
    address_links: int = limits.links_address  # links that one address may have to this node's peer port
    serve_rate: str = ""  # bytes a second of blocks that peers fetch here, all together; empty: without limit
    fetch_rate: str = ""  # bytes a second at which blocks are fetched, such as 50MiB; empty: without limit

    def __post_init__(self) -> None:
        unknown = sorted(set(self.roles) - set(roles_known))
        if unknown or not self.roles or len(set(self.roles)) != len(self.roles):
            raise InvalidInput(f"network.roles: expected each once of {', '.join(roles_known)}, found {self.roles}")
        later = sorted(set(self.roles) - set(roles_here))
        if later:
            raise InvalidInput(f"network.roles: expected {' or '.join(roles_here)}, found {later} (not provided yet)")
        if self.plan not in plans:
            raise InvalidInput(f"network.plan: expected one of {', '.join(plans)}, found {self.plan[:40]!r}")
        if self.activations not in activations:
            raise InvalidInput(f"network.activations: expected exact or int8, found {self.activations[:40]!r}")
        if not 1 <= self.call_seconds <= limits.request_seconds_max:
            most = f"{limits.request_seconds_max:g}"
            raise InvalidInput(f"network.call_seconds: expected 1 to {most}, found {self.call_seconds}")
        if not 0 <= self.moves_per_hour <= limits.moves_per_hour_max:
            most = limits.moves_per_hour_max
            raise InvalidInput(f"network.moves_per_hour: expected 0 to {most}, found {self.moves_per_hour}")
        if not 1 <= self.use_seconds <= limits.use_seconds_max:
            raise InvalidInput(f"network.use_seconds: expected 1 to {limits.use_seconds_max}, found {self.use_seconds}")
        if not 1 <= self.address_links <= limits.links_max:
            raise InvalidInput(f"network.address_links: expected 1 to {limits.links_max}, found {self.address_links}")
        if len(self.join) > limits.peers_max or len(self.announce) > limits.summary_urls_max:
            raise InvalidInput("network: expected fewer addresses to join or announce, found more")
        for url in self.announce:
            want_url(url, "network.announce", "wss")
        if self.redis and urlsplit(self.redis).scheme not in ("redis", "rediss", "unix"):
            raise InvalidInput("network.redis: expected redis://, rediss:// or unix://, found something else")
        _ = (
            self.address,
            self.joins,
            self.memory_bytes,
            self.fetch_bytes,
            self.serve_bytes,
        )  # which refuse what does not fit

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port of the peer port, None without one."""
        return host_and_port("network.listen", self.listen)[:2] if self.listen else None

    @property
    def joins(self) -> tuple[tuple[str, bytes], ...]:
        """URL of the peer port and the secret of each node to join; `InvalidInput` if they are of different swarms."""
        found = tuple(parse_join(text) for text in self.join)
        if len({secret for _, secret in found}) > 1:
            raise InvalidInput("network.join: expected one join code, found several")
        return found

    @property
    def looks_around(self) -> bool:
        """Whether nodes of the local network are looked for: asked for, or a code came without an address."""
        return self.mdns or any(not url for url, _ in self.joins)

    @property
    def memory_bytes(self) -> int | None:
        """Bytes of experts to take, None for all that there are."""
        return parse_size("network.memory", self.memory) if self.memory else None

    @property
    def waits_for_wishes(self) -> bool:
        """Whether experts come only because answers that are generated here for others use them."""
        return not {"expert", "stage"} & set(self.roles)

    def lent(self, kv_bytes: int) -> int:
        """Bytes of a memory for keys and values that are for leads whose layers are computed here.

        A stage that is no gateway answers nobody itself.
        """
        if "stage" not in self.roles:
            return 0
        return kv_bytes // 2 if "gateway" in self.roles else kv_bytes

    @property
    def fetch_bytes(self) -> int:
        """Bytes a second, 0 without limit."""
        return parse_size("network.fetch_rate", self.fetch_rate) if self.fetch_rate else 0

    @property
    def serve_bytes(self) -> int:
        """Bytes a second, 0 without limit."""
        return parse_size("network.serve_rate", self.serve_rate) if self.serve_rate else 0

    @property
    def exactness(self) -> Activations:
        """How hidden states go out."""
        return cast("Activations", self.activations)


def parse_join(text: str) -> tuple[str, bytes]:
    """URL and secret of `wss://HOST:PORT#CODE`, no URL of a code alone; `InvalidInput` without the code."""
    if text.strip().lower().startswith("blyan-"):
        return "", parse_code(text)
    try:
        parts = urlsplit(text.strip())
        url = f"{parts.scheme}://{parts.netloc}"
        fine = parts.path in ("", "/") and not parts.query
    except ValueError:
        url, fine, parts = "", False, urlsplit("")
    if not fine or not parts.fragment:
        raise InvalidInput(
            f"network.join: expected wss://HOST:PORT#CODE, found {url[:80] or 'something else'} without a code",
            hint="`blyan node invite` on a node of the swarm prints it",
        )
    want_url(url, "network.join", "wss")
    return url, parse_code(parts.fragment)
