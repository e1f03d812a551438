"""The state of an unfinished training as one safetensors file, so that an interrupted run goes on where it was."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from blyan.model.training import OptimizerState, Parameters


def write_checkpoint(path: Path, parameters: Parameters, state: OptimizerState) -> None:
    """Replace the file at `path`: written beside it first, so that a crash leaves the old one."""
    tensors = {f"parameter/{name}": tensor.detach() for name, tensor in parameters.items()}
    tensors |= {f"first/{name}": tensor for name, tensor in state.first.items()}
    tensors |= {f"second/{name}": tensor for name, tensor in state.second.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".partial")
    save_file(tensors, str(fresh), metadata={"step": str(state.step)})
    fresh.replace(path)


def read_checkpoint(path: Path, parameters: Parameters, state: OptimizerState) -> None:
    """Fill parameters (in place) and state from the file at `path`."""
    with safe_open(str(path), framework="pt") as file, torch.no_grad():
        state.step = int(file.metadata()["step"])
        for key in file.keys():  # noqa: SIM118 -- a safe_open handle is no mapping
            kind, _, name = key.partition("/")
            if kind == "parameter":
                parameters[name].copy_(file.get_tensor(key))
            else:
                (state.first if kind == "first" else state.second)[name] = file.get_tensor(key)
