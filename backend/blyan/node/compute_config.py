"""The sections of the configuration that say how models are computed, and with how much memory."""

from __future__ import annotations

from dataclasses import dataclass

from blyan.inference.policy import Rules
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput
from blyan.primitives.sizes import parse_size


@dataclass(frozen=True, slots=True)
class ComputeConfig:
    """How the model is computed."""

    threads: int = 0  # torch threads; 0: torch's own choice
    nice: int = 10  # steps that computing stands back behind the event loops, and whatever else runs here (ADR 0035)

    def __post_init__(self) -> None:
        if self.threads > limits.compute_threads_max:
            raise InvalidInput(f"compute.threads: expected 0 to {limits.compute_threads_max}, found {self.threads}")
        if not 0 <= self.nice <= limits.nice_max:
            raise InvalidInput(f"compute.nice: expected 0 to {limits.nice_max}, found {self.nice}")


@dataclass(frozen=True, slots=True)
class InferenceConfig:
    """How generations share one machine."""

    kv_memory: str = ""  # for keys and values of all models together, such as 2GiB; empty: a quarter of the memory
    expert_memory: str = ""  # what experts may keep in memory, such as 8GiB; empty: all are mapped
    running_max: int = limits.generations_running_max  # generations in one step
    step_tokens: int = 512  # computed in one step where nobody writes
    prompt_tokens: int = 128  # of prompts, in a step in which others write
    draft_tokens: int = 0  # guessed ahead in one generation; 0: none

    def __post_init__(self) -> None:
        _ = self.expert_bytes, self.kv_bytes  # which refuse what is no size

    @property
    def kv_bytes(self) -> int | None:
        """Bytes for keys and values, None for the default; `InvalidInput` for what is too little for any model."""
        if not self.kv_memory:
            return None
        found = parse_size("inference.kv_memory", self.kv_memory)
        if found < limits.kv_memory_bytes_min:
            raise InvalidInput(
                f"inference.kv_memory: expected at least {limits.kv_memory_bytes_min} bytes, found {found}",
                hint="1MiB holds some hundred tokens of a small model; a start says what the models here need at least",
            )
        return found

    @property
    def expert_bytes(self) -> int | None:
        """The budget of experts in bytes, None without one."""
        return parse_size("inference.expert_memory", self.expert_memory) if self.expert_memory else None

    @property
    def rules(self) -> Rules:
        """The bounds of a step; `InvalidInput` for what does not fit."""
        return Rules(self.running_max, self.step_tokens, self.prompt_tokens, self.draft_tokens)
