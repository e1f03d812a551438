"""One part of a model in its block: is it laid out as the manifest says, and what is said if it is damaged."""

from __future__ import annotations

from collections.abc import Sequence

from blyan.model.manifest import Manifest
from blyan.model.parts import Part
from blyan.model.stored_tensors import stored_layout
from blyan.primitives.errors import BlockCorrupt, Fault, MalformedBlock
from blyan.primitives.ids import PayloadId
from blyan.storage import tensor_block
from blyan.storage.tensor_block import TensorPlace


def want_layout(manifest: Manifest, part: Part, payload: PayloadId, places: Sequence[TensorPlace]) -> None:
    """Raise `MalformedBlock` unless the block holds exactly the tensors that the manifest promises."""
    found = {place.name: (place.dtype, place.shape) for place in places}
    expected = stored_layout(part, tensor_block.dtypes[manifest.dtype], manifest.quantization)
    if found != expected:
        raise MalformedBlock(f"block {payload} of {part.name}: expected {expected}, found {found}")


def naming(model: str, part: str, fault: Fault, *, layer: int | None = None, expert: int | None = None) -> BlockCorrupt:
    """The fault of one stored block, with the model and part that need it."""
    return BlockCorrupt(
        f"{model} {part}: {fault.message}",
        detail={
            "bad_subtiles": [],
            **fault.detail,
            "model": model,
            "part": part,
            "layer": layer,
            "expert": expert,
        },
        hint=fault.hint,
    )
