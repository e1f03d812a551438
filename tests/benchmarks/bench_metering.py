"""What charging for answers costs: the same answers of the same node, charged for and free, in turn.

Back of the envelope. An answer that is charged for writes three records of the books (hold, settlement, rounding: some
0.2 ms of a writer's thread each, and a sync that answers at the same time share) and two rows of a receipt (0.3 ms
each), signs once (0.05 ms) and hashes what was asked and answered; for each event it counts tokens and keeps a text,
about 1 µs. That is some 2 ms of a processor for an answer, most of it beside the event loop: one percent of an answer
of 128 tokens of which each takes 1.5 ms of all that the machine computes.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar
from benched_node import BenchedNode, node_up
from harness import SMOKE, Page, percentile

from nodes import install_builtin
from wallets import new_key, sign

ORIGIN = "http://127.0.0.1:8645"
ROUNDS = 2 if SMOKE else 16
STREAMS = 4 if SMOKE else 16
TOKENS = 16 if SMOKE else 128
QUOTAS = ("address_sign_ins", "address_requests", "account_requests", "account_tokens", "key_requests", "key_tokens")
MODEL = "blyan-genesis"
BOUND = (__doc__ or "").partition("\n\n")[2].strip()


async def main() -> None:
    page = Page("metering", "Charging for answers", BOUND)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        install_builtin(data)
        free = "".join(f"{name} = 0\n" for name in QUOTAS)
        (data / "node.toml").write_text(
            f'[accounts]\norigin = "{ORIGIN}"\noperators = ["{new_key().address}"]\nallowance = "1000"\n'
            f'allowance_per_day = "1000"\n[quotas]\n{free}'
        )
        with node_up(data) as node:
            async with ClientSession(
                node.url, cookie_jar=DummyCookieJar(), timeout=ClientTimeout(total=None)
            ) as client:
                await compared(node, client, page)
    page.write()


async def compared(node: BenchedNode, client: ClientSession, page: Page) -> None:
    """Rounds of the same requests, charged for and free, each pair in turn begun by the other."""
    key = {"Authorization": f"Bearer {await api_key(client)}"}
    seconds: dict[bool, list[float]] = {True: [], False: []}
    worked: dict[bool, list[float]] = {True: [], False: []}
    deadline = time.monotonic() + 300
    while not node.metrics().get("blyan_models_jitted") and time.monotonic() < deadline:
        await answer(client, key, 0, charged=False)
    for charged in (True, False):
        await priced(client, key, charged=charged)
        await round_of(client, key, charged=charged)
    for number in range(ROUNDS):
        for charged in (True, False) if number % 2 else (False, True):
            await priced(client, key, charged=charged)
            before = node.cpu_seconds()
            seconds[charged].append(await round_of(client, key, charged=charged))
            await asyncio.sleep(0.1)  # what goes on after the last chunk
            worked[charged].append(node.cpu_seconds() - before)
    ratios = [on / off - 1 for on, off in zip(seconds[True], seconds[False], strict=True)]
    low, middle, high = (percentile(ratios, share) for share in (0.25, 0.5, 0.75))
    page.row("workload", f"{STREAMS} streams at once, {TOKENS} tokens each, the built-in model")
    for charged, name in ((False, "free"), (True, "charged for")):
        rate = STREAMS * TOKENS / percentile(seconds[charged], 0.5)
        page.row(f"{name}, tokens a second of all streams", f"{rate:.0f} (median of {ROUNDS} rounds)")
    free, charged_for = (1000 * percentile(worked[charged], 0.5) / STREAMS for charged in (False, True))
    page.row("processor time of the node for an answer", f"free {free:.1f} ms, charged for {charged_for:.1f} ms")
    more = sum(worked[True]) / sum(worked[False]) - 1
    page.row("processor time, all rounds", f"{more:+.2%}", "< 2 %")
    page.row("longer by, of pairs", f"{middle:+.2%} (quartiles {low:+.2%} and {high:+.2%})", "< 2 %")


async def priced(client: ClientSession, key: dict[str, str], *, charged: bool) -> None:
    """Set the price to something, or to nothing."""
    amounts = ("0.15", "0.6") if charged else ("0", "0")
    body = {"model": MODEL, "prompt_per_million": amounts[0], "completion_per_million": amounts[1]}
    async with client.post("/prices", json=body, headers=key) as response:
        assert response.status == 200, await response.text()


async def round_of(client: ClientSession, key: dict[str, str], *, charged: bool) -> float:
    """Seconds in which all streams of a round come to their end."""
    began = time.perf_counter()
    await asyncio.gather(*(answer(client, key, number, charged=charged) for number in range(STREAMS)))
    return time.perf_counter() - began


async def answer(client: ClientSession, key: dict[str, str], number: int, *, charged: bool) -> None:
    body = {"model": MODEL, "prompt": f"{number:03}" * 10, "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
    async with client.post("/v1/completions", json=body, headers=key) as response:
        raw = await response.read()
    assert response.status == 200, raw[:500]
    assert (b'"receipt"' in raw) is charged, raw[-500:]


async def api_key(client: ClientSession) -> str:
    wallet = new_key()
    response = await client.post("/auth/nonce", json={"address": wallet.address, "chain_id": 1})
    message = (await response.json())["message"]
    shown = {"message": message, "signature": sign(wallet, message)}
    sent = {"Cookie": "; ".join(f"{name}={each.value}" for name, each in response.cookies.items())}
    response = await client.post("/auth/verify", json=shown, headers=sent)
    sent = {"Cookie": "; ".join(f"{name}={each.value}" for name, each in response.cookies.items()), "Origin": ORIGIN}
    made = await client.post("/auth/keys", json={"name": "bench", "scopes": ["inference", "models"]}, headers=sent)
    assert made.status == 201, await made.text()
    return (await made.json())["key"]


if __name__ == "__main__":
    asyncio.run(main())
