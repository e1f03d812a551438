"""Trains the built-in model's byte-level BPE and writes it as Hugging Face's `tokenizer.json`.

Digits always stand alone: a model that sees 23 as two tokens can learn to add columns. Byte-level after Radford et al.
2019; merges after Sennrich et al. 2016 (arXiv:1508.07909).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

end_of_text: Final = "<|endoftext|>"
turn_start: Final = "<|im_start|>"
turn_end: Final = "<|im_end|>"
special_tokens: Final = (end_of_text, turn_start, turn_end)

chat_template: Final = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def render(messages: Iterable[Mapping[str, object]], *, add_generation_prompt: bool = False) -> str:
    """What `chat_template` renders; a test holds the two together. Training renders thousands of dialogues a second."""
    text = "".join(f"{turn_start}{m['role']}\n{m['content']}{turn_end}\n" for m in messages)
    return text + f"{turn_start}assistant\n" if add_generation_prompt else text


def train_tokenizer(corpus: Iterable[str], vocab_size: int) -> str:
    """The text of `tokenizer.json` with at most `vocab_size` tokens: 3 special ones, 256 bytes, then merges.

    The same corpus gives the same text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer.to_str(pretty=False)
