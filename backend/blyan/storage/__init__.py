"""Bytes on disk: durable files, tiles and their roots, TensorBlocks, the content-addressed blob store."""
