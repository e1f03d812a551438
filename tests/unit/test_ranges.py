"""Asking one source: connections that are used again, TLS, layouts."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from blyan.network import ranges
from blyan.network.identity import hash_certificate
from blyan.network.ranges import Absent, Failing, Requests
from blyan.network.sources import Source
from blyan.primitives.errors import InvalidInput
from blyan.storage.tile import index_of

DATA = bytes(range(256)) * 2_000
INDEX = index_of(DATA)
ID, RAW = INDEX.payload_id, INDEX.encode()
STORE_PATH = f"/{ID[:2]}/{ID}"


class Server:
    """Answers paths with bodies; a connection is given up without a word when it asked `requests_max` times."""

    def __init__(self, bodies: dict[str, bytes], requests_max: int = 1_000) -> None:
        self._bodies = bodies
        self._requests_max = requests_max
        self.asked: list[str] = []
        self.heads: list[bytes] = []
        self.connections = 0

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            for _ in range(self._requests_max):
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                path = self.heads[-1].split()[1].decode()
                self.asked.append(path)
                body = self._bodies.get(path)
                status = b"404 Not Found" if body is None else b"200 OK"
                writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body or b""), body or b""))
                await writer.drain()
            await reader.readuntil(b"\r\n\r\n")
        writer.close()

    @contextlib.asynccontextmanager
    async def serving(self, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        """Its address."""
        async with await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=context) as server:
            scheme = "http" if context is None else "https"
            yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(("requests_max", "connections"), [(1_000, 1), (1, 3), (2, 2)])
async def test_a_connection_is_used_again_and_made_again(requests_max: int, connections: int) -> None:
    """Also where the other end gives it up just when it is asked the next time."""
    server = Server({f"/{ID}/index": RAW}, requests_max)
    async with server.serving() as url:
        asked = Requests(0, 0, 5.0).to(Source(url))
        for _ in range(3):
            assert await asked.index(ID, len(DATA)) == RAW
        asked.close()
    assert server.connections == connections


async def test_the_layout_is_found_once() -> None:
    """A node's is tried first; then that of the folders of a blob store is all that is asked for."""
    server = Server({STORE_PATH: DATA, f"{STORE_PATH}.tiles": RAW})
    async with server.serving() as url:
        asked = Requests(0, 0, 5.0).to(Source(url))
        assert await asked.index(ID, len(DATA)) == RAW
        view = memoryview(bytearray(len(DATA)))
        async with asked.run(ID, len(DATA), (0, len(DATA)), lambda _seconds: None) as body:
            await body.fill(view, lambda _count: None)
        assert bytes(view) == DATA
        other = index_of(b"other").payload_id
        with pytest.raises(Absent):
            await asked.index(other, 5)
        asked.close()
    assert server.asked == [f"/{ID}/index", f"{STORE_PATH}.tiles", STORE_PATH, f"/{other[:2]}/{other}.tiles"]
    assert server.connections == 1


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a certificate of 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    begin = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + dt.timedelta(days=36_500))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


async def test_https_is_checked_as_browsers_do(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that nobody vouches for is no answer; one that the system trusts is."""
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(certificate)
    server = Server({f"/{ID}": DATA, f"/{ID}/index": RAW})
    async with server.serving(theirs) as url:
        with pytest.raises(Failing, match="CERTIFICATE_VERIFY_FAILED"):
            await Requests(0, 0, 5.0).to(Source(url)).index(ID, len(DATA))
        trusting = ssl.create_default_context(cafile=str(certificate))
        monkeypatch.setattr(ranges, "create_default_context", lambda: trusting)
        asked = Requests(0, 0, 5.0).to(Source(url))
        assert await asked.index(ID, len(DATA)) == RAW
        view = memoryview(bytearray(len(DATA)))
        async with asked.run(ID, len(DATA), (0, len(DATA)), lambda _seconds: None) as body:
            await body.fill(view, lambda _count: None)
        asked.close()
    assert bytes(view) == DATA
    assert server.connections == 1


async def test_a_pinned_certificate_is_the_only_one(certificate: Path) -> None:
    """Whoever vouches for it; another one is shown no token."""
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(certificate)
    theirs.load_verify_locations(certificate)
    pinned = hash_certificate(theirs.get_ca_certs(binary_form=True)[0])
    server = Server({f"/{ID}/index": RAW})
    async with server.serving(theirs) as url:
        with pytest.raises(Failing, match=r"expected the certificate abab.*, found"):
            await Requests(0, 0, 5.0).to(Source(url, None, "secret", "ab" * 32)).index(ID, len(DATA))
        assert server.heads == []
        asked = Requests(0, 0, 5.0).to(Source(url, None, "secret", pinned))
        assert await asked.index(ID, len(DATA)) == RAW
        asked.close()
    assert b"\r\nAuthorization: Bearer secret\r\n" in server.heads[0]
    with pytest.raises(InvalidInput, match="expected a token of letters and digits"):
        Source("http://a", None, "x\r\nHost: b")
