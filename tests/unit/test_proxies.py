"""Whose address a request comes from: headers say it only through proxies that the configuration trusts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blyan.auth.proxies import charged_address, client_address, parse_network
from blyan.primitives.errors import InvalidInput

TRUSTED = [parse_network(each, "x") for each in ("10.0.0.0/8", "::1", "127.0.0.1")]


@pytest.mark.parametrize(
    ("connection", "forwarded", "client"),
    [
        ("203.0.113.5", [], "203.0.113.5"),
        ("203.0.113.5", ["198.51.100.7"], "203.0.113.5"),  # not through a proxy: its own words
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["1.2.3.4, 198.51.100.7"], "198.51.100.7"),  # what the client wrote itself
        ("10.0.0.1", ["1.2.3.4", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7, 10.9.9.9"], "198.51.100.7"),
        ("10.0.0.1", ["10.1.1.1, 10.9.9.9"], "10.1.1.1"),
        ("10.0.0.1", ["198.51.100.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7, 10.9.9.9, "], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7:1234"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("::1", ["2001:db8::5"], "2001:db8::5"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("::ffff:203.0.113.5", [], "203.0.113.5"),
        ("10.0.0.1", ["198.51.100.7" + ", 10.0.0.2" * 100], "10.0.0.2"),
        ("", ["198.51.100.7"], ""),
        (None, ["198.51.100.7"], ""),
    ],
)
def test_the_first_address_that_is_no_trusted_proxy_is_the_client(
    connection: str | None, forwarded: list[str], client: str
) -> None:
    assert client == client_address(connection, forwarded, TRUSTED)


@given(st.lists(st.text(max_size=40), max_size=5))
def test_nothing_that_a_stranger_writes_is_believed(forwarded: list[str]) -> None:
    assert client_address("203.0.113.5", forwarded, TRUSTED) == "203.0.113.5"


@given(st.lists(st.text(max_size=40), max_size=5))
def test_without_trusted_proxies_headers_say_nothing(forwarded: list[str]) -> None:
    assert client_address("127.0.0.1", forwarded, []) == "127.0.0.1"


@pytest.mark.parametrize(
    ("address", "charged"),
    [("203.0.113.5", "203.0.113.5"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), ("", "")],
)
def test_a_home_shares_one_quota(address: str, charged: str) -> None:
    assert charged == charged_address(address)


@pytest.mark.parametrize("text", ["", "example.org", "10.0.0.1/8", "10.0.0.0/33", "*"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"http\.trusted_proxies: expected an address or a network"):
        parse_network(text, "http.trusted_proxies")
