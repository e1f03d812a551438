"""Trains the built-in model from nothing: tokenizer, batches, steps, checkpoints, and how it goes.

Everything that lasts stands in one folder: `tokenizer.json`, `checkpoint.safetensors` (replaced as a whole), and
`curve.jsonl`, a line of measurements for every so many steps. A run that was killed goes on from the checkpoint and
gives the bits that it would have given.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import orjson
import torch
from tokenizers import Tokenizer

from blyan.learning.batches import DialogueEncoder, Position
from blyan.learning.genesis.dialogue import Dialogue, apart
from blyan.learning.genesis.exam import Item
from blyan.learning.genesis.lessons import Lessons, digest_of
from blyan.learning.genesis.marking import Marks, mark
from blyan.learning.genesis.settings import Settings, TrainingSettings
from blyan.learning.greedy import greedy_answers
from blyan.learning.tokenizer_training import train_tokenizer
from blyan.learning.training_checkpoint import read_checkpoint, write_checkpoint
from blyan.model.config import ModelConfig
from blyan.model.training import OptimizerSettings, OptimizerState, Parameters, Workers, train_step
from blyan.primitives.clock import Monotonic

Report = Callable[[str], None]

_tokenizer_seed = 77
_answer_tokens_max = 120
_named_dialogues = 10_000  # by whose digest the lessons are named


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A trained model, its tokenizer's text, and what it was made from."""

    config: ModelConfig
    tokenizer: str
    parameters: Parameters
    made: str  # digest of settings and lessons
    steps: int
    tokens: int


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


def rate_scale(progress: float, plan: TrainingSettings) -> float:
    """Share of the peak learning rate: rises over the warm-up, stays, and falls as a cosine over the cool-down."""
    if progress < plan.warmup_share:
        return (progress + 1e-3) / (plan.warmup_share + 1e-3)
    into = (progress - (1 - plan.cooldown_share)) / plan.cooldown_share
    return 1.0 if into <= 0 else 0.5 * (1 + math.cos(math.pi * min(1.0, into)))


def made_of(settings: Settings, lessons: Lessons) -> str:
    """The name of what a training is made from: settings of model, tokenizer and training, and the lessons' digest."""
    named = digest_of(islice(lessons.dialogues(settings.training.seed), _named_dialogues))
    plan = [settings.model, asdict(settings.tokenizer), asdict(settings.training), named]
    return hashlib.sha256(orjson.dumps(plan, option=orjson.OPT_SORT_KEYS)).hexdigest()


def tokenizer_of(settings: Settings, lessons: Lessons) -> str:
    """The text of `tokenizer.json`, learned from lessons without the words that are spelled.

    A word that became one token of its own could not be spelled unless a lesson spelled it.
    """
    stream = lessons.dialogues(_tokenizer_seed)
    texts = [text for dialogue in islice(stream, settings.tokenizer.dialogues) for text in _cut_from(dialogue)]
    return train_tokenizer(texts, settings.tokenizer.vocabulary)


def _cut_from(dialogue: Dialogue) -> Iterator[str]:
    for message in dialogue:
        yield message["role"]
        if apart not in message["content"]:
            yield message["content"]


class Training:
    """One training in one folder: made, or found as it was left, and gone on with."""

    def __init__(self, folder: Path, settings: Settings, lessons: Lessons, report: Report) -> None:
        self._folder, self._settings, self._lessons, self._report = folder, settings, lessons, report
        folder.mkdir(parents=True, exist_ok=True)
        self.made = made_of(settings, lessons)
        path = folder / "tokenizer.json"
        if not path.exists():
            path.write_text(tokenizer_of(settings, lessons), encoding="utf-8")
        self.tokenizer = path.read_text(encoding="utf-8")
        self.encoder = DialogueEncoder(Tokenizer.from_str(self.tokenizer), apart)
        self.config = settings.config(self.encoder.tokenizer.get_vocab_size())
        drawn = initial_parameters(self.config, settings.training.seed)
        device = settings.training.device
        self.parameters = {name: each.detach().to(device).requires_grad_() for name, each in drawn.items()}
        self.state, self.position, self.tokens = OptimizerState(), Position(), 0
        self._checkpoint = folder / "checkpoint.safetensors"
        if self._checkpoint.exists():
            notes = read_checkpoint(self._checkpoint, self.parameters, self.state, self.made)
            self.position, self.tokens = Position(*notes["position"]), notes["tokens"]
            self._curve_up_to(self.state.step)
            report(f"goes on after step {self.state.step}")

    def run(self, clock: Monotonic, items: Sequence[Item], steps: int | None = None) -> Pretrained:
        """Train to the end, or for so many steps more; every so often `items` of the exam are answered."""
        plan = self._settings.training
        last = plan.steps if steps is None else min(plan.steps, self.state.step + steps)
        workers, optimizer = Workers(plan.workers), optimizer_settings(plan)
        self._report(f"{self.config.parameters:,} parameters, {self.config.active_parameters:,} active")
        started, tokens_before = clock(), self.tokens
        batches = self.encoder.batches(self._lessons.dialogues, plan.seed, plan.batch_tokens, self.position)
        for position, batch in islice(batches, last - self.state.step):
            loss = train_step(
                self.parameters, self.config, batch.to(plan.device), self.state, optimizer,
                rate_scale=rate_scale((self.state.step + 1) / plan.steps, plan),
                balance_weight=plan.balance_weight, workers=workers,
            )  # fmt: skip
            self.position, self.tokens = position, self.tokens + int(batch.present.sum())
            if self.state.step % 20 == 0:
                speed = (self.tokens - tokens_before) / (clock() - started)
                self._note(
                    {"loss": round(loss.likelihood, 5), "balance": round(loss.balance, 4)}, f"{speed:,.0f} tok/s"
                )
            if self.state.step % plan.evaluate_steps == 0 or self.state.step == plan.steps:
                self._note_marks(self.marks(items))
            if self.state.step % plan.checkpoint_steps == 0 or self.state.step == last:
                self.save()
        detached = {name: tensor.detach().cpu() for name, tensor in self.parameters.items()}
        return Pretrained(self.config, self.tokenizer, detached, self.made, self.state.step, self.tokens)

    def save(self) -> None:
        """Write the checkpoint; what came before it is not needed any more."""
        notes = {"made": self.made, "position": [self.position.pool, self.position.batch], "tokens": self.tokens}
        write_checkpoint(self._checkpoint, self.parameters, self.state, notes)

    def marks(self, items: Sequence[Item]) -> Marks:
        """How these questions of the exam are answered now."""
        prompt = self._settings.shipping.system
        asked = [[{"role": "system", "content": prompt}, *item.messages] if prompt else item.messages for item in items]
        answers = greedy_answers(self.parameters, self.config, self.encoder, asked, _answer_tokens_max)
        return mark(items, answers)

    def _note_marks(self, marks: Marks) -> None:
        weakest = sorted(marks.by_skill, key=lambda each: each.share)[:6]
        said = ", ".join(f"{each.skill} {each.language} {each.share:.2f}" for each in weakest)
        self._note({"marks": marks.as_json()}, f"exam {marks.share:.3f}; weakest: {said}")

    def _note(self, values: dict[str, object], said: str) -> None:
        line = {"step": self.state.step, "tokens": self.tokens, **values}
        with (self._folder / "curve.jsonl").open("ab") as file:
            file.write(orjson.dumps(line) + b"\n")
        shown = " ".join(f"{name} {value}" for name, value in values.items() if name != "marks")
        self._report(f"step {self.state.step}/{self._settings.training.steps} {shown} {said}")

    def _curve_up_to(self, step: int) -> None:
        """Drop what a killed run wrote after its last checkpoint: it will be written again."""
        path = self._folder / "curve.jsonl"
        if path.exists():
            lines = [line for line in path.read_bytes().splitlines() if line.endswith(b"}")]
            path.write_bytes(b"".join(line + b"\n" for line in lines if orjson.loads(line)["step"] <= step))


def optimizer_settings(plan: TrainingSettings) -> OptimizerSettings:
    """What a step is told of the plan."""
    return OptimizerSettings(
        muon_rate=plan.muon_rate,
        adam_rate=plan.adam_rate,
        muon=plan.optimizer == "muon",
        precision=plan.precision,
    )
