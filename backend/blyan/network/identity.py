"""What a process shows on its peer port: a certificate made for this process, and the TLS that pins it.

The certificate says nothing by itself: its hash stands in the node's signed summary, and the handshake binds both keys
to it (docs/spec/peer.md). So no authority is asked, no name is checked, and a new process has a new one.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from blyan.primitives.clock import Entropy, UnixSeconds
from blyan.primitives.keys import Key

_valid: Final = dt.timedelta(days=3650)  # nobody checks it: what is pinned is the hash


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this process is to its peers."""

    key: Key
    boot: str  # 32 hex digits, of this process alone
    started: int  # Unix seconds
    certificate: bytes = field(repr=False)  # DER
    server: ssl.SSLContext = field(repr=False)

    @property
    def certificate_hash(self) -> str:
        """SHA-256 of the certificate, 64 hex digits."""
        return hash_certificate(self.certificate)


def hash_certificate(certificate: bytes) -> str:
    """SHA-256 of a certificate (DER), 64 hex digits."""
    return hashlib.sha256(certificate).hexdigest()


def make_identity(key: Key, now: UnixSeconds, entropy: Entropy) -> Identity:
    """A certificate and a name for this process. Its private key leaves memory for a moment, as a file of this user."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "blyan")])
    began = dt.datetime.fromtimestamp(now(), dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(int.from_bytes(entropy(16)) >> 1 | 1)
        .not_valid_before(began - dt.timedelta(days=1))
        .not_valid_after(began + _valid)
        .sign(private, hashes.SHA256())
    )
    certificate = made.public_bytes(serialization.Encoding.DER)
    pem = made.public_bytes(serialization.Encoding.PEM) + private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Identity(key, entropy(16).hex(), now(), certificate, _server_context(pem))


def client_context() -> ssl.SSLContext:
    """TLS to a peer: encrypted and whole, from whom is the handshake's matter."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _server_context(pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET  # a session taken up again would show no certificate
    handle, path = tempfile.mkstemp(prefix="blyan-", suffix=".pem")  # 0600; ssl reads keys from files alone
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
        context.load_cert_chain(path)
    finally:
        Path(path).unlink(missing_ok=True)
    return context
