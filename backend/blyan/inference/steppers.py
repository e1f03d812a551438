"""Who computes a model's steps."""

from __future__ import annotations

from blyan.model.eager_step import EagerStepper
from blyan.model.loading import LoadedModel
from blyan.model.stepping import KVPages, Stepper


def plain_stepper(model: LoadedModel, kv: KVPages) -> Stepper:
    """The plain one, which computes every model."""
    return EagerStepper(model.weights, model.manifest.config, kv)
