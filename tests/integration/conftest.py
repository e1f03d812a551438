"""Fixtures that several files of this folder use."""

from accounts import installed, nodes  # noqa: F401
from crooked_scene import scene  # noqa: F401
from namespaces import wires  # noqa: F401
