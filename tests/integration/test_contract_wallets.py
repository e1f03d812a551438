"""Wallets that are contracts, asked on a real EVM chain: deployed ones (EIP-1271) and those to be (EIP-6492)."""

from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from eth_account.messages import _hash_eip191_message, encode_defunct

from anvil import CHAIN_ID, Chain
from blyan.auth.siwe import Address
from blyan.auth.wallet_call import question, says_yes
from blyan.network.evm import eth_call
from blyan.primitives import limits
from blyan.primitives.errors import PeerFault, Unauthenticated, Unavailable
from wallets import FACTORY, ContractWallet, new_key, sign

MESSAGE = "sign me"
DIGEST = _hash_eip191_message(encode_defunct(text=MESSAGE))


async def answer(chain: Chain, wallet: str, signature: str, digest: bytes = DIGEST) -> bool:
    program = question(Address(wallet), digest, bytes.fromhex(signature[2:]))
    return says_yes(await eth_call(chain.url, program), CHAIN_ID)


@pytest.fixture(scope="module")
def deployed(chain: Chain) -> ContractWallet:
    wallet = ContractWallet(salt=b"1" * 32)
    chain.send(FACTORY, wallet.deployment)
    assert chain.ask("eth_getCode", wallet.address, "latest") == "0x" + wallet.runtime.hex()
    return wallet


async def test_a_deployed_wallet_answers_for_its_owner(chain: Chain, deployed: ContractWallet) -> None:
    assert await answer(chain, deployed.address, sign(deployed.owner, MESSAGE))


async def test_a_deployed_wallet_answers_for_nobody_else(chain: Chain, deployed: ContractWallet) -> None:
    assert not await answer(chain, deployed.address, sign(new_key(2), MESSAGE))
    assert not await answer(chain, deployed.address, sign(deployed.owner, "another"))
    assert not await answer(chain, deployed.address, "0x")


async def test_a_wallet_to_be_deployed_answers_within_the_call_and_stays_undeployed(chain: Chain) -> None:
    wallet = ContractWallet(salt=b"2" * 32)
    signature = wallet.wrapped(sign(wallet.owner, MESSAGE))
    assert await answer(chain, wallet.address, signature)
    assert not await answer(chain, wallet.address, wallet.wrapped(sign(new_key(2), MESSAGE)))
    assert chain.ask("eth_getCode", wallet.address, "latest") == "0x"


async def test_a_wrapped_signature_holds_after_the_wallet_was_deployed(chain: Chain, deployed: ContractWallet) -> None:
    assert await answer(chain, deployed.address, deployed.wrapped(sign(deployed.owner, MESSAGE)))


async def test_a_factory_that_deploys_another_wallet_proves_nothing(chain: Chain) -> None:
    """The attacker's own wallet comes into being; the victim's address has no code still."""
    attacker = ContractWallet(new_key(666), salt=b"3" * 32)
    victim = ContractWallet(salt=b"4" * 32)
    assert not await answer(chain, victim.address, attacker.wrapped(sign(attacker.owner, MESSAGE)))


@pytest.mark.parametrize("address", [new_key(7).address, "0x" + "00" * 19 + "04", "0x" + "00" * 19 + "02"])
async def test_an_address_without_a_contract_answers_for_nobody(chain: Chain, address: str) -> None:
    """Also not 4, which gives back whatever it is asked."""
    assert not await answer(chain, address, sign(new_key(), MESSAGE))


async def test_a_url_of_another_chain_is_noticed(chain: Chain, deployed: ContractWallet) -> None:
    program = question(Address(deployed.address), DIGEST, bytes.fromhex(sign(deployed.owner, MESSAGE)[2:]))
    with pytest.raises(PeerFault, match=f"expected its RPC to be of that chain, found chain {CHAIN_ID}"):
        says_yes(await eth_call(chain.url, program), 1)


async def test_a_wallet_that_burns_all_gas_is_no_yes(chain: Chain) -> None:
    greedy = "0x" + "66" * 20
    chain.ask("anvil_setCode", greedy, "0x5b600056")  # for ever
    assert not await answer(chain, greedy, sign(new_key(), MESSAGE))


@pytest.mark.parametrize("code", ["0x60006000fd", "0xfe", "0x631626ba7e60e01b60005260046000f3", "0x60206000f3"])
async def test_a_wallet_that_reverts_or_answers_half_is_no_yes(chain: Chain, code: str) -> None:
    odd = "0x" + "77" * 20
    chain.ask("anvil_setCode", odd, code)
    assert not await answer(chain, odd, sign(new_key(), MESSAGE))


@pytest.mark.parametrize("body", ["", "6492", "11" * 96, "00" * 31 + "01" + "ff" * 64, "00" * 95])
def test_a_malformed_wrapped_signature_is_refused(body: str) -> None:
    with pytest.raises(Unauthenticated, match="EIP-6492"):
        question(Address(FACTORY), DIGEST, bytes.fromhex(body + "6492" * 16))


# What answers may go wrong

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def said(request: web.Request, status: int = 200, **answer: object) -> web.Response:
    return web.json_response({"jsonrpc": "2.0", "id": 1, **answer}, status=status)


async def moved(request: web.Request) -> web.Response:
    raise web.HTTPTemporaryRedirect("/elsewhere")


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(64):
        await response.write(b"0" * 1024)
    return response


@pytest.mark.parametrize(
    ("handler", "found"),
    [
        (lambda request: said(request, status=500), "status 500"),
        (lambda request: said(request, error={"code": -32000, "message": "secret"}), "an error"),
        (lambda request: said(request, result="0x0"), "half a byte"),
        (lambda request: said(request, result="0xzz"), "no result"),
        (lambda request: said(request, result=5), "no result"),
        (moved, "status 307"),
        (endless, f"more than {limits.rpc_answer_bytes_max} bytes"),
    ],
)
async def test_an_answer_that_is_none_is_unavailable(handler: Handler, found: str) -> None:
    app = web.Application()
    app.router.add_post("/", handler)
    async with TestServer(app) as server:
        with pytest.raises(Unavailable, match=found) as caught:
            await eth_call(str(server.make_url("/")), b"\0")
    assert "secret" not in caught.value.message


async def test_an_rpc_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="found ClientConnectorError"):
        await eth_call("http://127.0.0.1:9/", b"\0")


async def test_an_rpc_that_says_nothing_is_unavailable_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "rpc_seconds_max", 0.2)

    async def silent(request: web.Request) -> web.Response:
        await request.read()
        import asyncio

        await asyncio.sleep(1)
        return web.Response()

    app = web.Application()
    app.router.add_post("/", silent)
    async with TestServer(app) as server:
        with pytest.raises(Unavailable, match="TimeoutError"):
            await eth_call(str(server.make_url("/")), b"\0")
