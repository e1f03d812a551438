"""How long a sign-in takes while a node writes answers: from message to session, wallet's own time left out.

Back of the envelope. Reading the message with siwe takes 0.2 ms, recovering the key 0.9 ms, three rows are written
durably at 0.2 ms each, two requests over loopback take 0.3 ms each: some 2.5 ms on a machine that has nothing else to
do. It runs in the event loop that the answers go through, beside the thread that computes them.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aiohttp import ClientSession, DummyCookieJar
from harness import SMOKE, Page

from nodes import install_builtin, running
from wallets import new_key, sign

ORIGIN = "http://127.0.0.1:8645"
SIGN_INS = 20 if SMOKE else 400
STREAMS = 4
QUOTAS = ("address_sign_ins", "address_requests", "account_requests", "account_tokens", "key_requests", "key_tokens")
BOUND = (__doc__ or "").partition("\n\n")[2].strip()


async def main() -> None:
    page = Page("sign_in", "Signing in while a node writes answers", BOUND)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        install_builtin(data)
        free = "".join(f"{name} = 0\n" for name in QUOTAS)
        (data / "node.toml").write_text(f'[accounts]\norigin = "{ORIGIN}"\n[quotas]\n{free}')
        with running(data, apart=True) as node:
            async with ClientSession(node.url, cookie_jar=DummyCookieJar()) as client:
                await both_loads(client, page)
    page.write()


async def both_loads(client: ClientSession, page: Page) -> None:
    """Without answers beside, then with."""
    key = await api_key(client)
    await answer(client, key)  # what is compiled at the first one is
    await measured(client, page, streams=0)
    stop = asyncio.Event()
    writing = [asyncio.create_task(answers(client, key, stop)) for _ in range(STREAMS)]
    await asyncio.sleep(1)
    await measured(client, page, streams=STREAMS)
    stop.set()
    page.row("answers written meanwhile", str(sum(await asyncio.gather(*writing))))


async def measured(client: ClientSession, page: Page, *, streams: int) -> None:
    """Writes p50 and p99 of both requests of a sign-in, and of the second alone, as the client sees them."""
    both: list[float] = []
    second: list[float] = []
    for seed in range(1, SIGN_INS + 1):
        first, checked, _ = await sign_in(client, seed)
        both.append(first + checked)
        second.append(checked)
    for name, taken in (("nonce and verify", both), ("verify", second)):
        taken.sort()
        p50, p99 = (taken[int(len(taken) * part)] * 1000 for part in (0.5, 0.99))
        page.row(f"{name}, {streams} answers beside", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms", "p99 < 20 ms")


async def sign_in(client: ClientSession, seed: int) -> tuple[float, float, dict[str, str]]:
    """Seconds of each request, and the cookies after."""
    key = new_key(seed)
    began = time.perf_counter()
    response = await client.post("/auth/nonce", json={"address": key.address, "chain_id": 1})
    message = (await response.json())["message"]
    first = time.perf_counter() - began
    signature = sign(key, message)
    headers = {"Cookie": "; ".join(f"{name}={each.value}" for name, each in response.cookies.items())}
    began = time.perf_counter()
    response = await client.post("/auth/verify", json={"message": message, "signature": signature}, headers=headers)
    assert response.status == 200, await response.text()
    taken = time.perf_counter() - began
    return first, taken, {name: each.value for name, each in response.cookies.items()}


async def api_key(client: ClientSession) -> str:
    _, _, cookies = await sign_in(client, 1)
    headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items()), "Origin": ORIGIN}
    made = await client.post("/auth/keys", json={"name": "bench"}, headers=headers)
    return (await made.json())["key"]


async def answers(client: ClientSession, key: str, stop: asyncio.Event) -> int:
    """Asks for one answer after another until told to stop; how many came."""
    count = 0
    while not stop.is_set():
        await answer(client, key)
        count += 1
    return count


async def answer(client: ClientSession, key: str) -> None:
    body = {"model": "blyan-genesis", "prompt": "12+30=", "max_tokens": 64, "ignore_eos": True}
    async with client.post("/v1/completions", json=body, headers={"Authorization": f"Bearer {key}"}) as response:
        assert response.status == 200, await response.text()


if __name__ == "__main__":
    asyncio.run(main())
