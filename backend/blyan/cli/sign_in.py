"""Signing in to a node from the command line: with a wallet (EIP-4361), or by showing an API key.

The node writes the message. A wallet signs nothing but what this node, reached at this address, would write for this
key now: a node that passes on the message of another one would have a session there. What the session is known by is
kept for the owner alone, by origin, until it ends.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any, Final

import aiohttp

from blyan.auth.origin import parse_origin
from blyan.auth.siwe import SignInMessage, parse_message
from blyan.cli.chat_client import connect_seconds, fault_of, limited_json
from blyan.cli.wallet import wallet_passphrase, wallet_path
from blyan.node.config import state_dir_from_environment
from blyan.node.wallet_file import Secret, address_of, open_wallet, read_owner_only
from blyan.primitives import limits
from blyan.primitives.clock import UnixSeconds, system_seconds
from blyan.primitives.errors import Denied, Fault, InvalidInput, PeerFault, UsageMistake
from blyan.storage import durable
from blyan.wire.fields import as_dict, as_list

_mode: Final = 0o600
_file_name: Final = "sign_ins.json"
_key: Final = re.compile(r"sk-blyan-[!-~]{1,200}")
_session_name: Final = re.compile(r"(?:__Host-blyan-session|blyan-session-[0-9]{1,5})")
_secret: Final = re.compile(r"[A-Za-z0-9_-]{16,256}")


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who we are to a node, and the headers that say so with each request. Its repr shows no secret."""

    account: str
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        return f"SignedIn({self.account})"


def key_headers(path: Path) -> SignedIn:
    """The API key in a file that nobody else may read."""
    raw = read_owner_only(path, limits.key_file_bytes_max, "an API key")
    try:
        text = raw.decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    if not _key.fullmatch(text):
        raise InvalidInput(f"{path}: expected an API key, sk-blyan-…, found something else")
    return SignedIn("the account of the API key", {"Authorization": f"Bearer {text}"})


async def signed_in(options: argparse.Namespace, session: aiohttp.ClientSession, url: str) -> SignedIn | None:
    """Who we are to the node by the options of `wallet.add_sign_in`, None where nobody asked for that."""
    if options.api_key_file is None and not options.wallet and options.wallet_file is None:
        return None
    if options.api_key_file is not None:
        if options.wallet or options.wallet_file is not None:
            raise UsageMistake("sign-in: expected --wallet or --api-key-file, found both")
        return key_headers(options.api_key_file)
    wallet = wallet_path(options.wallet_file)
    secret = wallet_passphrase(options, wallet)
    door = WalletDoor(session, url, wallet, secret, folder=state_dir_from_environment())
    return await door.enter(system_seconds, options.chain_id)


class WalletDoor:
    """Signs in at one node with one wallet, and remembers the session in `folder`."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, wallet: Path, passphrase: Secret, *, folder: Path | None
    ) -> None:
        self._session = session
        try:
            self._origin = parse_origin(url, "--node")
        except InvalidInput as reason:
            raise UsageMistake(reason.message, hint=reason.hint) from None
        self._wallet, self._passphrase = wallet, passphrase
        self._path = None if folder is None else folder / _file_name

    async def enter(self, now: UnixSeconds, chain_id: int | None = None) -> SignedIn:
        """The session that still holds, or a new one; `Denied` where the node has no accounts or would be another."""
        address = address_of(self._wallet)
        kept = self._kept(address)
        open_to = await self._about(kept)
        if open_to.get("accounts") is not True:
            raise Denied(
                f"node {self._origin.text}: expected one with accounts, found one that is free",
                hint="leave --wallet out",
            )
        if open_to.get("origin") != self._origin.text:
            raise Denied(
                f"node {self._origin.text}: expected it under its own origin, found one where people sign in at "
                f"{str(open_to.get('origin'))[:200]}",
                hint="name that one with --node, if you trust it",
            )
        if kept is not None and open_to.get("signed_in") is True and open_to.get("address") == address:
            return self._entered(address, kept)
        return await self._sign_in(address, _chain(open_to, chain_id), now())

    async def _sign_in(self, address: str, chain_id: int, now: int) -> SignedIn:
        asked = {"address": address, "chain_id": chain_id}
        body, cookies = await self._post("/auth/nonce", asked, {})
        text = body.get("message")
        if not isinstance(text, str):
            raise PeerFault(f"node {self._origin.text}: expected a message to sign, found {str(body)[:200]}")
        self._check(text, address, chain_id, now)
        wallet = open_wallet(self._wallet, self._passphrase)
        signed = {"message": text, "signature": wallet.sign(text)}
        body, cookies = await self._post("/auth/verify", signed, cookies)
        found = {name: value for name, value in cookies.items() if _session_name.fullmatch(name)}
        if body.get("address") != address or len(found) != 1:
            raise PeerFault(f"node {self._origin.text}: expected a session of {address}, found another or none")
        [(name, secret)] = found.items()
        kept = f"{name}={secret}"
        self._keep(address, kept, body.get("ends_at"), now)
        return self._entered(address, kept)

    def _check(self, text: str, address: str, chain_id: int, now: int) -> None:
        """That the message is what this node writes for this key now, and nothing else."""
        try:
            message: SignInMessage = parse_message(text, self._origin)
        except Fault as reason:
            raise Denied(
                f"message to sign: {reason.message}", hint="nothing was signed: this node is not trusted"
            ) from None
        skew, longest = limits.clock_skew_seconds_max, limits.sign_in_seconds_max + limits.clock_skew_seconds_max
        if (message.address, message.chain_id) != (address, chain_id):
            raise Denied(f"message to sign: expected one for {address} on chain {chain_id}, found {message.address}")
        if abs(message.issued_at - now) > skew + limits.sign_in_seconds_max or message.expires_at - now > longest:
            raise Denied(
                "message to sign: expected one that is good for some minutes from now, found another time",
                hint="is this machine's clock right?",
            )

    def _entered(self, address: str, cookie: str) -> SignedIn:
        # what a browser says of its own accord, because a cookie counts for the node's own page alone
        return SignedIn(address, {"Cookie": cookie, "Origin": self._origin.text, "Sec-Fetch-Site": "same-origin"})

    async def _about(self, cookie: str | None) -> dict[str, Any]:
        headers = {} if cookie is None else {"Cookie": cookie, "Sec-Fetch-Site": "same-origin"}
        body, _ = await self._ask("GET", "/auth/session", None, headers)
        return body

    async def _post(self, path: str, body: Mapping[str, Any], cookies: Mapping[str, str]) -> tuple[Any, dict[str, str]]:
        headers = {"Origin": self._origin.text, "Sec-Fetch-Site": "same-origin"}
        if cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        return await self._ask("POST", path, body, headers)

    async def _ask(
        self, method: str, path: str, body: object, headers: Mapping[str, str]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """A JSON answer and the cookies that it sets; the node's fault if it has one."""
        timeout = aiohttp.ClientTimeout(total=limits.peer_seconds_max, connect=connect_seconds)
        try:
            async with self._session.request(
                method, self._origin.text + path, json=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                found = await limited_json(response)
                if response.status != 200:
                    raise fault_of(found)
                return as_dict(found) or {}, _cookies(response.headers.getall("Set-Cookie", []))
        except (aiohttp.ClientError, TimeoutError, ValueError) as reason:
            raise PeerFault(
                f"node {self._origin.text}: expected an answer to {path}, found {str(reason) or type(reason).__name__}"
            ) from None

    def _kept(self, address: str) -> str | None:
        """The cookie of an earlier sign-in; a file that is not as we wrote it is one that holds nothing."""
        found = as_dict(self._all().get(f"{self._origin.text} {address}")) or {}
        cookie = found.get("cookie")
        name, _, secret = cookie.partition("=") if isinstance(cookie, str) else ("", "", "")
        return cookie if _session_name.fullmatch(name) and _secret.fullmatch(secret) else None

    def _keep(self, address: str, cookie: str, ends_at: object, now: int) -> None:
        if self._path is None or type(ends_at) is not int:
            return
        before = {name: each for name, each in self._all().items() if ((as_dict(each) or {}).get("ends_at") or 0) > now}
        value = {**before, f"{self._origin.text} {address}": {"cookie": cookie, "ends_at": ends_at}}
        while len(json.dumps(value)) > limits.config_file_bytes_max:
            value.pop(next(iter(value)))
        durable.make_folder(self._path.parent, 0o700)
        durable.write_file(self._path, json.dumps(value).encode(), _mode)

    def _all(self) -> dict[str, Any]:
        if self._path is None:
            return {}
        try:
            return as_dict(json.loads(read_owner_only(self._path, limits.config_file_bytes_max, "sign-ins"))) or {}
        except (Fault, ValueError, RecursionError):
            return {}


def _chain(open_to: Mapping[str, Any], wanted: int | None) -> int:
    chains = [each for each in as_list(open_to.get("chain_ids")) or [] if type(each) is int]
    if not chains or (wanted is not None and wanted not in chains):
        raise InvalidInput(f"--chain-id: expected one of {chains[:32]}, found {wanted}")
    return chains[0] if wanted is None else wanted


def _cookies(lines: list[str]) -> dict[str, str]:
    """The cookies that an answer sets to something."""
    found: dict[str, str] = {}
    for line in lines:
        try:
            parsed = SimpleCookie(line[: limits.header_line_bytes_max])
        except CookieError:
            continue
        found |= {name: each.value for name, each in parsed.items() if _secret.fullmatch(each.value)}
    return found
