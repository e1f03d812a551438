"""The safetensors files of a checkpoint: which they are, and their tensors, mapped one at a time.

`safetensors` checks each file once, and its header is read once, when the checkpoint is looked at: a checkpoint has a
tensor for every matrix of every expert, and a header is as long as their number. Reading one afterwards costs a mapping
of its own pages, which go with the tensor, so that memory holds what is in use and not what was. The format is
https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor

from blyan.model.hf_files import read_json
from blyan.primitives import limits
from blyan.primitives.errors import NotFound, UnsupportedModel
from blyan.storage import tensor_block
from blyan.storage.mapping import map_private

_shard_name = re.compile(r"[A-Za-z0-9._-]{1,200}\.safetensors")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one tensor lies in its file."""

    dtype: str  # as safetensors names it
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    length: int  # bytes


@dataclass(frozen=True, slots=True)
class Shard:
    """One file as it was when it was opened. Threads may share it; it holds no descriptor."""

    path: Path
    places: Mapping[str, Place]
    identity: tuple[int, ...]  # device, inode, bytes, mtime and ctime in nanoseconds

    @classmethod
    def opened(cls, path: Path) -> Self:
        """Check a file and read its header; `UnsupportedModel` says what is wrong with it."""
        try:
            with safetensors.safe_open(path, framework="pt"), path.open("rb") as file:
                found = _identity(file.fileno())
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(length, limits.shard_header_bytes_max)))
            header.pop("__metadata__", None)
            places = {name: _place(name, value, 8 + length, found[2]) for name, value in header.items()}
        except (SafetensorError, OSError, ValueError, LookupError, TypeError) as reason:
            raise UnsupportedModel(f"{path}: expected a safetensors file, found {reason}") from None
        return cls(path, places, found)

    def tensor(self, name: str) -> Tensor:
        """One tensor, mapped for as long as it is held; `UnsupportedModel` if the file changed since it was opened."""
        place = self.places[name]
        aligned = place.offset - place.offset % mmap.ALLOCATIONGRANULARITY
        begin = place.offset - aligned
        dtype, count = tensor_block.dtypes[place.dtype], math.prod(place.shape)
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                found = _identity(handle)
                pages = map_private(handle, begin + place.length, aligned) if found == self.identity else None
            finally:
                os.close(handle)
        except OSError as reason:
            raise UnsupportedModel(f"{self.path}: expected a safetensors file, found {reason}") from None
        if pages is None:
            raise UnsupportedModel(f"{self.path}: expected it as it was when the import began, found it changed")
        if begin % dtype.itemsize:  # only files that others than safetensors wrote
            copy = bytearray(memoryview(pages)[begin:])
            return torch.frombuffer(copy, dtype=dtype, count=count).view(place.shape)
        return torch.frombuffer(pages, dtype=dtype, count=count, offset=begin).view(place.shape)


def shard_names(folder: Path) -> list[str]:
    """`model.safetensors` where it is, as `transformers` has it: an index beside it is one that was left behind."""
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    index_path = folder / "model.safetensors.index.json"
    if not index_path.is_file():
        raise NotFound(f"checkpoint: expected {folder / 'model.safetensors'} or an index of shards, found neither")
    weight_map: Any = read_json(index_path, limits.index_json_bytes_max).get("weight_map")
    if not isinstance(weight_map, dict):
        raise UnsupportedModel(f"weight_map: expected an object, found {type(weight_map).__name__}")
    names = sorted({str(name) for name in cast("dict[str, Any]", weight_map).values()})
    if not 0 < len(names) <= limits.checkpoint_shards_max:
        raise UnsupportedModel(f"weight_map: expected 1 to {limits.checkpoint_shards_max} shards, found {len(names)}")
    for name in names:
        if not _shard_name.fullmatch(name) or ".." in name:
            raise UnsupportedModel(f"weight_map: expected plain .safetensors file names, found {name[:120]!r}")
        if not (folder / name).is_file():
            raise NotFound(f"checkpoint: expected shard {folder / name}, found none")
    return names


def _identity(handle: int) -> tuple[int, ...]:
    found = os.fstat(handle)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _place(name: str, value: Any, data_start: int, file_bytes: int) -> Place:
    """What `safetensors` has checked already, checked against the file that is mapped; `ValueError` if it is not so."""
    dtype, shape = str(value["dtype"]), tuple(int(size) for size in value["shape"])
    begin, end = (data_start + int(offset) for offset in value["data_offsets"])
    known = tensor_block.dtypes.get(dtype)
    sized = known is None or end - begin == known.itemsize * math.prod(shape)
    if not data_start <= begin <= end <= file_bytes or not sized:
        raise ValueError(f"{name[:120]} beyond the file, or not of its shape")
    return Place(dtype, shape, begin, end - begin)
