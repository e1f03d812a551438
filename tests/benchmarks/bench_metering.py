"""What charging for answers costs: the same answers of the same node, charged for and free, in turn.

Back of the envelope. An answer that is charged for writes three records of the books (hold, settlement, rounding: some
0.2 ms of a writer's thread each, and a sync that answers at the same time share) and two rows of a receipt (0.3 ms
each), signs once (0.2 ms) and hashes what was asked and answered: about 2 ms of a processor at 16 at once, 5 ms alone,
most of it beside the event loop. For each event it counts tokens and keeps a text, about 1 µs. An answer of 256 tokens
of the built-in model, a hundredth of any that people use, is some 120 ms of a processor: 2 %; of others, far less, so
the workload of the target is the tiny reference model (targets.md), which is still smaller than any in use.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar
from benched_node import BenchedNode, node_up
from harness import SMOKE, Page, percentile
from reference_models import BUILT_IN, reference

from wallets import new_key, sign

ORIGIN = "http://127.0.0.1:8645"
ROUNDS = 2 if SMOKE else 10
STREAMS = 4 if SMOKE else 16
QUOTAS = ("address_sign_ins", "address_requests", "account_requests", "account_tokens", "key_requests", "key_tokens")
OPERATOR = new_key()
BOUND = (__doc__ or "").partition("\n\n")[2].strip()


@dataclass(frozen=True)
class Workload:
    model: str  # as the node calls it
    name: str
    tokens: int
    target: str
    prompts: list[list[int]]


async def main() -> None:
    page = Page("metering", "Charging for answers", BOUND)
    for each, kind, tokens, target in (
        ("smoke" if SMOKE else "tiny", "fp32", 16 if SMOKE else 64, "< 2 %"),
        (BUILT_IN, "fp32", 16 if SMOKE else 256, ""),
    ):
        model = reference(each, (kind,))
        prompts = [model.prompt(32, number) for number in range(STREAMS)]
        workload = Workload(model.model(kind), f"{each} {kind}", tokens, target, prompts)
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            shutil.copytree(model.data_dir, data)
            free = "".join(f"{name} = 0\n" for name in QUOTAS)
            (data / "node.toml").write_text(
                f'[accounts]\norigin = "{ORIGIN}"\noperators = ["{OPERATOR.address}"]\nallowance = "1000"\n'
                f'allowance_per_day = "1000"\n[quotas]\n{free}'
            )
            with node_up(data) as node:
                async with ClientSession(
                    node.url, cookie_jar=DummyCookieJar(), timeout=ClientTimeout(total=None)
                ) as client:
                    await compared(node, client, page, workload)
    page.write()


async def compared(node: BenchedNode, client: ClientSession, page: Page, load: Workload) -> None:
    """Rounds of the same requests, charged for and free, each pair in turn begun by the other."""
    key = {"Authorization": f"Bearer {await api_key(client)}"}
    seconds: dict[bool, list[float]] = {True: [], False: []}
    worked: dict[bool, list[float]] = {True: [], False: []}
    deadline = time.monotonic() + 300
    while not node.metrics().get("blyan_models_jitted") and time.monotonic() < deadline:
        await answer(client, key, load, 0, charged=False)
    for charged in (True, False):
        await priced(client, key, load, charged=charged)
        await round_of(client, key, load, charged=charged)
    for number in range(ROUNDS):
        for charged in (True, False) if number % 2 else (False, True):
            await priced(client, key, load, charged=charged)
            before = node.cpu_seconds()
            seconds[charged].append(await round_of(client, key, load, charged=charged))
            await asyncio.sleep(0.1)  # what goes on after the last chunk
            worked[charged].append(node.cpu_seconds() - before)
    ratios = [on / off - 1 for on, off in zip(seconds[True], seconds[False], strict=True)]
    low, middle, high = (percentile(ratios, share) for share in (0.25, 0.5, 0.75))
    page.row(f"{load.name}: workload", f"{STREAMS} streams at once, {load.tokens} tokens each after 32")
    for charged, name in ((False, "free"), (True, "charged for")):
        rate = STREAMS * load.tokens / percentile(seconds[charged], 0.5)
        page.row(f"… {name}, tokens a second of all streams", f"{rate:.0f} (median of {ROUNDS} rounds)")
    free, charged_for = (1000 * percentile(worked[charged], 0.5) / STREAMS for charged in (False, True))
    page.row("… processor time of the node for an answer", f"free {free:.1f} ms, charged for {charged_for:.1f} ms")
    more = sum(worked[True]) / sum(worked[False]) - 1
    page.row("… processor time, all rounds", f"{more:+.2%}", load.target)
    page.row("… longer by, of pairs", f"{middle:+.2%} (quartiles {low:+.2%} and {high:+.2%})", load.target)


async def priced(client: ClientSession, key: dict[str, str], load: Workload, *, charged: bool) -> None:
    """Set the price to something, or to nothing."""
    amounts = ("0.15", "0.6") if charged else ("0", "0")
    body = {"model": load.model, "prompt_per_million": amounts[0], "completion_per_million": amounts[1]}
    async with client.post("/prices", json=body, headers=key) as response:
        assert response.status == 200, await response.text()


async def round_of(client: ClientSession, key: dict[str, str], load: Workload, *, charged: bool) -> float:
    """Seconds in which all streams of a round come to their end."""
    began = time.perf_counter()
    await asyncio.gather(*(answer(client, key, load, number, charged=charged) for number in range(STREAMS)))
    return time.perf_counter() - began


async def answer(client: ClientSession, key: dict[str, str], load: Workload, number: int, *, charged: bool) -> None:
    body = {"model": load.model, "prompt": load.prompts[number], "max_tokens": load.tokens}
    body |= {"ignore_eos": True, "stream": True}
    async with client.post("/v1/completions", json=body, headers=key) as response:
        raw = await response.read()
    assert response.status == 200, raw[:500]
    assert (b'"receipt"' in raw) is charged, raw[-500:]


async def api_key(client: ClientSession) -> str:
    wallet = OPERATOR
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
