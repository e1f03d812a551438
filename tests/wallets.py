"""Wallets for tests: keys that sign as a person's wallet does, and contracts that answer for such a key (EIP-1271)."""

from __future__ import annotations

from dataclasses import dataclass, field

from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

# puts what its calldata holds on the chain: salt (32 bytes), then a program (CREATE2); anvil has it from the start
FACTORY = "0x4e59b44847b379578588920cA78FbF26c0B4956C"


def new_key(seed: int = 1) -> LocalAccount:
    """A key of which everybody knows the secret."""
    return Account.from_key(seed.to_bytes(32, "big"))


def sign(account: LocalAccount, message: str) -> str:
    """What a wallet answers to `personal_sign`."""
    return account.sign_message(encode_defunct(text=message)).signature.to_0x_hex()


@dataclass(frozen=True)
class ContractWallet:
    """A contract that takes a signature for its own if `owner` made it."""

    owner: LocalAccount = field(default_factory=new_key)
    salt: bytes = bytes(32)

    @property
    def runtime(self) -> bytes:
        """isValidSignature(bytes32 hash, bytes signature) by the precompile that recovers keys, nothing else."""
        arguments = "600435 6000 52  60a43560f81c 6020 52  606435 6040 52  608435 6060 52"  # hash, v, r, s to memory
        recovered = "6020 6000 6080 6000 6001 5a fa 50  600051"
        compared = f"73{self.owner.address[2:]} 14"
        answer = "63 1626ba7e 02 60e0 1b 6000 52 6020 6000 f3"  # the magic value times whether they are equal
        return bytes.fromhex(arguments + recovered + compared + answer)

    @property
    def program(self) -> bytes:
        """What puts the contract on the chain: it returns the runtime, which follows it."""
        length = len(self.runtime)
        return bytes.fromhex(f"60{length:02x} 80 600b 6000 39 6000 f3 0000".replace(" ", ""))[:11] + self.runtime

    @property
    def address(self) -> str:
        """Where the factory puts it (EIP-1014)."""
        parts = b"\xff" + bytes.fromhex(FACTORY[2:]) + self.salt + keccak(self.program)
        return to_checksum_address(keccak(parts)[12:])

    @property
    def deployment(self) -> bytes:
        """What the factory is called with."""
        return self.salt + self.program

    def wrapped(self, signature: str) -> str:
        """The signature with what deploys the wallet (EIP-6492)."""
        body = encode(["address", "bytes", "bytes"], [FACTORY, self.deployment, bytes.fromhex(signature[2:])])
        return "0x" + body.hex() + "6492" * 16
