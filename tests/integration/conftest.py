"""Fixtures that several files of this folder use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from accounts import installed, nodes  # noqa: F401
from crooked_scene import scene  # noqa: F401
from namespaces import wires  # noqa: F401
from swarm_faults import answers_alone, restored
from swarm_nodes import Heard, Swarm


@pytest.fixture
def whole_again(swarm: Swarm) -> Iterator[None]:
    """After the test every node of the module's swarm runs and every link is up."""
    yield
    restored(swarm)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Heard:
    """What one node that holds everything answers to the module's `PROMPT` in its `TOKENS`."""
    prompt = request.module.PROMPT
    return answers_alone(tmp_path_factory.mktemp("whole"), [prompt], request.module.TOKENS)[prompt]
