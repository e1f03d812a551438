"""One question to a node of an EVM chain: `eth_call` by JSON-RPC, bounded in time, bytes and gas, no redirect followed.

The URL is the operator's, who trusts it for its chain; nothing of an answer is believed beyond that.
"""

from __future__ import annotations

from typing import Any, Final, cast

import aiohttp
import orjson

from blyan.primitives import limits
from blyan.primitives.errors import Unavailable

_hex_digits: Final = frozenset("0123456789abcdef")


async def eth_call(url: str, program: bytes) -> bytes:
    """What a program returns that runs as if it created a contract, on the newest block.

    `Unavailable` if there is no such answer: refused, late, too long, malformed. Nothing says why in detail, as URLs
    and answers may hold what others should not read.
    """
    call = {"data": "0x" + program.hex(), "gas": hex(limits.rpc_gas_max)}
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [call, "latest"]})
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    timeout = aiohttp.ClientTimeout(total=limits.rpc_seconds_max)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False, trust_env=False) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise _unknown(f"status {response.status}")
            raw = bytearray()
            while chunk := await response.content.read(limits.rpc_answer_bytes_max + 1 - len(raw)):
                raw += chunk
                if len(raw) > limits.rpc_answer_bytes_max:
                    raise _unknown(f"more than {limits.rpc_answer_bytes_max} bytes")
    except (aiohttp.ClientError, TimeoutError, OSError) as reason:
        raise _unknown(type(reason).__name__) from None
    return _result(bytes(raw))


def _result(raw: bytes) -> bytes:
    try:
        value: object = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise _unknown("no JSON") from None
    answer = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    result: object = answer.get("result")
    if not isinstance(result, str) or not result.startswith("0x") or not _hex_digits.issuperset(result[2:].lower()):
        raise _unknown("an error" if "error" in answer else "no result")
    if len(result) % 2:
        raise _unknown("half a byte")
    return bytes.fromhex(result[2:])


def _unknown(found: str) -> Unavailable:
    return Unavailable(
        f"chain: expected the RPC to answer eth_call in {limits.rpc_seconds_max:g} s, found {found}",
        hint="try again; wallets that are keys need no RPC",
    )
