"""A chat template as somebody writes it in a Modelfile or a request, ready to be used with a model's tokenizer."""

from __future__ import annotations

from blyan.model.chat_template import TemplateRenderer
from blyan.model.go_template import is_jinja
from blyan.model.go_to_jinja import translated
from blyan.model.tokenizer import Tokenizer
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput


def given_template(renderer: TemplateRenderer, tokenizer: Tokenizer, template: str) -> str:
    """Jinja as it is, a Go template translated; `InvalidInput` names what is too long, unknown, or does not render."""
    if len(template.encode("utf-8", "replace")) > limits.chat_template_bytes_max:
        raise InvalidInput(f"template: expected at most {limits.chat_template_bytes_max} bytes, found more")
    jinja = template if is_jinja(template) else _beginning(tokenizer) + translated(template)
    renderer.check(jinja)
    return jinja


def _beginning(tokenizer: Tokenizer) -> str:
    """What a Go template leaves to the tokenizer: the token that begins every text, where there is one.

    Rendered prompts are encoded without it, because Jinja templates write it themselves.
    """
    return "{{ bos_token }}" if tokenizer.beginning() else ""
