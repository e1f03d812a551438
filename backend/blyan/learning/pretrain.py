"""Trains the built-in model from nothing and measures it on additions that it never saw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer

from blyan.learning import curriculum
from blyan.learning.batches import DialogueEncoder
from blyan.learning.tokenizer_training import train_tokenizer
from blyan.learning.training_checkpoint import read_checkpoint, write_checkpoint
from blyan.model.config import ModelConfig
from blyan.model.training import (
    FlatWeights,
    OptimizerSettings,
    OptimizerState,
    Parameters,
    Workers,
    run_forward,
    train_step,
)
from blyan.model.transformer import logits
from blyan.primitives.clock import Monotonic

Report = Callable[[str], None]

_corpus_dialogues = 20_000
_evaluation_rows = 256
_periodic_questions = 250  # of each phrasing


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how to train. Seed, steps and number of workers decide the result; how busy the machine is, not."""

    seed: int
    steps: int
    workers: int = 2
    batch_tokens: int = 4096
    warmup_share: float = 0.02
    cooldown_share: float = 0.5  # the last part of the run, in which the rates fall to zero
    balance_weight: float = 0.01
    evaluate_every: int = 100
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A trained model, its tokenizer's text, and what was measured."""

    config: ModelConfig
    tokenizer: str
    parameters: Parameters
    steps: int  # of this run; a resumed one counts anew
    tokens: int
    seconds: float
    exact_match: dict[str, float]  # by phrasing, over all held-out additions
    small_talk: float  # share of listed questions answered word for word


def builtin_config(vocab_size: int) -> ModelConfig:
    """About 8 million parameters, 2.8 million of them active."""
    return ModelConfig(
        family="qwen3_moe",
        vocab_size=vocab_size,
        hidden=256,
        layers=4,
        heads=8,
        kv_heads=4,
        head_dim=32,
        dense_intermediate=576,
        expert_intermediate=288,
        experts=8,
        experts_per_token=2,
        normalise_top_k=True,
        moe_layers=(0, 1, 2, 3),
        attention_bias=False,
        tied_embeddings=True,
        rms_eps=1e-6,
        rope_theta=10_000.0,
        context_length=1024,
    )


def initial_parameters(config: ModelConfig, seed: int) -> Parameters:
    """Norms one, what writes into the residual stream zero, all else normal with 1/sqrt(fan in); Hugging Face names."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * (scale * columns**-0.5)

    parameters: Parameters = {"model.embed_tokens.weight": matrix(config.vocab_size, config.hidden, 0.5)}
    width_q, width_kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}."
        parameters |= {
            f"{prefix}input_layernorm.weight": torch.ones(config.hidden),
            f"{prefix}self_attn.q_proj.weight": matrix(width_q, config.hidden),
            f"{prefix}self_attn.k_proj.weight": matrix(width_kv, config.hidden),
            f"{prefix}self_attn.v_proj.weight": matrix(width_kv, config.hidden),
            f"{prefix}self_attn.o_proj.weight": torch.zeros(config.hidden, width_q),
            f"{prefix}self_attn.q_norm.weight": torch.ones(config.head_dim),
            f"{prefix}self_attn.k_norm.weight": torch.ones(config.head_dim),
            f"{prefix}post_attention_layernorm.weight": torch.ones(config.hidden),
            f"{prefix}mlp.gate.weight": matrix(config.experts, config.hidden),
        }
        for expert in range(config.experts):
            inside = f"{prefix}mlp.experts.{expert}."
            parameters |= {
                f"{inside}gate_proj.weight": matrix(config.expert_intermediate, config.hidden),
                f"{inside}up_proj.weight": matrix(config.expert_intermediate, config.hidden),
                f"{inside}down_proj.weight": torch.zeros(config.hidden, config.expert_intermediate),
            }
    parameters["model.norm.weight"] = torch.ones(config.hidden)
    return {name: tensor.requires_grad_() for name, tensor in parameters.items()}


def rate_scale(progress: float, plan: Plan) -> float:
    """Share of the peak learning rate: rises over the warm-up, stays, and falls as a cosine over the cool-down."""
    if progress < plan.warmup_share:
        return (progress + 1e-3) / (plan.warmup_share + 1e-3)
    into = (progress - (1 - plan.cooldown_share)) / plan.cooldown_share
    return 1.0 if into <= 0 else 0.5 * (1 + math.cos(math.pi * min(1.0, into)))


@torch.no_grad()
def answered(
    parameters: Parameters, config: ModelConfig, encoder: DialogueEncoder, dialogues: Sequence[curriculum.Dialogue]
) -> list[bool]:
    """Whether greedy decoding gives each dialogue's assistant texts exactly, each up to and with its turn end.

    One forward pass: a greedy answer equals the expected one exactly when every expected token has the highest score
    after the expected tokens before it.
    """
    right: list[bool] = []
    for begin in range(0, len(dialogues), _evaluation_rows):
        batch = encoder.batch(dialogues[begin : begin + _evaluation_rows])
        hidden = run_forward(parameters, config, batch.tokens)
        best = logits(FlatWeights(parameters), config, hidden[:, :-1]).argmax(dim=-1)
        hits = (best == batch.tokens[:, 1:]) | ~batch.learned[:, 1:]
        right += hits.all(dim=1).tolist()
    return right


def pretrain(plan: Plan, clock: Monotonic, report: Report, checkpoint: Path | None = None) -> Pretrained:
    """Train the tokenizer and the model; `report` is given progress lines. Seconds are read from `clock`.

    With a `checkpoint` path the state is written there at every evaluation, and a run that finds one goes on from it.
    """
    workers = Workers(plan.workers)
    tokenizer = train_tokenizer(curriculum.corpus(plan.seed, _corpus_dialogues), vocab_size=1024)
    encoder = DialogueEncoder(Tokenizer.from_str(tokenizer))
    config = builtin_config(Tokenizer.from_str(tokenizer).get_vocab_size())
    parameters, state = initial_parameters(config, plan.seed), OptimizerState()
    if checkpoint is not None and checkpoint.exists():
        read_checkpoint(checkpoint, parameters, state)
    report(f"{config.parameters:,} parameters, {len(curriculum.held_out_additions()):,} additions held out")
    started, first, tokens = clock(), state.step, 0
    for batch in islice(encoder.batches(plan.seed, plan.batch_tokens), first, plan.steps):
        loss = train_step(
            parameters,
            config,
            batch,
            state,
            plan.optimizer,
            rate_scale=rate_scale((state.step + 1) / plan.steps, plan),
            balance_weight=plan.balance_weight,
            workers=workers,
        )
        tokens += int(batch.present.sum())
        if state.step % 20 == 0:
            speed = tokens / (clock() - started)
            losses = f"nll {loss.likelihood:.4f} balance {loss.balance:.3f}"
            report(f"step {state.step}/{plan.steps} {losses} {speed:,.0f} tok/s")
        if state.step % plan.evaluate_every == 0:
            report(_periodic(parameters, config, encoder))
            if checkpoint is not None:
                write_checkpoint(checkpoint, parameters, state)
    seconds = clock() - started
    exact = exact_match(parameters, config, encoder, curriculum.held_out_additions())
    talk = answered(parameters, config, encoder, curriculum.small_talk_dialogues())
    detached = {name: tensor.detach() for name, tensor in parameters.items()}
    return Pretrained(config, tokenizer, detached, state.step - first, tokens, seconds, exact, sum(talk) / len(talk))


def exact_match(
    parameters: Parameters,
    config: ModelConfig,
    encoder: DialogueEncoder,
    additions: Sequence[curriculum.Addition],
) -> dict[str, float]:
    """Share of these additions answered exactly, by phrasing."""
    shares: dict[str, float] = {}
    for phrasing in curriculum.asked_phrasings:
        asked = [curriculum.asked(addition, phrasing) for addition in additions]
        shares[phrasing] = sum(answered(parameters, config, encoder, asked)) / len(asked)
    return shares


def _periodic(parameters: Parameters, config: ModelConfig, encoder: DialogueEncoder) -> str:
    held_out = curriculum.held_out_additions()
    shares = exact_match(parameters, config, encoder, held_out[:: max(1, len(held_out) // _periodic_questions)])
    return "held out: " + ", ".join(f"{phrasing!r} {share:.3f}" for phrasing, share in shares.items())
