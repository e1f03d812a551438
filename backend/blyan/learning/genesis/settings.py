"""How the built-in model is made, as its settings file says: `scripts/genesis.toml`, or one for a larger machine."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from blyan.learning.genesis.exam import all_skills
from blyan.learning.genesis.lessons import Mixture
from blyan.model.config import ModelConfig
from blyan.primitives.errors import InvalidInput

precisions: Final = ("float32", "bfloat16")
optimizers: Final = ("muon", "adamw")


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """How the vocabulary is learned."""

    vocabulary: int
    dialogues: int


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How long and how. With code and documents it decides the result; how busy the machine is, not."""

    seed: int
    steps: int
    batch_tokens: int
    workers: int
    precision: str
    optimizer: str
    muon_rate: float
    adam_rate: float
    warmup_share: float
    cooldown_share: float  # the last part of the run, in which the rates fall to zero
    balance_weight: float
    checkpoint_steps: int
    evaluate_steps: int
    device: str = "cpu"

    def __post_init__(self) -> None:
        _one_of("training.precision", self.precision, precisions)
        _one_of("training.optimizer", self.optimizer, optimizers)


@dataclass(frozen=True, slots=True)
class ShippingSettings:
    """What a request gets that says nothing, and under which licence."""

    license: str
    system: str
    tokens_max: int


@dataclass(frozen=True, slots=True)
class Settings:
    """One settings file."""

    model: dict[str, Any]
    tokenizer: TokenizerSettings
    training: TrainingSettings
    mixture: Mixture
    shipping: ShippingSettings

    def config(self, vocabulary: int) -> ModelConfig:
        """The architecture with this vocabulary: Qwen3-MoE, experts in every layer, tied embeddings."""
        layers = int(self.model["layers"])
        return ModelConfig(
            family="qwen3_moe",
            vocab_size=vocabulary,
            dense_intermediate=2 * int(self.model["expert_intermediate"]),  # of no layer; the format wants one
            normalise_top_k=True,
            moe_layers=tuple(range(layers)),
            attention_bias=False,
            tied_embeddings=True,
            rms_eps=1e-6,
            **self.model,
        )


def read_settings(path: Path) -> Settings:
    """A settings file; `InvalidInput` names what is missing, unknown or of no skill."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path}: expected TOML, found {error}") from error
    _exactly(str(path), table, {"model", "tokenizer", "training", "lessons", "mixture", "shipping"})
    _exactly("mixture", table["mixture"], set(all_skills))
    lessons = _record("lessons", table["lessons"], Mixture, given={"weights": table["mixture"]})
    return Settings(
        model=table["model"],
        tokenizer=_record("tokenizer", table["tokenizer"], TokenizerSettings),
        training=_record("training", table["training"], TrainingSettings),
        mixture=lessons,
        shipping=_record("shipping", table["shipping"], ShippingSettings),
    )


def _record(name: str, table: dict[str, Any], kind: Any, given: dict[str, Any] | None = None) -> Any:
    given = given or {}
    known = {each.name for each in fields(kind)} - set(given)
    needed = known - {"device"}
    if not needed <= set(table) <= known:
        _exactly(name, table, needed)
    return kind(**given, **table)


def _exactly(name: str, table: dict[str, Any], expected: set[str]) -> None:
    if set(table) != expected:
        raise InvalidInput(
            f"{name}: expected {sorted(expected)}, found without {sorted(expected - set(table))} "
            f"and with {sorted(set(table) - expected)}"
        )


def _one_of(name: str, found: str, expected: tuple[str, ...]) -> None:
    if found not in expected:
        raise InvalidInput(f"{name}: expected one of {list(expected)}, found {found!r}")
