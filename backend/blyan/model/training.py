"""One optimiser step: the loss on the expert-call seam, its gradients, and the update.

Muon moves the hidden matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/), AdamW all else
(Loshchilov and Hutter 2019, arXiv:1711.05101). Parameters are a flat dict in Hugging Face naming, so that what is
trained is what is saved. Nothing here draws a random number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from blyan.model.config import ModelConfig
from blyan.model.experts import ExpertCall, swiglu
from blyan.model.gate import Routing
from blyan.model.transformer import drive, forward, logits

Parameters: TypeAlias = dict[str, Tensor]
Item = TypeVar("Item")
Result = TypeVar("Result")

# Quintic Newton-Schulz of Muon: steep at zero, so that small singular values reach about one in five steps.
_newton_schulz: Final = (3.4445, -4.7750, 2.0315)
_newton_schulz_steps: Final = 5
# oneDNN builds a bfloat16 kernel for each new number of rows (8 ms): experts' rows are filled up to a multiple of this.
_rows_of_a_kernel: Final = 128
_matrices_at_once: Final = 8  # a batched product over more no longer stays in the processor's cache


@dataclass(frozen=True, slots=True)
class Batch:
    """B dialogues, padded on the right to T tokens."""

    tokens: Tensor  # [B, T] int64
    present: Tensor  # [B, T] bool, False where padded
    learned: Tensor  # [B, T] bool, True where the model should have predicted this token

    def to(self, device: str) -> Batch:
        """The same on another device."""
        return Batch(self.tokens.to(device), self.present.to(device), self.learned.to(device))

    def split(self, count: int) -> list[Batch]:
        """Up to `count` batches of every count-th row; fewer when there are fewer rows."""
        return [
            Batch(self.tokens[first::count], self.present[first::count], self.learned[first::count])
            for first in range(min(count, len(self.tokens)))
        ]


@dataclass(frozen=True, slots=True)
class Loss:
    """What one batch costs; `total` carries the gradient."""

    total: Tensor
    likelihood: float  # mean negative log-likelihood of learned tokens, nats
    balance: float  # mean over layers; 1 when experts are used evenly


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """Learning rates are peaks; each step scales them."""

    muon_rate: float = 0.02
    muon_momentum: float = 0.95
    adam_rate: float = 0.003
    adam_betas: tuple[float, float] = (0.9, 0.95)
    adam_eps: float = 1e-10
    weight_decay: float = 0.05  # of matrices, times the rate
    muon: bool = True  # for hidden matrices; else AdamW moves everything
    precision: str = "float32"  # or bfloat16: of products only


@dataclass(slots=True)
class OptimizerState:
    """Running averages by parameter name; changed by `update`."""

    step: int = 0
    first: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    second: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


class Workers:
    """A fixed number of threads, each of which should run torch on one core (`torch.set_num_threads(1)`)."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count) if count > 1 else None

    def map(self, task: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Results in the order of the items; the first exception is raised."""
        if self._pool is None:
            return [task(item) for item in items]
        return list(self._pool.map(task, items))


class FlatWeights:
    """The trunk of a flat parameter dict, as `transformer.forward` wants it."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = parameters
        self._layers: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parameters.items():
            if name.startswith("model.layers."):
                number, _, rest = name.removeprefix("model.layers.").partition(".")
                self._layers.setdefault(int(number), {})[rest] = tensor

    def embed(self) -> Tensor:
        """Token embeddings [vocab, hidden]."""
        return self._parameters["model.embed_tokens.weight"]

    def layer(self, layer: int) -> Mapping[str, Tensor]:
        """All tensors of one layer by their names inside it."""
        return self._layers[layer]

    def head(self) -> Mapping[str, Tensor]:
        """The final norm, and the output matrix when it is not tied."""
        head = {"norm.weight": self._parameters["model.norm.weight"]}
        if "lm_head.weight" in self._parameters:
            head["lm_head.weight"] = self._parameters["lm_head.weight"]
        return head


def run_forward(
    parameters: Mapping[str, Tensor], config: ModelConfig, tokens: Tensor, routings: list[Routing] | None = None
) -> Tensor:
    """Final hidden states [B, T, hidden] of tokens [B, T], every expert computed here; routings are appended."""

    def observe(_layer: int, routing: Routing) -> None:
        if routings is not None:
            routings.append(routing)

    def answer(call: ExpertCall) -> Tensor:
        expert = f"model.layers.{call.layer}.mlp.experts.{call.expert}."
        return swiglu(parameters, expert, _filled_up(call.hidden))[: len(call.hidden)]

    return drive(forward(FlatWeights(parameters), config, tokens, observe=observe), answer)


def _filled_up(rows: Tensor) -> Tensor:
    return functional.pad(rows, (0, 0, 0, -len(rows) % _rows_of_a_kernel))


def balancing_loss(probabilities: Tensor, chosen: Tensor) -> Tensor:
    """Experts x sum over experts of (share of choices) x (mean probability): 1 when even, `experts` when all to one.

    Probabilities [N, experts] and chosen [N, top_k] of one layer (Fedus et al. 2022, arXiv:2101.03961, eq. 4 to 6, with
    the top-k choices counted alike). The gradient flows through the probabilities.
    """
    experts = probabilities.shape[1]
    counts = torch.bincount(chosen.flatten(), minlength=experts).to(probabilities.dtype)
    return experts * torch.dot(counts / chosen.numel(), probabilities.mean(dim=0))


def batch_loss(
    parameters: Mapping[str, Tensor],
    config: ModelConfig,
    batch: Batch,
    balance_weight: float,
    precision: str = "float32",
) -> Loss:
    """Mean negative log-likelihood of the learned tokens plus `balance_weight` times the mean balancing loss.

    With `precision` bfloat16 matrices are multiplied in it; sums of the residual stream, norms and losses stay fp32.
    """
    routings: list[Routing] = []
    learned = batch.learned[:, 1:]
    with torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        hidden = run_forward(parameters, config, batch.tokens, routings)
        # Scores only where a token is learned: the vocabulary is the widest matrix of a small model.
        scored = _filled_up(hidden[:, :-1][learned])
        scores = logits(FlatWeights(parameters), config, scored)[: int(learned.sum())]
    likelihood = functional.cross_entropy(scores.float(), batch.tokens[:, 1:][learned])
    present = batch.present.flatten()
    balance = torch.stack(
        [balancing_loss(routing.probabilities[present], routing.chosen[present]) for routing in routings]
    ).mean()
    total = likelihood + balance_weight * balance
    return Loss(total, float(likelihood.detach()), float(balance.detach()))


def train_step(
    parameters: Parameters,
    config: ModelConfig,
    batch: Batch,
    state: OptimizerState,
    settings: OptimizerSettings,
    *,
    rate_scale: float,
    balance_weight: float,
    workers: Workers,
) -> Loss:
    """One step in place: parameters (leaves that require gradients) and state are changed; the loss is from before.

    Each worker takes a share of the batch and of the matrices. They meet twice a step, not at every product, so a busy
    machine costs little; the result depends on their number, not on their timing.
    """
    shares = batch.split(workers.count)

    def differentiate(share: Batch) -> tuple[Loss, tuple[Tensor, ...]]:
        loss = batch_loss(parameters, config, share, balance_weight, settings.precision)
        return loss, torch.autograd.grad(loss.total, list(parameters.values()), materialize_grads=True)

    results = workers.map(differentiate, shares)
    counts = [int(share.learned[:, 1:].sum()) for share in shares]
    parts = [count / sum(counts) for count in counts]  # so that every learned token weighs the same
    gradients: dict[str, Tensor] = {}
    for index, name in enumerate(parameters):
        gradient = results[0][1][index] * parts[0]
        for (_, more), part in zip(results[1:], parts[1:], strict=True):
            gradient.add_(more[index], alpha=part)
        gradients[name] = gradient
    update(parameters, gradients, state, settings, rate_scale, workers)
    losses = [loss for loss, _ in results]
    return Loss(
        torch.stack([loss.total.detach() * part for loss, part in zip(losses, parts, strict=True)]).sum(),
        sum(loss.likelihood * part for loss, part in zip(losses, parts, strict=True)),
        sum(loss.balance * part for loss, part in zip(losses, parts, strict=True)),
    )


def update(
    parameters: Parameters,
    gradients: Mapping[str, Tensor],
    state: OptimizerState,
    settings: OptimizerSettings,
    rate_scale: float,
    workers: Workers,
) -> None:
    """Move every parameter in place: Muon where `uses_muon`, AdamW elsewhere."""
    state.step += 1
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, parameter in parameters.items():
        if name not in state.first:
            state.first[name] = torch.zeros_like(parameter, requires_grad=False)
        if settings.muon and uses_muon(name):
            by_shape.setdefault(tuple(parameter.shape), []).append(name)
        else:
            _adam(name, parameter, gradients[name], state, settings, rate_scale)
    groups = [
        names[begin : begin + _matrices_at_once]
        for names in by_shape.values()
        for begin in range(0, len(names), _matrices_at_once)
    ]
    workers.map(lambda names: _muon(names, parameters, gradients, state, settings, rate_scale), groups)


def uses_muon(name: str) -> bool:
    """Hidden matrices; embeddings, head, norms and gates are AdamW's, as Muon's authors advise."""
    return name.endswith("_proj.weight")


def orthogonalise(matrices: Tensor) -> Tensor:
    """Near the closest semi-orthogonal matrices of [n, rows, columns]: singular values go to about 0.7 … 1.2."""
    a, b, c = _newton_schulz
    wide = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    wide = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_newton_schulz_steps):
        gram = wide @ wide.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        wide = torch.baddbmm(wide, polynomial, wide, beta=a)
    return wide if matrices.shape[-2] <= matrices.shape[-1] else wide.mT


@torch.no_grad()
def _muon(
    names: Sequence[str],
    parameters: Parameters,
    gradients: Mapping[str, Tensor],
    state: OptimizerState,
    settings: OptimizerSettings,
    rate_scale: float,
) -> None:
    """Matrices of one shape together: each is orthogonalised for itself, but in one batched multiplication."""
    directions: list[Tensor] = []
    for name in names:
        momentum = state.first[name].mul_(settings.muon_momentum).add_(gradients[name])
        directions.append(gradients[name] + settings.muon_momentum * momentum)  # Nesterov
    rows, columns = parameters[names[0]].shape
    rate = settings.muon_rate * rate_scale
    product = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
    turned = orthogonalise(torch.stack(directions).to(product)).float()
    for name, direction in zip(names, turned, strict=True):
        parameters[name].mul_(1 - rate * settings.weight_decay).sub_(
            direction, alpha=rate * max(1.0, rows / columns) ** 0.5
        )


@torch.no_grad()
def _adam(
    name: str,
    parameter: Tensor,
    gradient: Tensor,
    state: OptimizerState,
    settings: OptimizerSettings,
    rate_scale: float,
) -> None:
    beta1, beta2 = settings.adam_betas
    if name not in state.second:
        state.second[name] = torch.zeros_like(parameter)
    first = state.first[name].lerp_(gradient, 1 - beta1)
    second = state.second[name].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    scale = (second / (1 - beta2**state.step)).sqrt_().add_(settings.adam_eps)
    rate = settings.adam_rate * rate_scale
    if parameter.ndim > 1:
        parameter.mul_(1 - rate * settings.weight_decay)
    parameter.addcdiv_(first, scale, value=-rate / (1 - beta1**state.step))
