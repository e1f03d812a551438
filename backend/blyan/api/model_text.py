"""A model in Ollama's words: its Modelfile, parameters, template, system text, messages and licence."""

from __future__ import annotations

from typing import Any

from blyan.model.loading import LoadedModel
from blyan.wire.modelfile import Modelfile, modelfile_text

_name_width = 30


def told_of(model: LoadedModel) -> dict[str, Any]:
    """What `/api/show` says of a model's defaults; the Modelfile makes the same model again from its own name."""
    manifest, defaults = model.manifest, model.manifest.defaults
    template = model.tokenizer.chat_template if model.tokenizer is not None else None
    license_texts = [text for text in (manifest.license, *defaults.license) if text]
    parameters = _parameters(model)
    modelfile = Modelfile(
        base=model.name,
        parameters=parameters,
        system=defaults.system or None,
        template=defaults.template or template,
        messages=[(each.role, each.content) for each in defaults.messages],
        license=license_texts,
    )
    return {
        "license": "\n".join(license_texts),
        "modelfile": modelfile_text(modelfile),
        "parameters": "\n".join(f"{name:<{_name_width}} {value}" for name, value in parameters),
        "template": defaults.template or template or "",
        "system": defaults.system,
        "messages": [{"role": each.role, "content": each.content} for each in defaults.messages],
    }


def _parameters(model: LoadedModel) -> list[tuple[str, str]]:
    generation, defaults = model.manifest.generation, model.manifest.defaults
    said: list[tuple[str, object]] = [
        ("temperature", generation.temperature),
        ("top_p", generation.top_p),
        ("top_k", generation.top_k or None),
        ("min_p", defaults.min_p or None),
        ("repeat_penalty", defaults.repetition_penalty if defaults.repetition_penalty != 1.0 else None),
        ("presence_penalty", defaults.presence_penalty or None),
        ("frequency_penalty", defaults.frequency_penalty or None),
        ("seed", defaults.seed),
        ("num_predict", defaults.tokens_max),
        ("num_ctx", defaults.context_max),
        *(("stop", word) for word in defaults.stop),
    ]
    return [(name, str(value)) for name, value in said if value is not None]
