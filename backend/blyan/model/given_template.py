"""A chat template as somebody writes it in a Modelfile or a request, ready to be used with a model's tokenizer."""

from __future__ import annotations

import re
from typing import Final

from blyan.model.chat_template import TemplateRenderer
from blyan.model.go_to_jinja import translated
from blyan.model.tokenizer import Tokenizer
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput

_string: Final = re.compile(r""""[^"]*"|'[^']*'|`[^`]*`""")
# what no expression of Jinja has: a keyword or a field at its beginning, a field of the dot or a variable anywhere
_go: Final = re.compile(r"^(?:[./]|(?:if|range|with|else|end|and|or|eq|not)\b)|(?<![^\s(,|])\.[A-Z]|\$")


def is_jinja(text: str) -> bool:
    """Whether a template is Jinja: it has statements or comments, or only expressions that Go's cannot have."""
    bare = _without_go_comments(text)
    if any(0 <= bare.find(begin) < bare.rfind(end) for begin, end in (("{%", "%}"), ("{#", "#}"))):
        return True
    found = [
        inside.strip("- \t\r\n") for inside, end, _ in (each.partition("}}") for each in bare.split("{{")[1:]) if end
    ]
    return bool(found) and not any(_go.search(_string.sub("''", each)) for each in found)


def _without_go_comments(text: str) -> str:
    pieces: list[str] = []
    at = 0
    while (begin := text.find("/*", at)) >= 0 and (end := text.find("*/", begin + 2)) >= 0:
        is_comment = text[at:begin].rstrip("- \t\r\n").endswith("{{")
        pieces.append(text[at:begin] if is_comment else text[at : end + 2])
        at = end + 2
    return "".join([*pieces, text[at:]])


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
