"""What the scripts of the built-in model refuse before they begin."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from blyan.learning.genesis.arguments import count, trained


@pytest.mark.parametrize("text", ["0", "-3", "two", "", "1.5", "٣"])
def test_a_count_is_a_whole_number_above_zero(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="expected a whole number above 0"):
        count(text)
    assert count("12") == 12


def test_a_training_that_is_not_done_is_not_shipped(tmp_path: Path) -> None:
    with pytest.raises(ArgumentTypeError, match="expected a training that is done"):
        trained(str(tmp_path))
    (tmp_path / "made.json").write_text("{}")
    assert trained(str(tmp_path)) == tmp_path
