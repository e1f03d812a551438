"""A sign-in message is what this node writes, byte for byte, signed by the key that it names, and nothing else."""

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blyan.auth.origin import parse_origin
from blyan.auth.siwe import Address, SignInMessage, parse_address, parse_message, parse_signature, verify
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, Unauthenticated
from wallets import new_key, sign

ORIGIN = parse_origin("https://chat.example.org", "origin")
KEY = new_key(1)
NOW = 1_700_000_000
MESSAGE = SignInMessage(ORIGIN, Address(KEY.address), 1, "0123456789abcdef" * 2, NOW, NOW + 300)
SIGNATURE = bytes.fromhex(sign(KEY, MESSAGE.text)[2:])


def test_the_message_is_the_one_that_wallets_know() -> None:
    """EIP-4361, frozen: what people have read before they sign does not change by accident."""
    assert MESSAGE.text == (
        "chat.example.org wants you to sign in with your Ethereum account:\n"
        "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf\n"
        "\n"
        "Sign in to this Blyan node. This sends no transaction and costs nothing.\n"
        "\n"
        "URI: https://chat.example.org\n"
        "Version: 1\n"
        "Chain ID: 1\n"
        "Nonce: 0123456789abcdef0123456789abcdef\n"
        "Issued At: 2023-11-14T22:13:20Z\n"
        "Expiration Time: 2023-11-14T22:18:20Z"
    )
    assert parse_message(MESSAGE.text, ORIGIN) == MESSAGE


async def test_its_key_signs_it() -> None:
    assert not await verify(MESSAGE, SIGNATURE, nonce=MESSAGE.nonce, now=NOW, contracts=None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("chat.example.org wants", "chat.example.com wants"), "domain"),
        (("chat.example.org wants", "https://chat.example.org wants"), "scheme"),
        (("URI: https://chat.example.org", "URI: http://chat.example.org"), "URI"),
        (("URI: https://chat.example.org", "URI: https://chat.example.org/"), "URI"),
        (("Version: 1", "Version: 2"), "EIP-4361"),
        (("Chain ID: 1", "Chain ID: 01"), "byte for byte"),
        (("Chain ID: 1", "Chain ID: 0"), "byte for byte"),
        (("costs nothing.", "costs everything."), "statement"),
        (("\nSign in to this Blyan node. This sends no transaction and costs nothing.\n", ""), "EIP-4361"),
        (("Sign in to this Blyan node. This sends no transaction and costs nothing.\n", ""), "statement"),
        (("0x7E5F", "0x7e5F"), "EIP-4361"),
        (("20Z\nExpiration Time: 2023-11-14T22:18:20Z", "20Z"), "expiration time"),
        (("22:18:20Z", "22:18:20.000Z"), "expiration time"),
        (("22:13:20Z", "22:13:20+00:00"), "issued at"),
        (("22:18:20Z", "22:18:20Z\nNot Before: 2023-11-14T22:13:20Z"), "not before"),
        (("22:18:20Z", "22:18:20Z\nRequest ID: 1"), "request id"),
        (("22:18:20Z", "22:18:20Z\nResources:\n- https://evil.example"), "resources"),
        (("22:18:20Z", "22:18:20Z\n"), "byte for byte"),
        (("\n", "\r\n"), "EIP-4361"),
        (("Nonce: 0", "Nonce:  0"), "EIP-4361"),
        (("chat", "ch\u0430t"), "domain"),
    ],
)
def test_a_message_that_differs_is_refused(change: tuple[str, str], said: str) -> None:
    """Foreign domains, other encodings of the same, additions: none is a message of this node."""
    assert change[0] in MESSAGE.text
    with pytest.raises(Unauthenticated, match=said):
        parse_message(MESSAGE.text.replace(*change), ORIGIN)


@given(st.integers(0, len(MESSAGE.text) - 1))
def test_a_truncated_message_is_refused(length: int) -> None:
    with pytest.raises(Unauthenticated):
        parse_message(MESSAGE.text[:length], ORIGIN)


@given(st.integers(0, len(MESSAGE.text) - 1), st.characters())
def test_a_message_with_one_other_character_is_refused_or_says_something_else(place: int, other: str) -> None:
    text = MESSAGE.text[:place] + other + MESSAGE.text[place + 1 :]
    if text == MESSAGE.text:
        return
    try:
        found = parse_message(text, ORIGIN)
    except Unauthenticated:
        return
    assert (found != MESSAGE, found.text) == (True, text)


@given(st.text(max_size=400))
def test_any_text_is_refused_and_nothing_else_happens(text: str) -> None:
    with pytest.raises(Unauthenticated):
        parse_message(text, ORIGIN)


@pytest.mark.parametrize("text", ["\n" * 17, "x" * 301, f"{MESSAGE.text}\nResources:" + "\n- https://a" * 20])
def test_many_or_long_lines_are_refused_before_they_are_parsed(text: str) -> None:
    with pytest.raises(Unauthenticated, match="few and short lines"):
        parse_message(text, ORIGIN)


def test_messages_leave_no_memory_behind() -> None:
    """A parser that caches what it reads would be filled by strangers: checked where that one was found to."""
    import abnf.parser

    kept = sum(map(len, abnf.parser.ParseCache.objects))
    for number in range(20):
        parse_message(replace(MESSAGE, nonce=f"{number:032x}").text, ORIGIN)
    assert kept == sum(map(len, abnf.parser.ParseCache.objects))


def test_a_long_message_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(Unauthenticated, match=f"at most {limits.sign_in_message_chars_max}"):
        parse_message("x" * (limits.sign_in_message_chars_max + 1), ORIGIN)


@pytest.mark.parametrize("seconds", [300, 301, 10_000, 2_000_000_000])
async def test_an_expired_message_is_refused(seconds: int) -> None:
    with pytest.raises(Unauthenticated, match="expected it before 2023-11-14T22:18:20Z"):
        await verify(MESSAGE, SIGNATURE, nonce=MESSAGE.nonce, now=NOW + seconds, contracts=None)


async def test_a_message_of_the_future_is_refused() -> None:
    """The clock was set back, or somebody else writes messages."""
    with pytest.raises(Unauthenticated, match="issued before now"):
        await verify(MESSAGE, SIGNATURE, nonce=MESSAGE.nonce, now=NOW - 61, contracts=None)


async def test_a_message_with_another_nonce_is_refused() -> None:
    with pytest.raises(Unauthenticated, match="nonce"):
        await verify(MESSAGE, SIGNATURE, nonce="f" * 32, now=NOW, contracts=None)


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        b"\0" * 65,
        b"\xff" * 65,
        SIGNATURE[:-1],
        SIGNATURE + b"\0",
        SIGNATURE[:-1] + b"\x1d",
        SIGNATURE[:-1] + bytes([SIGNATURE[-1] ^ 7]),
        b"\0" * 32 + SIGNATURE[32:],
        bytes.fromhex(sign(new_key(2), MESSAGE.text)[2:]),
        bytes.fromhex(sign(KEY, MESSAGE.text + " ")[2:]),
    ],
)
async def test_another_signature_is_refused(signature: bytes) -> None:
    with pytest.raises(Unauthenticated, match="expected one of the key of 0x7E5F"):
        await verify(MESSAGE, signature, nonce=MESSAGE.nonce, now=NOW, contracts=None)


@given(st.binary(min_size=65, max_size=65))
async def test_any_signature_is_refused_and_nothing_else_happens(signature: bytes) -> None:
    with pytest.raises(Unauthenticated):
        await verify(MESSAGE, signature, nonce=MESSAGE.nonce, now=NOW, contracts=None)


@pytest.mark.parametrize("answer", [True, False])
async def test_a_contract_is_asked_where_no_key_signed(answer: bool) -> None:
    asked: list[tuple[int, str, bytes, bytes]] = []

    async def contracts(chain_id: int, wallet: Address, digest: bytes, signature: bytes) -> bool:
        asked.append((chain_id, wallet, digest, signature))
        return answer

    try:
        assert await verify(MESSAGE, b"short", nonce=MESSAGE.nonce, now=NOW, contracts=contracts)
        assert answer
    except Unauthenticated:
        assert not answer
    [(chain_id, wallet, digest, signature)] = asked
    assert (1, KEY.address, b"short") == (chain_id, wallet, signature)
    from eth_account.messages import _hash_eip191_message, encode_defunct

    assert _hash_eip191_message(encode_defunct(text=MESSAGE.text)) == digest


async def test_no_contract_is_asked_where_the_key_signed() -> None:
    async def contracts(*_: object) -> bool:
        raise AssertionError("asked")

    assert not await verify(MESSAGE, SIGNATURE, nonce=MESSAGE.nonce, now=NOW, contracts=contracts)


@pytest.mark.parametrize("text", [KEY.address, KEY.address.lower()])
def test_an_address_comes_with_its_checksum_or_in_lower_case(text: str) -> None:
    assert parse_address(text, "address") == "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"


@pytest.mark.parametrize(
    "text", ["", "0x", KEY.address[:-1], KEY.address + "0", KEY.address[2:], KEY.address.upper(), None, 5, ["0x"]]
)
def test_what_is_no_address_is_refused(text: object) -> None:
    with pytest.raises(InvalidInput, match="address: expected 0x and 40 hex digits"):
        parse_address(text, "address")


def test_a_mistyped_address_is_refused_by_its_checksum() -> None:
    with pytest.raises(InvalidInput, match="EIP-55"):
        parse_address(KEY.address.replace("0x7E", "0x7e"), "address")


@pytest.mark.parametrize("text", ["", "0x0", "0xzz", "abcd", None, 5, "0x" + "0" * 2 * (16 * 1024 + 1)])
def test_what_is_no_signature_is_refused(text: object) -> None:
    with pytest.raises(InvalidInput, match="signature: expected"):
        parse_signature(text)


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("https://chat.example.org", "chat.example.org"),
        ("https://chat.example.org:8443", "chat.example.org:8443"),
        ("http://127.0.0.1:8645", "127.0.0.1:8645"),
        ("http://localhost", "localhost"),
        ("http://[::1]:8645", "[::1]:8645"),
        ("https://10.0.0.1", "10.0.0.1"),
    ],
)
def test_an_origin_is_as_browsers_write_it(text: str, authority: str) -> None:
    origin = parse_origin(text, "accounts.origin")
    assert (text, authority) == (origin.text, origin.authority)


@pytest.mark.parametrize(
    "text",
    [
        "chat.example.org",
        "https://",
        "https://chat.example.org/",
        "https://chat.example.org/x",
        "https://chat.example.org?",
        "https://chat.example.org#",
        "https://Chat.example.org",
        "HTTPS://chat.example.org",
        "https://chat.example.org:443",
        "https://chat.example.org:0",
        "https://chat.example.org:99999",
        "https://user@chat.example.org",
        "https://chät.example.org",
        "https://chat..org",
        "https://-a.org",
        "https://[::01]",
        "https://[::1",
        "ftp://chat.example.org",
        "null",
        "https://" + "a" * 300,
    ],
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"accounts\.origin: expected"):
        parse_origin(text, "accounts.origin")


@pytest.mark.parametrize("text", ["http://chat.example.org", "http://10.0.0.1:8645", "http://localhost.evil.org"])
def test_http_is_for_loopback(text: str) -> None:
    with pytest.raises(InvalidInput, match="expected https off loopback"):
        parse_origin(text, "accounts.origin")


@given(st.text(max_size=60))
def test_any_origin_is_one_or_refused(text: str) -> None:
    with suppress(InvalidInput):
        assert parse_origin(text, "x").text == text
