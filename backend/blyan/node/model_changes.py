"""Making models of others, under other names and with other defaults, and taking models away.

A model made of another one names the same blocks, which are stored once: what is new is its manifest, perhaps a
tokenizer payload with another chat template, and entries that name each block as a part of the new model too. Taking
one away is a `retirement` entry; its blocks stay on the disk until `blyan blob sweep`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from blyan.chain.entries import RetirementBody
from blyan.chain.sequencer import Draft
from blyan.chain.state import ModelVersion
from blyan.model import tokenizer as tokenizer_module
from blyan.model.chat_template import TemplateRenderer
from blyan.model.given_template import given_template, is_jinja
from blyan.model.manifest import BlockReference, GenerationDefaults, Manifest
from blyan.model.request_defaults import RequestDefaults, Said
from blyan.node.catalogue import manifest_of
from blyan.node.data_directory import Ground
from blyan.node.holdings import change_held
from blyan.node.publish import Published, publish
from blyan.node.writer import WritableGround
from blyan.primitives import limits
from blyan.primitives.errors import Denied, Fault, InvalidInput, NotFound
from blyan.primitives.model_name import parse_model_name
from blyan.wire.ollama import OllamaRequest
from blyan.wire.ollama_create import Recipe

_license_id = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")


@dataclass(frozen=True, slots=True)
class Removed:
    """What a retirement took away."""

    model: ModelVersion
    bytes_freed: int  # what `blyan blob sweep` removes, unless a pin holds it


def named_model(ground: Ground, name: str) -> tuple[ModelVersion, Manifest]:
    """The newest version of a model; `NotFound` names those that there are."""
    version = ground.chains.state.current(name)
    if version is None:
        known = ", ".join(sorted(ground.chains.state.models)) or "none"
        raise NotFound(
            f"model {name[:128]!r}: expected one of {known}, found no such model",
            detail={"model": name[:128]},
            hint="`blyan model list` shows what this node has",
        )
    return version, manifest_of(ground, version)


def want_writer(ground: Ground) -> None:
    """`Denied` where these chains are another node's."""
    if not ground.may_write:
        raise Denied(
            f"chains of {ground.chains.network}: expected to write as their sequencer, found another's key here",
            hint="this node reads the chains of another; only their sequencer publishes and retires models",
        )


def copy_model(ground: WritableGround, source: str, destination: str) -> Published:
    """Publish a model under another name too."""
    want_writer(ground)
    version, manifest = named_model(ground, source)
    destination = parse_model_name(destination, "destination")
    if destination == version.name:
        raise InvalidInput(f"destination: expected another name than {source}, found the same")
    parent = f"{version.name} {version.version}"
    return publish(ground, replace(manifest, name=destination, defaults=replace(manifest.defaults, parent=parent)))


def remove_model(ground: WritableGround, name: str) -> Removed:
    """Retire a model. One whose manifest is damaged can be retired too."""
    want_writer(ground)
    found = removable(ground, name)
    version = found.model
    manifests = [each.manifest for each in ground.chains.state.models[version.name]]
    draft = Draft(RetirementBody(version.name, version.version), (version.entry,))
    ground.sequencer.submit([draft]).result()
    for manifest in manifests:  # a crash before this is put right when the node starts
        change_held(ground.folder, manifest, None)
    return found


def removable(ground: Ground, name: str) -> Removed:
    """What retiring a model would take away; `NotFound` if there is none."""
    state = ground.chains.state
    version = state.current(name)
    if version is None:
        named_model(ground, name)
        raise AssertionError("a model that has no version is not found")
    return Removed(version, _freed(ground, name))


def _freed(ground: Ground, name: str) -> int:
    """Bytes of blocks that no other model names; where a manifest cannot be read, its blocks are not counted."""
    ours: dict[str, int] = {}
    others: set[str] = set()
    for model, versions in ground.chains.state.models.items():
        for version in versions:
            try:
                blocks = manifest_of(ground, version).blocks.values()
            except Fault:
                continue
            if model == name:
                ours |= {block.payload: block.length for block in blocks}
            else:
                others |= {block.payload for block in blocks}
    return sum(length for payload, length in ours.items() if payload not in others)


def create_from(ground: WritableGround, renderer: TemplateRenderer, name: str, recipe: Recipe) -> Published:
    """Publish what a recipe makes of a model of this node."""
    want_writer(ground)
    name = parse_model_name(name, "model")
    assert recipe.base is not None, "files are imported first"
    version, manifest = named_model(ground, recipe.base)
    parent = manifest.defaults.parent if recipe.base == name else f"{version.name} {version.version}"
    made = changed(ground, renderer, replace(manifest, defaults=replace(manifest.defaults, parent=parent)), recipe)
    return publish(ground, replace(made, name=name))


def changed(ground: WritableGround, renderer: TemplateRenderer, manifest: Manifest, recipe: Recipe) -> Manifest:
    """The manifest with what a recipe says otherwise; a new tokenizer payload is stored."""
    generation, defaults = manifest.generation, manifest.defaults
    if recipe.options is not None:
        generation, defaults = _with_options(generation, defaults, recipe.options)
    if recipe.system is not None:
        defaults = replace(defaults, system=recipe.system)
    if recipe.messages is not None:
        defaults = replace(defaults, messages=tuple(Said(role, content) for role, content in recipe.messages))
    manifest = _with_license(replace(manifest, generation=generation, defaults=defaults), recipe.license)
    return manifest if recipe.template is None else _with_template(ground, renderer, manifest, recipe.template)


def _with_options(
    generation: GenerationDefaults, defaults: RequestDefaults, asked: OllamaRequest
) -> tuple[GenerationDefaults, RequestDefaults]:
    options = asked.options
    chosen = {"temperature": options.temperature, "top_p": options.top_p, "top_k": options.top_k}
    others: Mapping[str, object] = {
        "stop": options.stop or None,
        "seed": options.seed,
        "tokens_max": asked.tokens_max,
        "context_max": asked.context_max,
        "min_p": options.min_p,
        "frequency_penalty": options.frequency_penalty,
        "presence_penalty": options.presence_penalty,
        "repetition_penalty": options.repetition_penalty,
    }
    said = {name: value for name, value in others.items() if value is not None}
    if asked.tokens_max == limits.canonical_integer_max:  # num_predict -1: as many as fit
        del said["tokens_max"]
        defaults = replace(defaults, tokens_max=None)
    return (
        replace(generation, **{name: value for name, value in chosen.items() if value is not None}),
        replace(defaults, **said),  # pyright: ignore[reportArgumentType] - of the fields' own kinds, as parsed
    )


def _with_license(manifest: Manifest, texts: Sequence[str] | None) -> Manifest:
    """A licence that is an SPDX id is the manifest's; longer ones stand beside it."""
    if texts is None:
        return manifest
    identities = [text for text in texts if _license_id.fullmatch(text)]
    rest = tuple(text for text in texts if text not in identities[:1])
    return replace(
        manifest,
        license=identities[0] if identities else manifest.license,
        defaults=replace(manifest.defaults, license=rest),
    )


def _with_template(ground: WritableGround, renderer: TemplateRenderer, manifest: Manifest, template: str) -> Manifest:
    """A tokenizer payload with another chat template: Jinja as it is, a Go template translated."""
    if manifest.tokenizer is None:
        raise InvalidInput(f"template: expected a model with a tokenizer, found that {manifest.name} has none")
    raw = ground.store.read(manifest.tokenizer.payload, bytes_max=limits.tokenizer_payload_bytes_max)
    held = tokenizer_module.decode_payload(raw)
    tokenizer = tokenizer_module.parse_payload(raw, manifest.config.vocab_size)
    jinja, written = given_template(renderer, tokenizer, template), "" if is_jinja(template) else template
    stored = ground.store.put([tokenizer_module.encode_payload(held.tokenizer_json, jinja, held.special)])
    return replace(
        manifest,
        tokenizer=BlockReference(stored.payload, stored.length),
        defaults=replace(manifest.defaults, template=written),
    )
