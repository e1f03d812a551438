"""The sections of the configuration that say where a node listens and whose word about addresses it takes."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from blyan.auth.proxies import Network, parse_network
from blyan.primitives import limits
from blyan.primitives.errors import Denied, InvalidInput


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """The door of the API and the page."""

    listen: str = "127.0.0.1:8645"  # HOST:PORT, port 0 for a free one
    allowed_hosts: tuple[str, ...] = ()  # further Host names that are answered (DNS rebinding is not)
    trusted_proxies: tuple[str, ...] = ()  # addresses and networks whose X-Forwarded-For is believed
    shutdown_seconds: int = 10  # how long answers under way may go on when the node is asked to stop

    def __post_init__(self) -> None:
        if self.shutdown_seconds > limits.request_seconds_max:
            most = f"{limits.request_seconds_max:g}"
            raise InvalidInput(f"http.shutdown_seconds: expected 0 to {most}, found {self.shutdown_seconds}")
        if len(self.trusted_proxies) > limits.trusted_proxies_max:
            most = limits.trusted_proxies_max
            raise InvalidInput(f"http.trusted_proxies: expected at most {most}, found {len(self.trusted_proxies)}")
        _ = self.proxies  # which refuses what does not fit

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, port, _ = host_and_port("http.listen", self.listen)
        return host, port

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the door."""
        return host_and_port("http.listen", self.listen)[2]

    @property
    def proxies(self) -> tuple[Network, ...]:
        """Who is believed about whom they heard."""
        return tuple(parse_network(each, "http.trusted_proxies") for each in self.trusted_proxies)


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """The door of `/metrics`, apart from the API's."""

    listen: str = ""  # HOST:PORT, port 0 for a free one; empty: no such door
    allow_remote: bool = False  # also listen where other machines reach it

    def __post_init__(self) -> None:
        _ = self.address  # which refuses what does not fit

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port, None if there is no such door; `Denied` off loopback unless that is allowed."""
        if not self.listen:
            return None
        host, port, loopback = host_and_port("metrics.listen", self.listen)
        if not loopback and not self.allow_remote:
            raise Denied(
                f"metrics.listen: expected a loopback address, found {host!r}",
                hint="anybody who reaches it reads the metrics; metrics.allow_remote = true allows that",
            )
        return host, port


def host_and_port(key: str, listen: str) -> tuple[str, int, bool]:
    """Host, port, and whether only this machine reaches it; `InvalidInput` names the key."""
    host, separator, port = listen.rpartition(":")
    host = host.strip("[]")
    if not separator or not port.isdecimal() or int(port) > 65_535:
        raise InvalidInput(f"{key}: expected HOST:PORT, found {listen!r}")
    try:
        return host, int(port), host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host, int(port), False
