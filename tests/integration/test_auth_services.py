"""Sign-in where others take part: a chain that is asked about contracts, a Redis that nodes share and lose."""

import asyncio

import pytest

from accounts import PROMPT, Browser, Nodes, code_of
from anvil import CHAIN_ID, Chain
from redis_service import started_redis
from wallets import FACTORY, ContractWallet, new_key, sign

# Wallets that are contracts


@pytest.mark.parametrize("is_deployed", [True, False])
async def test_a_contract_signs_in_as_an_account_of_its_chain(nodes: Nodes, chain: Chain, is_deployed: bool) -> None:
    wallet = ContractWallet(new_key(8), salt=bytes([is_deployed] * 32))
    if is_deployed:
        await asyncio.to_thread(chain.send, FACTORY, wallet.deployment)
    client = await nodes.start(chain_ids=[str(CHAIN_ID), "1"], rpc_urls=[f"{CHAIN_ID}={chain.url}"])
    browser = Browser(client)
    message = await browser.message(wallet.address, CHAIN_ID)
    signature = sign(wallet.owner, message)
    body = {"message": message, "signature": signature if is_deployed else wallet.wrapped(signature)}
    signed = await (await browser.ask("POST", "/auth/verify", body)).json()
    assert f"eip155:{CHAIN_ID}:{wallet.address}" == signed["account"]
    message = await browser.message(wallet.address, 1)
    body = {"message": message, "signature": sign(wallet.owner, message)}
    refused = await browser.ask("POST", "/auth/verify", body)
    assert await code_of(refused) == (401, "unauthenticated")
    assert "need an RPC of chain 1" in (await refused.json())["error"]["hint"]


async def test_an_rpc_that_is_gone_leaves_keys_alone(nodes: Nodes) -> None:
    browser = Browser(await nodes.start(rpc_urls=["1=http://127.0.0.1:9/"]))
    await browser.sign_in(new_key())
    message = await browser.message(new_key().address)
    response = await browser.ask("POST", "/auth/verify", {"message": message, "signature": sign(new_key(2), message)})
    assert await code_of(response) == (503, "unavailable")


# Redis


async def test_two_nodes_share_sessions_and_while_redis_is_gone_keys_hold(nodes: Nodes) -> None:
    redis = await asyncio.to_thread(started_redis)
    try:
        one, two = await nodes.start(redis_url=redis.url), await nodes.start(redis_url=redis.url)
        here, there = Browser(one), Browser(two)
        await here.sign_in(new_key())
        there.cookies = here.cookies
        assert (await (await there.ask("GET", "/auth/session")).json())["signed_in"]
        key = await (await here.ask("POST", "/auth/keys", {"name": "x"})).json()
        shown = {"Authorization": f"Bearer {key['key']}"}
        redis.kill()
        response = await here.ask("POST", "/v1/completions", PROMPT)
        assert await code_of(response) == (503, "unavailable")
        assert "redis_url" in (await response.json())["error"]["hint"]
        assert (await here.ask("POST", "/auth/nonce", {"address": new_key().address, "chain_id": 1})).status == 503
        assert (await Browser(one).ask("POST", "/v1/completions", PROMPT, **shown)).status == 200
        assert (await here.ask("GET", "/livez")).status == 200
        await asyncio.to_thread(redis.start)
        assert not (await (await here.ask("GET", "/auth/session")).json())["signed_in"]
        await here.sign_in(new_key())
    finally:
        redis.close()
