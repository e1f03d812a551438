"""Names of the tlog-tiles layout: one spelling each."""

import pytest

from blyan.chain.tile_files import TileName, parse_tile_name


@pytest.mark.parametrize(
    ("name", "tile"),
    [
        ("0/000", TileName(0, 0, 256)),
        ("0/x001/x234/067", TileName(0, 1_234_067, 256)),
        ("entries/x001/067.p/5", TileName("entries", 1_067, 5)),
        ("3/001.p/255", TileName(3, 1, 255)),
    ],
)
def test_a_tile_is_named_as_the_layout_does(name: str, tile: TileName) -> None:
    """Level, number, and how much of it."""
    assert parse_tile_name(name) == tile


@pytest.mark.parametrize(
    "name",
    ["", "0", "0/0", "0/0000", "x/000", "0/x000/001", "0/001.p/0", "0/001.p/256", "0/001.p/05", "0/../000", "10/000",
     "0/000/", "0/000\n", "entries/001.p/", "0/x001/x002/x003/x004/x005/006"],
)  # fmt: skip
def test_any_other_name_is_none_of_ours(name: str) -> None:
    """So a route that takes names cannot leave the folder."""
    assert parse_tile_name(name) is None
