"""Append-only signed chains: entries, the rules of who may add what, RFC 6962 logs, checkpoints."""
