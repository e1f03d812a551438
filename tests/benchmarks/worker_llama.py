"""llama.cpp as a contender, in its own environment: `worker_llama.py TYPE=FILE.gguf…`, two threads.

Through the C interface, one call a step, with the greedy choice made on its scores in place. fp32 keeps keys and values
in fp32 too, so that tokens can be compared; the others have its default.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence

import llama_cpp
import numpy as np
from line_protocol import Ask, Timed, serve, stepwise

CONTEXT = 1_024
PROMPT_AT_ONCE = 512
THREADS = 2
F32 = 0  # ggml_type


def contender(path: str, kind: str) -> Ask:
    """A model in a context of its own."""
    chosen = llama_cpp.llama_model_default_params()
    chosen.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(path.encode(), chosen)
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = CONTEXT
    settings.n_batch = settings.n_ubatch = PROMPT_AT_ONCE
    settings.n_threads = settings.n_threads_batch = THREADS
    settings.no_perf = True
    if kind == "fp32":
        settings.type_k = settings.type_v = F32
    context = llama_cpp.llama_init_from_model(model, settings)
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def forward(tokens: Sequence[int]) -> int:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        code = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens)))
        if code:
            raise RuntimeError(f"llama_decode: expected 0, found {code}")
        scores = llama_cpp.llama_get_logits_ith(context, -1)
        address = ctypes.addressof(scores.contents)
        return int(np.frombuffer((ctypes.c_float * vocab).from_address(address), dtype=np.float32).argmax())

    def begin(prompt: Sequence[int]) -> int:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        return forward(prompt)

    def ask(prompt: Sequence[int], count: int) -> Timed:
        return stepwise(prompt, count, begin, lambda token: forward([token]))

    return ask


def load() -> tuple[dict[str, Ask], str]:
    """Every file of the command line."""
    llama_cpp.llama_backend_init()
    pairs = [argument.partition("=") for argument in sys.argv[1:]]
    info = llama_cpp.llama_print_system_info().decode()
    return {kind: contender(path, kind.partition("+")[0]) for kind, _, path in pairs}, " ".join(info.split())


if __name__ == "__main__":
    serve(load)
