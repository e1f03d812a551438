"""The lowest storey: digests, ids, keys, encoding, clock, limits and the fault tree. Imports nothing above it."""
