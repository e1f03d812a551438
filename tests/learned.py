"""Lessons of the built-in model for tests of its training: a small tokenizer, a small architecture."""

from functools import lru_cache
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer

from blyan.learning.batches import DialogueEncoder
from blyan.learning.genesis.dialogue import Dialogue, apart
from blyan.learning.genesis.documents import read_documents
from blyan.learning.genesis.exam import all_skills, exam, fingerprints
from blyan.learning.genesis.lessons import Lessons, Mixture
from blyan.learning.tokenizer_training import train_tokenizer
from blyan.model.config import ModelConfig

ROOT = Path(__file__).resolve().parent.parent
TINY = ModelConfig(
    family="qwen3_moe",
    vocab_size=400,
    hidden=32,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=16,
    dense_intermediate=48,
    expert_intermediate=24,
    experts=4,
    experts_per_token=2,
    normalise_top_k=True,
    moe_layers=(0, 1),
    attention_bias=False,
    tied_embeddings=True,
    rms_eps=1e-6,
    rope_theta=10_000.0,
    context_length=256,
)


@lru_cache
def lessons() -> Lessons:
    """All skills, equally likely, of this repository's documents."""
    documents = read_documents(ROOT / "docs")
    return Lessons(documents, Mixture(dict.fromkeys(all_skills, 1.0)), fingerprints(exam(documents, 2)))


def dialogues_of(count: int, seed: int = 1) -> list[Dialogue]:
    """The first dialogues of a seed."""
    return list(islice(lessons().dialogues(seed), count))


def texts_of(count: int) -> list[str]:
    """What is said in them, and who."""
    return [text for each in dialogues_of(count) for message in each for text in (message["role"], message["content"])]


@lru_cache
def small_encoder() -> DialogueEncoder:
    """One with 400 tokens."""
    return DialogueEncoder(Tokenizer.from_str(train_tokenizer(texts_of(300), vocab_size=400)), apart)
