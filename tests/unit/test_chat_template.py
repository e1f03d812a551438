"""Chat templates are foreign code: rendered apart, within limits."""

import time
from collections.abc import Iterator

import pytest

from blyan.model.chat_template import TemplateRenderer
from blyan.primitives.errors import InvalidInput

MESSAGES = [{"role": "user", "content": "hello"}]
GOOD = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)


@pytest.fixture
def renderer() -> Iterator[TemplateRenderer]:
    made = TemplateRenderer(seconds_max=2.0)
    yield made
    made.close()


def test_a_template_renders_messages_and_special_tokens(renderer: TemplateRenderer) -> None:
    """As transformers does, with the generation prompt."""
    assert renderer.render(GOOD, MESSAGES, {}) == "[user]hello>"
    assert renderer.render("{{ bos_token }}{{ messages | tojson }}", MESSAGES, {"bos_token": "<s>"}) == (
        '<s>[{"role": "user", "content": "hello"}]'
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for %}",
        "{{ undefined_function() }}",
        "{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
        "{{ 'x' * 2000000000 }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_templates_that_refuse_or_attack_are_the_callers_error(renderer: TemplateRenderer, template: str) -> None:
    """Refusal, escape, mutation, syntax, size, memory and files: an error each, and the next rendering works."""
    with pytest.raises(InvalidInput, match="chat template"):
        renderer.render(template, MESSAGES, {})
    assert renderer.render(GOOD, MESSAGES, {}) == "[user]hello>"


def test_an_endless_template_is_ended(renderer: TemplateRenderer) -> None:
    """The deadline kills the process, and the next rendering has a new one."""
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    started = time.monotonic()
    with pytest.raises(InvalidInput, match="none in time"):
        renderer.render(endless, MESSAGES, {})
    assert time.monotonic() - started < 6
    assert renderer.render(GOOD, MESSAGES, {}) == "[user]hello>"


def test_a_worker_that_was_killed_is_replaced(renderer: TemplateRenderer) -> None:
    """Real SIGKILL of the worker process."""
    renderer.render(GOOD, MESSAGES, {})
    worker = renderer._worker
    assert worker is not None
    worker.kill()
    worker.wait()
    assert renderer.render(GOOD, MESSAGES, {}) == "[user]hello>"
