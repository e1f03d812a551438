"""The sources that misbehave on purpose do what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from blob_sources import BlobSource, payload_of, serving, source_process
from blyan.storage.tile import index_of

DATA = bytes(range(256)) * 2_000
ID = payload_of(DATA)


async def answer(source: BlobSource, path: str = f"/{ID}", **headers: str) -> tuple[int, bytes]:
    async with (
        serving(source),
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.get(source.url + path, headers=headers, allow_redirects=False) as response,
    ):
        return response.status, await response.read()


@pytest.mark.parametrize(
    ("how", "status", "body"),
    [
        ({}, 206, DATA[5:10]),
        ({"ranges": False}, 200, DATA),
        ({"flips": {ID: [6]}}, 206, bytes([5, 7, 7, 8, 9])),
        ({"extra": 2}, 206, DATA[5:10] + b"\0\0"),
        ({"longer": 1}, 206, DATA[5:10] + b"\0"),
        ({"lacks": frozenset({ID})}, 404, b""),
        ({"status": 503}, 503, b""),
        ({"redirect": "http://a"}, 302, b""),
    ],
)
async def test_a_range_is_answered_as_said(how: dict[str, Any], status: int, body: bytes) -> None:
    """And counted."""
    source = BlobSource({ID: DATA}, **how)
    found = await answer(source, Range="bytes=5-9")
    assert (found[0], found[1] if body else b"") == (status, body)
    assert source.bytes_served == len(body)
    assert source.asked == ([] if not body else [(ID, 0, len(DATA)) if status == 200 else (ID, 5, 10)])


async def test_an_index_is_the_right_one_or_as_said() -> None:
    """Or none."""
    path = f"/{ID}/index"
    assert await answer(BlobSource({ID: DATA}), path) == (200, index_of(DATA).encode())
    assert await answer(BlobSource({ID: DATA}, indexes={ID: b"x"}), path) == (200, b"x")
    assert (await answer(BlobSource({ID: DATA}, without_index=True), path))[0] == 404


async def test_an_answer_breaks_off_where_it_should() -> None:
    """The connection is cut."""
    source = BlobSource({ID: DATA}, break_after=100_000)
    with pytest.raises(aiohttp.ClientError):
        await answer(source)
    assert source.bytes_served == 100_000


async def test_a_process_serves_until_it_is_killed(tmp_path: Path) -> None:
    """The files of a folder."""
    (tmp_path / ID).write_bytes(DATA)
    with source_process(tmp_path) as source:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{source.url}/{ID}") as response:
                assert await response.read() == DATA
            source.kill()
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"{source.url}/{ID}")
