"""What a model may be called: `name`, or `name:tag`, so that several of one kind stand beside each other.

The rule is the one of Ollama's clients: a name without a tag has the tag `latest`. It has one spelling here, the one
without: on the chain, in files and in answers `brief` is what `brief:latest` asks for.
"""

from __future__ import annotations

import re
import reprlib
from typing import Final

from blyan.primitives.errors import InvalidInput

# no tag that means none: a name that two spellings had would be two models
model_name_pattern: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(?::(?!latest(?![A-Za-z0-9._-]))[A-Za-z0-9_][A-Za-z0-9._-]{0,79})?"
)
_no_tag: Final = ":latest"


def canonical_name(name: str) -> str:
    """The one spelling of a name that somebody asks for; what is no name stays as it is, and is not found."""
    return name.removesuffix(_no_tag) if name.count(":") == 1 else name


def parse_model_name(text: object, what: str) -> str:
    """The one spelling of a name that a model may have; `InvalidInput` begins with `what`."""
    name = canonical_name(text) if isinstance(text, str) else ""
    if not model_name_pattern.fullmatch(name):
        raise InvalidInput(
            f"{what}: expected a name or name:tag of letters, digits and . _ -, found {reprlib.repr(text)}",
            hint="a name begins with a letter or digit and has up to 128 characters, a tag has up to 80",
        )
    return name


def tagged(name: str) -> str:
    """The name with its tag, `latest` where it has none."""
    return name if ":" in name else name + _no_tag


def file_stem(name: str) -> str:
    """The name as a part of file names, one for each: `:` is no character of them everywhere, `@` of no name."""
    return name.replace(":", "@")
