"""Fixtures that several files of this folder use."""

from accounts import installed, nodes  # noqa: F401
