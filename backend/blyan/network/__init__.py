"""Talking to other nodes."""
