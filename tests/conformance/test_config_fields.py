"""Every field of every family's `config.json` means what it means to `transformers`: there, left out, and null."""

from __future__ import annotations

import json
from typing import Any

import pytest

from blyan.model import hf_fields
from blyan.model.config import ModelConfig
from blyan.model.hf_config import config_from_hf
from blyan.primitives.errors import UnsupportedModel

pytestmark = pytest.mark.oracle

FAMILIES = sorted(hf_fields.families)
# null is what `transformers` meant until it became strict, in `__post_init__`
OLDER = {("mixtral", "num_key_value_heads")}
SMALL = {"num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 16, "max_position_embeddings": 100}


def resolved(family: str, **said: Any) -> dict[str, Any]:
    """What `transformers` makes of a config.json, every field written out."""
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[family].from_dict({"model_type": family, **said})
    return {**json.loads(json.dumps(config.to_dict(), default=str)), "model_type": family}


def variants(family: str) -> list[dict[str, Any]]:
    """config.json as it may be: nearly empty, and with windows where the family knows them."""
    plain = [{}, SMALL, resolved(family)]
    if family.startswith("qwen"):
        plain += [{"use_sliding_window": True}, SMALL | {"use_sliding_window": True, "sliding_window": 9}]
    if family == "mixtral":
        plain += [SMALL | {"sliding_window": 9}]
    return plain


@pytest.mark.parametrize("family", FAMILIES)
def test_a_field_that_is_left_out_is_what_the_class_of_transformers_says(family: str) -> None:
    """Each alone, in nearly empty and in complete files, with and without windows."""
    for said in variants(family):
        for absent in (None, *said):
            rest = {name: value for name, value in said.items() if name != absent and name != "model_type"}
            ours, theirs = config_from_hf({"model_type": family, **rest}), resolved(family, **rest)
            assert ours == config_from_hf(theirs), (absent, said)


@pytest.mark.parametrize("family", FAMILIES)
def test_null_means_what_transformers_makes_of_it_or_is_refused_by_name(family: str) -> None:
    """Where its strict class refuses null, so do we."""
    from huggingface_hub.errors import StrictDataclassError

    known = hf_fields.families[family]
    for said in variants(family):
        for field in known.defaults:
            raw = {"model_type": family, **said, field: None}
            try:
                theirs = resolved(family, **{name: value for name, value in raw.items() if name != "model_type"})
            except StrictDataclassError:
                if (family, field) not in OLDER:
                    with pytest.raises(UnsupportedModel, match=f"^{field}: "):
                        config_from_hf(raw)
                continue
            ours = outcome(raw)
            assert ours == outcome(theirs) or str(ours).startswith(f"{field}: "), (field, said, ours)


def outcome(raw: dict[str, Any]) -> ModelConfig | str:
    """The configuration, or why there is none."""
    try:
        return config_from_hf(raw)
    except UnsupportedModel as reason:
        return reason.message


@pytest.mark.parametrize("family", FAMILIES)
def test_no_field_of_the_class_is_unknown(family: str) -> None:
    """And every default of our table is the class's."""
    from transformers import CONFIG_MAPPING

    whole = resolved(family)
    assert set(whole) <= hf_fields.families[family].known | hf_fields.of_the_machinery
    defaults = {name: getattr(CONFIG_MAPPING[family], name) for name in CONFIG_MAPPING[family].__dataclass_fields__}
    for name, value in hf_fields.families[family].defaults.items():
        if name != "rope_theta" and name in defaults:
            assert defaults[name] == value, name
    assert whole["rope_parameters"]["rope_theta"] == hf_fields.families[family].defaults["rope_theta"]
    assert defaults["eos_token_id"] == hf_fields.families[family].eos


def test_every_generation_field_of_transformers_is_known() -> None:
    """What asks for nothing there asks for nothing here."""
    from transformers import GenerationConfig

    named = hf_fields.asks_for_nothing.keys() | hf_fields.of_the_machinery
    assert {*GenerationConfig().to_dict()} <= named | hf_fields.ignored
    for name, value in GenerationConfig._get_default_generation_params().items():
        if name not in hf_fields.of_the_machinery:
            assert not hf_fields.asks(name, value), name
