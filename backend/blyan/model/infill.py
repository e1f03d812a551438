"""Filling in the middle: a prompt of what stands before the gap and what stands after it (Bavarian et al. 2022, PSM).

Two kinds of models can: those whose tokenizer has the three tokens that mark prefix, suffix and gap, and those that
were made with a Modelfile's template that uses `.Suffix`. Whatever else a chat has (system text, messages) has no place
in such a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from blyan.model.chat_template import TemplateRenderer
from blyan.model.tokenizer import Tokenizer
from blyan.primitives.errors import UnsupportedParameter

if TYPE_CHECKING:  # translating a template needs no torch
    from blyan.model.loading import LoadedModel

variable: Final = "fill_suffix"  # by which a translated template knows what stands after the gap


@dataclass(frozen=True, slots=True)
class _Marks:
    """The tokens of one kind of models, as their tokenizers name them."""

    before: str
    after: str
    gap: str
    ends: tuple[str, ...]  # tokens that end what is filled in, beside the model's own


_known: Final = (
    _Marks(  # Qwen2.5-Coder, Qwen3-Coder
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        ("<|endoftext|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
    ),
    _Marks("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<|endoftext|>", "<file_sep>")),  # StarCoder
    _Marks("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", ("<｜end▁of▁sentence｜>",)),  # DeepSeek-Coder
    _Marks("▁<PRE>", "▁<SUF>", "▁<MID>", ("▁<EOT>",)),  # Code Llama
)


@dataclass(frozen=True, slots=True)
class Infill:
    """A prompt that ends at the gap."""

    tokens: tuple[int, ...]
    ends: tuple[str, ...]  # texts of special tokens that end what is filled in


def can_infill(tokenizer: Tokenizer | None) -> bool:
    """Whether a model with this tokenizer fills in the middle."""
    return tokenizer is not None and (variable in (tokenizer.chat_template or "") or _marks_of(tokenizer) is not None)


def infill(
    model: LoadedModel,
    tokenizer: Tokenizer | None,
    renderer: TemplateRenderer,
    prefix: str | Sequence[int],
    suffix: str,
) -> Infill:
    """The prompt with which a model fills the gap between `prefix`, text or token ids, and `suffix`.

    `UnsupportedParameter` for a model that cannot; `ContextLengthExceeded` for texts that no context holds.
    """
    longest = model.manifest.config.context_length
    if tokenizer is not None and isinstance(prefix, str) and variable in (tokenizer.chat_template or ""):
        assert tokenizer.chat_template is not None, "it names the variable"
        said = [{"role": "user", "content": prefix}]
        text = renderer.render(tokenizer.chat_template, said, {**tokenizer.special, variable: suffix})
        marks = _marks_of(tokenizer)
        tokens = tokenizer.encode(text, add_special=False, tokens_max=longest)
        return Infill(tuple(tokens), marks.ends if marks is not None else ())
    marks = None if tokenizer is None else _marks_of(tokenizer)
    if tokenizer is None or marks is None:
        raise UnsupportedParameter(
            f"suffix: expected a model that fills in the middle, found {model.name}, whose tokenizer has no tokens for "
            "it and whose template does not use .Suffix"
        )
    before, after, gap = (tokenizer.token_id(mark) for mark in (marks.before, marks.after, marks.gap))
    assert before is not None and after is not None and gap is not None, "found with the marks"
    if isinstance(prefix, str):
        first = [*tokenizer.beginning(), before, *tokenizer.encode(prefix, add_special=False, tokens_max=longest)]
    else:
        first = [before, *prefix]
    second = [after, *tokenizer.encode(suffix, add_special=False, tokens_max=longest)]
    return Infill((*first, *second, gap), marks.ends)


def _marks_of(tokenizer: Tokenizer) -> _Marks | None:
    def has(marks: _Marks) -> bool:
        return all(tokenizer.token_id(mark) is not None for mark in (marks.before, marks.after, marks.gap))

    return next((marks for marks in _known if has(marks)), None)
