"""A model is what the chain says, or it is refused: a manifest alone proves nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

from blyan.node.catalogue import check_against_chain, manifests_of, no_such_model
from blyan.node.data_directory import open_ground
from blyan.primitives.errors import IntegrityFault
from checkpoints import save_random_checkpoint
from nodes import import_into


@pytest.mark.slow
def test_a_manifest_is_held_against_entry_and_parameter_chain(tmp_path: Path) -> None:
    """Another name, version, family, licence or source; a block that no entry names, or none within the size."""
    save_random_checkpoint(tmp_path / "hf", num_hidden_layers=2)
    (tmp_path / "hf" / "README.md").write_text("---\nlicense: mit\n---\n")
    import_into(tmp_path / "data", tmp_path / "hf", "m")
    ground = open_ground(tmp_path / "data")
    state = ground.chains.state
    version, manifest = manifests_of(ground)["m"]
    assert (version.license, version.source) == ("mit", "huggingface:hf")
    check_against_chain(state, replace(version, license="", source=""), manifest)  # as entries of before
    check_against_chain(state, version, manifest)
    swapped = {**manifest.parts, "layer.1.expert.0": manifest.parts["layer.1.expert.1"]}
    for said, found in (
        (replace(version, name="other"), manifest),
        (replace(version, version="2.0.0"), manifest),
        (replace(version, family="mixtral"), manifest),
        (replace(version, license="apache-2.0"), manifest),
        (version, replace(manifest, source="huggingface:another")),
        (version, replace(manifest, parts=swapped)),
        (replace(version, parameter_size=version.parameter_size - 1), manifest),
    ):
        with pytest.raises(IntegrityFault, match="expected"):
            check_against_chain(state, said, found)


def test_where_there_are_no_models_it_is_said_how_to_get_one() -> None:
    fault = no_such_model("", [])
    assert fault.message == "model '': expected a model here, found none"
    assert "blyan init" in (fault.hint or "")
