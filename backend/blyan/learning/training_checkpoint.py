"""The state of an unfinished training as one safetensors file, so that an interrupted run goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from blyan.model.training import OptimizerState, Parameters
from blyan.primitives.errors import InvalidInput


def write_checkpoint(path: Path, parameters: Parameters, state: OptimizerState, notes: dict[str, Any]) -> None:
    """Replace the file at `path`: written beside it first, so that a crash leaves the old one. `notes` are JSON."""
    tensors = {f"parameter/{name}": tensor.detach() for name, tensor in parameters.items()}
    tensors |= {f"first/{name}": tensor for name, tensor in state.first.items()}
    tensors |= {f"second/{name}": tensor for name, tensor in state.second.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".partial")
    save_file(tensors, str(fresh), metadata={"step": str(state.step), "notes": json.dumps(notes)})
    fresh.replace(path)


def read_checkpoint(path: Path, parameters: Parameters, state: OptimizerState, made: str) -> dict[str, Any]:
    """Fill parameters (in place) and state from the file at `path`; its notes.

    `InvalidInput` where it is of another making: `made` says of which this training is, as `notes["made"]` does.
    """
    with safe_open(str(path), framework="pt") as file, torch.no_grad():
        notes: dict[str, Any] = json.loads(file.metadata()["notes"])
        if notes.get("made") != made:
            raise InvalidInput(
                f"{path}: expected a checkpoint of {made}, found one of {notes.get('made')}",
                hint="settings, documents or code of the lessons changed: begin anew in another folder",
            )
        state.step = int(file.metadata()["step"])
        for key in file.keys():  # noqa: SIM118 -- a safe_open handle is no mapping
            kind, _, name = key.partition("/")
            if kind == "parameter":
                parameters[name].copy_(file.get_tensor(key))
            else:
                kept = file.get_tensor(key).to(parameters[name].device)
                (state.first if kind == "first" else state.second)[name] = kept
    return notes
