"""The model runtime: configuration, transformer on the expert-call seam, weights, tokenizer, sampling, import."""
