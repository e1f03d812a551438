"""Blobs over HTTP: static, immutable, in ranges, and never a byte that was not verified."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient

from blyan.primitives.limits import subtile_bytes
from blyan.storage.tile import index_of
from nodes import serving, writing

DATA = os.urandom(5 * subtile_bytes + 1234)
INDEX = index_of(DATA)
URL = f"/blobs/{INDEX.payload_id}"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[TestClient]:
    with writing(tmp_path) as ground:
        ground.store.put([DATA])
    async with serving(tmp_path) as made:
        yield made


async def test_a_blob_comes_whole_and_may_be_kept_for_ever(client: TestClient) -> None:
    """Its id is its ETag."""
    response = await client.get(URL)
    assert response.status == 200
    assert await response.read() == DATA
    assert response.headers["ETag"] == f'"{INDEX.payload_id}"'
    assert "immutable" in response.headers["Cache-Control"]
    assert response.headers["Accept-Ranges"] == "bytes"
    again = await client.get(URL, headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status, await again.read()) == (304, b"")
    head = await client.head(URL)
    assert (head.status, head.headers["Content-Length"], await head.read()) == (200, str(len(DATA)), b"")


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-299", 100, 300),
        (f"bytes={len(DATA) - 7}-", len(DATA) - 7, len(DATA)),
        ("bytes=-10", len(DATA) - 10, len(DATA)),
        (f"bytes=5-{10**12}", 5, len(DATA)),
    ],
)
async def test_a_range_is_that_range(client: TestClient, asked: str, begin: int, end: int) -> None:
    """From the start, to the end, from the back, beyond."""
    response = await client.get(URL, headers={"Range": asked})
    assert response.status == 206
    assert await response.read() == DATA[begin:end]
    assert response.headers["Content-Range"] == f"bytes {begin}-{end - 1}/{len(DATA)}"


@pytest.mark.parametrize(
    "asked", [f"bytes={len(DATA)}-", "bytes=9-3", "bytes=x", "bytes=-0", "bytes=-", "bytes=0-1,4-5"]
)
async def test_a_range_that_is_none_is_416(client: TestClient, asked: str) -> None:
    """With the length, so that the client can ask again."""
    response = await client.get(URL, headers={"Range": asked})
    assert (response.status, response.headers["Content-Range"]) == (416, f"bytes */{len(DATA)}")


@pytest.mark.parametrize("headers", [{"Range": "bytes=0-3", "If-Range": '"other"'}, {"Range": "lines=0-1"}])
async def test_a_range_of_another_version_or_unit_gives_the_whole(client: TestClient, headers: dict[str, str]) -> None:
    """If-Range holds another ETag; a unit that nobody knows is ignored (RFC 9110, 14.2)."""
    response = await client.get(URL, headers=headers)
    assert (response.status, len(await response.read())) == (200, len(DATA))


async def test_the_index_lets_each_subtile_be_checked_alone(client: TestClient) -> None:
    """It is the leaves in order."""
    assert await (await client.get(f"{URL}/index")).read() == INDEX.encode()


async def test_an_unknown_or_malformed_id_is_named(client: TestClient) -> None:
    """404 for one that is not here, 400 for one that is none."""
    assert (await client.get(f"/blobs/{'0' * 64}")).status == 404
    assert (await client.get("/blobs/nonsense")).status == 400
    assert (await client.get("/blobs/..%2f..%2fkeys%2fnode.key")).status in (400, 404)


async def test_a_corrupt_blob_is_named_and_not_one_byte_of_it_is_sent(client: TestClient, tmp_path: Path) -> None:
    """Whole, and in a range that is whole. Its index, checked against the id, is still good to mend it with."""
    path = tmp_path / "blobs" / INDEX.payload_id[:2] / INDEX.payload_id
    path.chmod(0o644)
    raw = bytearray(DATA)
    raw[3 * subtile_bytes] ^= 4
    path.write_bytes(raw)
    for headers in ({}, {"Range": "bytes=0-9"}):
        response = await client.get(URL, headers=headers)
        assert response.status == 503
        body = await response.json()
        assert body["error"]["code"] == "block_corrupt"
        assert body["error"]["detail"]["bad_subtiles"] == [3]
    assert await (await client.get(f"{URL}/index")).read() == INDEX.encode()
    damaged = path.with_name(f"{path.name}.tiles")
    damaged.chmod(0o644)
    damaged.write_bytes(bytes(len(INDEX.encode())))
    assert (await client.get(f"{URL}/index")).status == 503


async def test_a_damaged_index_is_made_again_from_a_blob_that_is_whole(client: TestClient, tmp_path: Path) -> None:
    """It is derived; what is sent was checked against the id."""
    path = tmp_path / "blobs" / INDEX.payload_id[:2] / f"{INDEX.payload_id}.tiles"
    path.unlink()
    assert await (await client.get(f"{URL}/index")).read() == INDEX.encode()


async def test_entries_are_found_by_id_and_by_what_they_say(client: TestClient) -> None:
    """The answer says where each stands."""
    found = await (await client.get("/chain/meta/find")).json()
    assert [each["entry"]["type"] for each in found["entries"]] == ["genesis"]
    one = await (await client.get(f"/entries/{found['entries'][0]['id']}")).json()
    assert one == found["entries"][0]
    assert (await client.get(f"/entries/{'0' * 64}")).status == 404
    assert (await client.get("/chain/meta/find?colour=red")).status == 400
    assert (await client.get("/chain/meta/find?layer=x")).status == 400
    assert (await client.get("/chain/other/find")).status == 404
