"""The settings of the built-in model's training: complete, known, and of the size that may be shipped."""

from pathlib import Path

import pytest

from blyan.learning.genesis.exam_wordings import talk_answers
from blyan.learning.genesis.settings import read_settings
from blyan.primitives.errors import InvalidInput

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = ROOT / "scripts/genesis.toml"
SHIPPED_BYTES_MAX = 30_000_000


def test_the_model_may_be_shipped():
    settings = read_settings(SETTINGS)
    config = settings.config(settings.tokenizer.vocabulary)
    assert (config.family, config.experts_per_token) == ("qwen3_moe", 2)
    assert config.experts >= 8
    assert 4 * config.parameters + 150_000 < SHIPPED_BYTES_MAX  # fp32, headers of its blocks and the tokenizer


def test_what_it_says_of_itself_is_its_architecture():
    settings = read_settings(SETTINGS)
    assert (settings.model["layers"], settings.model["experts"]) == (4, 8)
    assert "four layers of eight small experts" in talk_answers["experts"][0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('precision = "bfloat16"', 'precision = "float8"', "training.precision"),
        ('"sorting" =', '"juggling" =', "juggling"),
        ("seed = 2\n", "", "seed"),
        ("[shipping]", "[ship]", "shipping"),
        ("hidden = 256", "hidden = = 256", "TOML"),
    ],
)
def test_a_mistake_in_the_settings_is_named(tmp_path: Path, old: str, new: str, said: str):
    settings = SETTINGS.read_text()
    assert old in settings
    (tmp_path / "genesis.toml").write_text(settings.replace(old, new))
    with pytest.raises(InvalidInput, match=said):
        read_settings(tmp_path / "genesis.toml")
