"""Ollama's requests that change which models there are: create, copy, delete, pull; parsed into values.

`create` comes with fields, as clients since 0.5 send it, or with a Modelfile as text, as older ones did; what both mean
is one `Recipe`. What is not provided is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, UnsupportedParameter
from blyan.primitives.model_name import parse_model_name
from blyan.wire.fields import as_dict, as_list, boolean, brief, naming_parameter
from blyan.wire.modelfile import Modelfile, parse_modelfile
from blyan.wire.ollama import OllamaRequest, model_name, parse_generate

_digest: Final = re.compile(r"sha256[:-](?P<hex>[0-9a-f]{64})")
_file_name: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_integers: Final = frozenset({"top_k", "seed", "num_predict", "num_ctx", "mirostat", "num_keep", "repeat_last_n"})
# what Ollama calls a way of storing → ours
_schemes: Final[Mapping[str, str]] = {"q8_0": "int8", "q4_0": "int4", "q4_k_m": "int4", "int8": "int8", "int4": "int4"}
_no_adapters: Final = "this version has no adapters: merge it into the checkpoint, and import that"
_create_fields: Final = frozenset(
    "model name from files adapters template system parameters messages license quantize quantization stream modelfile "
    "path".split()
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a model is made of: another model or files, and what is said otherwise. None: as the other model has it."""

    base: str | None
    files: Mapping[str, str]  # file name → SHA-256 of an uploaded blob, 64 hex digits
    template: str | None = None
    system: str | None = None
    messages: tuple[tuple[str, str], ...] | None = None  # role, content
    license: tuple[str, ...] | None = None
    options: OllamaRequest | None = None  # the parameters, as a request would say them
    scheme: str | None = None  # how to store the matrices


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """`POST /api/create`."""

    model: str
    recipe: Recipe
    stream: bool


@dataclass(frozen=True, slots=True)
class PullRequest:
    """`POST /api/pull`; `sources` is ours: nodes to ask in place of those that are configured."""

    model: str
    stream: bool
    sources: tuple[str, ...] = ()  # http://HOST:PORT#KEY


def parse_create(body: Mapping[str, Any]) -> CreateRequest:
    """Check a create request; the fault's detail names the field."""
    with naming_parameter():
        _known(body, _create_fields)
        if body.get("path") is not None:
            raise UnsupportedParameter("path: expected a Modelfile as text, found a path", hint="send its content")
        _want_none(body, "adapters", _no_adapters)
        given = _from_modelfile(body) if body.get("modelfile") is not None else body
        recipe = Recipe(
            base=_base(given.get("from")),
            files=_files(given.get("files")),
            template=_text(given, "template") or None,
            system=_text(given, "system"),
            messages=_messages(given.get("messages")),
            license=_licenses(given.get("license")),
            options=_options(given.get("parameters")),
            scheme=_scheme(body.get("quantize") or body.get("quantization")),
        )
        if (recipe.base is None) == (not recipe.files):
            raise InvalidInput(
                "from: expected a model of this node, or files that were uploaded, found "
                + ("neither" if recipe.base is None else "both")
            )
        if recipe.base is not None and recipe.scheme is not None:
            raise UnsupportedParameter(
                "quantize: expected it with files, found it with a model",
                hint="blocks are stored as they are: quantise when the checkpoint is imported",
            )
        return CreateRequest(_new_name(body), recipe, _streams(body))


def parse_pull(body: Mapping[str, Any]) -> PullRequest:
    """Check a pull request."""
    with naming_parameter():
        _known(body, frozenset({"model", "name", "insecure", "stream", "from"}))
        boolean(body, "insecure")  # there is no registry here that it could speak of
        sources = as_list(body.get("from") or [])
        texts = [text for text in sources or [] if isinstance(text, str)]
        if sources is None or len(texts) != len(sources) or len(texts) > limits.peers_max:
            expected = f"from: expected a list of at most {limits.peers_max} http://HOST:PORT#KEY"
            raise InvalidInput(f"{expected}, found {brief(body['from'])}")
        return PullRequest(_new_name(body), _streams(body), tuple(texts))


def parse_copy(body: Mapping[str, Any]) -> tuple[str, str]:
    """Source and destination."""
    with naming_parameter():
        _known(body, frozenset({"source", "destination"}))
        source, destination = body.get("source"), body.get("destination")
        return parse_model_name(source, "source"), parse_model_name(destination, "destination")


def parse_delete(body: Mapping[str, Any]) -> str:
    """The model's name."""
    with naming_parameter():
        _known(body, frozenset({"model", "name"}))
        return model_name(body)


def digest_of(text: object) -> str:
    """The 64 hex digits of `sha256:…`."""
    found = _digest.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise InvalidInput(f"digest: expected sha256: and 64 hex digits, found {brief(text)}")
    return found["hex"]


def recipe_of(text: str) -> Recipe:
    """What a Modelfile asks for, for who reads one from a file: FROM names a model of the node."""
    return parse_create({"model": "new", "modelfile": text}).recipe


def _new_name(body: Mapping[str, Any]) -> str:
    """The name of a model that is to be made: one that a model may have."""
    return parse_model_name(body.get("model", body.get("name")), "model")


def _from_modelfile(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a Modelfile says in words."""
    text = body["modelfile"]
    if not isinstance(text, str):
        raise InvalidInput(f"modelfile: expected text, found {brief(text)}")
    both = sorted(
        {"from", "files", "template", "system", "parameters", "messages", "license"}
        & {name for name, value in body.items() if value}
    )
    if both:
        raise InvalidInput(f"{both[0]}: expected it in the Modelfile, found both")
    made: Modelfile = parse_modelfile(text)
    if made.adapters:
        raise UnsupportedParameter(f"ADAPTER: expected none, found {brief(made.adapters[0])}", hint=_no_adapters)
    parameters: dict[str, Any] = {}
    for name, value in made.parameters:
        if name == "stop":
            parameters.setdefault("stop", []).append(value)
        else:
            parameters[name] = _parameter(name, value)
    return {
        "from": made.base,
        "template": made.template,
        "system": made.system,
        "messages": [{"role": role, "content": text} for role, text in made.messages] or None,
        "license": made.license or None,
        "parameters": parameters or None,
    }


def _parameter(name: str, text: str) -> object:
    """A value as its kind; what is no number is left for the check of options to refuse."""
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text) if name in _integers else float(text)
    except ValueError:
        return text


def _options(value: object) -> OllamaRequest | None:
    if value is None or value == {}:
        return None
    given = as_dict(value)
    if given is None:
        raise InvalidInput(f"parameters: expected an object, found {brief(value)}")
    return parse_generate({"model": "new", "options": given})


def _base(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise InvalidInput(f"from: expected a model's name, found {brief(value)}")
    if value.endswith(".gguf"):
        raise UnsupportedParameter("from: expected a model's name, found a GGUF file", hint=_no_gguf)
    if value.startswith((".", "/", "~")):
        raise UnsupportedParameter(f"from: expected a model's name, found the path {brief(value)}", hint=_no_paths)
    return parse_model_name(value, "from")


_no_paths: Final = "upload its files, as `ollama create` does, or `blyan model import` the folder"
_no_gguf: Final = (
    "GGUF holds weights in forms that cannot be given back bit for bit; import the safetensors checkpoint that it was "
    "made of"
)


def _files(value: object) -> dict[str, str]:
    given = {} if value is None else as_dict(value)
    if given is None or len(given) > limits.upload_files_max:
        raise InvalidInput(f"files: expected an object of at most {limits.upload_files_max}, found {brief(value)}")
    for name in given:
        if name.lower().endswith(".gguf"):
            raise UnsupportedParameter(f"files: expected safetensors, found {name[:80]!r}", hint=_no_gguf)
        if not _file_name.fullmatch(name) or ".." in name:
            raise InvalidInput(f"files: expected plain file names, found {name[:80]!r}")
    return {name: digest_of(digest) for name, digest in given.items()}


def _messages(value: object) -> tuple[tuple[str, str], ...] | None:
    if value is None:
        return None
    items = as_list(value)
    if items is None or len(items) > limits.messages_max:
        raise InvalidInput(f"messages: expected at most {limits.messages_max}, found {brief(value)}")
    return tuple(_message(item) for item in items)


def _message(item: object) -> tuple[str, str]:
    given = as_dict(item) or {}
    role, content = given.get("role"), given.get("content")
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise InvalidInput(f"messages: expected role system, user or assistant and a text, found {brief(item)}")
    return str(role), content


def _licenses(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    items = [value] if isinstance(value, str) else as_list(value)
    if items is None or len(items) > limits.licenses_max:
        raise InvalidInput(f"license: expected at most {limits.licenses_max} texts, found {brief(value)}")
    texts = [text for text in items if isinstance(text, str)]
    if len(texts) != len(items):
        raise InvalidInput(f"license: expected texts, found {brief(value)}")
    return tuple(text for text in texts if text)


def _scheme(value: object) -> str | None:
    if value is None or value == "":
        return None
    found = _schemes.get(value.lower()) if isinstance(value, str) else None
    if found is None:
        raise UnsupportedParameter(f"quantize: expected one of {', '.join(sorted(_schemes))}, found {brief(value)}")
    return found


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"{name}: expected text, found {brief(value)}")
    return value


def _streams(body: Mapping[str, Any]) -> bool:
    return True if body.get("stream") is None else boolean(body, "stream")


def _want_none(body: Mapping[str, Any], name: str, why: str) -> None:
    if body.get(name):
        raise UnsupportedParameter(f"{name}: expected none, found {brief(body[name])}", hint=why)


def _known(body: Mapping[str, Any], names: frozenset[str]) -> None:
    unknown = sorted(set(body) - names)
    if unknown:
        raise UnsupportedParameter(f"{unknown[0][:80]}: expected a known field, found {brief(body[unknown[0]])}")
