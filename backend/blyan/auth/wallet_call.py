"""What is asked of a wallet that is a contract: one `eth_call` that sends no transaction and changes nothing.

EIP-1271: the contract itself says whether a signature is its own. EIP-6492: a wallet that is not deployed yet is
deployed by its factory first, within the same call. So that one call suffices, and no helper contract is needed on the
chain, what is sent is a small program that a node runs as if it created a contract (`eth_call` without `to`): it calls
the factory if the wallet has no code, asks the wallet, and returns the chain's id and the wallet's answer. The factory
is called only for wallets without code: it must not act on one that is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blyan.auth.siwe import Address
from blyan.primitives import limits
from blyan.primitives.errors import PeerFault, Unauthenticated

_is_valid: Final = bytes.fromhex("1626ba7e")  # selector of isValidSignature(bytes32,bytes), and its answer for yes
_yes: Final = _is_valid + bytes(28)
_wrapped: Final = bytes.fromhex("6492" * 16)  # ends a signature by EIP-6492
_word: Final = 32

# opcodes of the EVM (execution-specs, Cancun)
_lt, _mul, _pop, _mload, _mstore, _jumpi, _gas, _jumpdest = 0x10, 0x02, 0x50, 0x51, 0x52, 0x57, 0x5A, 0x5B
_codecopy, _extcodesize, _returndatasize, _chainid = 0x39, 0x3B, 0x3D, 0x46
_push1, _call, _return, _staticcall = 0x60, 0xF1, 0xF3, 0xFA


@dataclass(frozen=True, slots=True)
class _Deployment:
    factory: bytes
    calldata: bytes


def question(wallet: Address, digest: bytes, signature: bytes) -> bytes:
    """The program that asks `wallet` for `digest` (32 bytes); `Unauthenticated` for a malformed wrapped signature."""
    assert len(digest) == _word
    deployment, inner = _unwrapped(signature)
    asked = _is_valid + digest + _integer(2 * _word) + _integer(len(inner)) + _padded(inner)
    who = bytes.fromhex(wallet[2:])
    prepared = b"" if deployment is None else deployment.calldata
    answer = len(_padded(max(prepared, asked, key=len)))  # where in memory: behind all arguments
    # twice: the length of the program stands in the program, always in so many bytes
    program = b""
    for _ in range(2):
        data = len(program)
        program = b""
        if deployment is not None:
            deploy = _copied(data, len(prepared)) + _called(deployment.factory, len(prepared)) + bytes([_pop])
            head = _push(who) + bytes([_extcodesize])
            behind = len(head) + len(_offset(0)) + 1 + len(deploy)
            program = head + _offset(behind) + bytes([_jumpi]) + deploy + bytes([_jumpdest])
        program += _copied(data + len(prepared), len(asked)) + _asked(who, len(asked), answer)
        # the answer counts if the call went well and gave a whole word
        program += bytes([_returndatasize]) + _push(b"\x1f") + bytes([_lt, _mul]) + _offset(answer)
        program += bytes([_mload, _mul]) + _offset(answer + _word) + bytes([_mstore])
        program += bytes([_chainid]) + _offset(answer) + bytes([_mstore])
        program += _push(b"\x40") + _offset(answer) + bytes([_return])
    return program + prepared + asked


def says_yes(result: bytes, chain_id: int) -> bool:
    """Whether the wallet answered that the signature is its own; `PeerFault` for no answer to our question."""
    if len(result) != 2 * _word:
        raise PeerFault(f"chain {chain_id}: expected an answer of {2 * _word} bytes to eth_call, found {len(result)}")
    found = int.from_bytes(result[:_word], "big")
    if found != chain_id:
        raise PeerFault(
            f"chain {chain_id}: expected its RPC to be of that chain, found chain {found}",
            hint="see accounts.rpc_urls",
        )
    return result[_word:] == _yes


def _unwrapped(signature: bytes) -> tuple[_Deployment | None, bytes]:
    """What deploys the wallet, if the signature says it, and the signature for the wallet itself."""
    if not signature.endswith(_wrapped):
        return None, signature
    body = signature[: -len(_wrapped)]
    factory = body[:_word]
    if len(body) < 3 * _word or any(factory[:12]):
        raise _malformed()
    return _Deployment(factory[12:], _bytes_at(body, 1)), _bytes_at(body, 2)


def _bytes_at(body: bytes, position: int) -> bytes:
    """The `bytes` argument of ABI-encoded arguments."""
    start = int.from_bytes(body[position * _word : (position + 1) * _word], "big")
    if start + _word > len(body):
        raise _malformed()
    length = int.from_bytes(body[start : start + _word], "big")
    if start + _word + length > len(body):
        raise _malformed()
    return body[start + _word : start + _word + length]


def _malformed() -> Unauthenticated:
    return Unauthenticated("signature: expected (address, bytes, bytes) before the mark of EIP-6492, found less")


def _push(value: bytes) -> bytes:
    return bytes([_push1 + len(value) - 1]) + value


def _offset(value: int) -> bytes:
    """A number below 2^24 on the stack: always four bytes of program."""
    return _push(value.to_bytes(3, "big"))


def _integer(value: int) -> bytes:
    return value.to_bytes(_word, "big")


def _padded(value: bytes) -> bytes:
    return value + bytes(-len(value) % _word)


def _copied(start: int, length: int) -> bytes:
    """Put so many bytes of the program's end at the beginning of memory."""
    return _offset(length) + _offset(start) + _offset(0) + bytes([_codecopy])


def _called(target: bytes, length: int) -> bytes:
    """CALL with what lies in memory, no value, nothing taken back."""
    nothing = _offset(0)
    return nothing + nothing + _offset(length) + nothing + nothing + _push(target) + bytes([_gas, _call])


def _asked(target: bytes, length: int, answer: int) -> bytes:
    """STATICCALL with what lies in memory; one word of the answer goes to `answer`."""
    arguments = _push(b"\x20") + _offset(answer) + _offset(length) + _offset(0)
    return arguments + _push(target) + bytes([_gas, _staticcall])


assert 2 * limits.wallet_signature_bytes_max < 1 << 24
