"""Chat templates are foreign code: rendered apart, within limits."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest

from blyan.model.chat_template import TemplateRenderer, plain_template
from blyan.primitives.errors import InvalidInput, Unavailable, UnsupportedModel
from checkpoints import save_byte_tokenizer

MESSAGES = [{"role": "user", "content": "hello"}]
GOOD = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)
NOW = 1_700_000_000
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture
def renderer() -> Iterator[TemplateRenderer]:
    made = TemplateRenderer(lambda: NOW, seconds_max=2.0)
    yield made
    made.close()


def test_a_template_renders_messages_and_special_tokens(renderer: TemplateRenderer) -> None:
    """As transformers does, with the generation prompt."""
    assert renderer.render(GOOD, MESSAGES, {}) == "[user]hello>"
    assert renderer.render("{{ bos_token }}{{ messages | tojson }}", MESSAGES, {"bos_token": "<s>"}) == (
        '<s>[{"role": "user", "content": "hello"}]'
    )


def test_an_unfinished_answer_ends_the_prompt_where_its_text_ends(renderer: TemplateRenderer) -> None:
    """Nothing of the template stands after it, no generation prompt, and its own white space stays."""
    begun = [*MESSAGES, {"role": "assistant", "content": " so far "}]
    assert renderer.render(GOOD, begun, {}, continue_final=True) == "[user]hello[assistant]so far "
    assert renderer.render(plain_template, begun, {}, continue_final=True).endswith("Assistant:  so far ")


def test_a_template_that_changes_the_last_message_cannot_be_continued(renderer: TemplateRenderer) -> None:
    """It says so, rather than continue something else."""
    with pytest.raises(InvalidInput, match="continue_final_message"):
        renderer.render("{{ messages[0].content }}", [*MESSAGES, *MESSAGES], {}, continue_final=True)


REACHING = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__name__ }}",
    "{{ messages.append(1) }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'x' as y %}",
    "{% from 'x' import y %}",
    "{% extends 'x' %}",
    "{% if messages | length > 99 %}{% include 'x' %}{% endif %}",
]


@pytest.mark.parametrize("template", REACHING)
def test_a_template_that_reaches_out_of_its_sandbox_is_refused_at_once(
    renderer: TemplateRenderer, template: str
) -> None:
    """When it is checked, and in a chat without blaming the messages."""
    with pytest.raises(InvalidInput, match="expected one that stays within its sandbox, found SecurityError"):
        renderer.check(template)
    with pytest.raises(UnsupportedModel, match="expected one that stays within its sandbox") as caught:
        renderer.render(template, MESSAGES, {})
    assert "messages" not in caught.value.message
    assert "the model's template is to blame" in str(caught.value.hint)


@pytest.mark.parametrize("template", ["{{ raise_exception('no system') }}", "{{ messages[7].content }}", GOOD])
def test_a_template_that_refuses_these_messages_passes(renderer: TemplateRenderer, template: str) -> None:
    """What it makes of one message is its own affair."""
    renderer.check(template)


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
    started = time.monotonic()
    with pytest.raises(InvalidInput, match="none in time"):
        renderer.render(ENDLESS, MESSAGES, {})
    assert time.monotonic() - started < 6
    assert renderer.render(GOOD, MESSAGES, {}) == "[user]hello>"


def test_a_worker_that_was_killed_is_replaced(renderer: TemplateRenderer) -> None:
    """Real SIGKILL of the worker process."""
    renderer.render(GOOD, MESSAGES, {})
    worker = worker_of(renderer)
    worker.kill()
    worker.wait()
    assert renderer.render(GOOD, MESSAGES, {}) == "[user]hello>"


def test_a_worker_that_dies_while_it_renders_is_not_the_callers_fault(renderer: TemplateRenderer) -> None:
    """As when the machine is out of memory: the same call may succeed later."""
    renderer.render(GOOD, MESSAGES, {})
    timer = threading.Timer(0.3, worker_of(renderer).kill)
    timer.start()
    with pytest.raises(Unavailable, match=f"ended with {-signal.SIGKILL}"):
        renderer.render(ENDLESS, MESSAGES, {})
    assert renderer.render(GOOD, MESSAGES, {}) == "[user]hello>"


def test_the_deadline_holds_also_while_a_large_request_is_written(renderer: TemplateRenderer) -> None:
    """A stopped worker reads nothing, and a pipe takes only its 64 KiB."""
    renderer.render(GOOD, MESSAGES, {})
    os.kill(worker_of(renderer).pid, signal.SIGSTOP)
    with pytest.raises(InvalidInput, match="none in time"):
        renderer.render(GOOD, [{"role": "user", "content": "x" * 1_000_000}], {})
    assert renderer.render(GOOD, MESSAGES, {}) == "[user]hello>"


def test_whoever_waits_too_long_for_the_worker_is_told_to_come_again() -> None:
    """One rendering at a time, and each wait has an end."""
    renderer = TemplateRenderer(lambda: NOW, seconds_max=1.0)
    renderer._lock.acquire()
    with pytest.raises(Unavailable, match="busy"):
        renderer.render(GOOD, MESSAGES, {})


def test_closing_ends_a_rendering_at_once(renderer: TemplateRenderer) -> None:
    """The node need not wait for a template's deadline."""
    renderer.render(GOOD, MESSAGES, {})
    with ThreadPoolExecutor() as pool:
        rendering = pool.submit(renderer.render, ENDLESS, MESSAGES, {})
        time.sleep(0.3)
        started = time.monotonic()
        renderer.close()
        assert time.monotonic() - started < 1
        with pytest.raises(Unavailable):
            rendering.result()


def test_an_interrupted_rendering_leaves_no_answer_for_the_next(
    renderer: TemplateRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that still owes an answer is not asked again."""
    renderer.render(GOOD, MESSAGES, {})
    before = worker_of(renderer)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("json.loads", interrupted)
    with pytest.raises(KeyboardInterrupt):
        renderer.render(GOOD, MESSAGES, {})
    monkeypatch.undo()
    assert before.returncode is not None
    assert renderer.render("other", MESSAGES, {}) == "other"


def test_a_worker_dies_with_its_parent() -> None:
    """Real SIGKILL of the process that renders, in the middle of a rendering."""
    script = (
        "import sys, threading\n"
        "from blyan.model.chat_template import TemplateRenderer\n"
        "renderer = TemplateRenderer(lambda: 0, 60.0)\n"
        "renderer.render('x', [], {})\n"
        "print(renderer._worker.pid, flush=True)\n"
        f"renderer.render({ENDLESS!r}, [], {{}})\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.communicate()
    assert ended_within(worker, 2.0)


def test_a_worker_that_nobody_watches_runs_out_of_processor_time() -> None:
    """The limit is armed anew for each request."""
    command = [sys.executable, "-m", "blyan.model.template_worker", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        half_a_second = "{% for a in range(100) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
        for template in [half_a_second] * 6 + [ENDLESS]:
            request = {"template": template, "check": False, "now": 0, "variables": {"messages": MESSAGES}}
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
            if template != ENDLESS:
                assert "text" in json.loads(worker.stdout.readline())
        assert worker.wait(15) == -signal.SIGXCPU


def worker_of(renderer: TemplateRenderer) -> "subprocess.Popen[bytes]":
    assert renderer._worker is not None
    return renderer._worker


def ended_within(pid: int, seconds: float) -> bool:
    """Whether the process is gone, or waits for whoever adopted it to take note."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z"):
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ messages", "TemplateSyntaxError"),
        ("{% unknown %}", "unknown tag"),
        ("{{ 'x' * 9999999999 }}", "MemoryError"),
        ("{{ ('x' * 999999) * 999 }}", "MemoryError"),
    ],
)
def test_a_template_that_could_never_render_is_found_without_messages(
    renderer: TemplateRenderer, template: str, said: str
) -> None:
    """Neither compiled nor rendered with one message; what merely refuses that message passes."""
    with pytest.raises(InvalidInput, match=f"expected one that compiles and stays small, found .*{said}"):
        renderer.check(template)
    for good in (GOOD, "{{ raise_exception('a system message first') }}", "{{ messages[1].content + 1 }}"):
        renderer.check(good)


def test_marks_of_what_a_model_learns_are_only_text(renderer: TemplateRenderer) -> None:
    """Checkpoints for training with transformers have them."""
    template = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}!{% endfor %}"
    assert renderer.render(template, MESSAGES, {}) == "hello!"


LIKE_TRANSFORMERS = [
    "{{ strftime_now('%Y-%m-%d %H:%M:%S%z') }} {{ strftime_now(format='%d %b %Y') }}",
    "{% macro today() %}{{ strftime_now('%A') }}{% endmacro %}{{ today() }}",
    "{{ messages | tojson }} {{ messages | tojson(indent=2) }} {{ '<é&>' | tojson }}",
    "{{ messages | tojson(separators=(',', ':')) }}",
    "{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ {'b': 1, 'a': 2} | tojson }}",
    "{{ 'é' | tojson(ensure_ascii=true) }} {{ 'é' | tojson(true, 2) }}",
    "{% if tools is not none %}T{{ tools | length }}{% else %}N{% endif %}{{ tools is defined }}",
    "{% if documents is not none %}D{{ documents | length }}{% else %}N{% endif %}{{ documents is defined }}",
    "{% if tools %}T{% endif %}{{ enable_thinking is defined }}{{ add_generation_prompt }}",
    "{{ dict(a=1).a }}{% set n = namespace(b=2) %}{% set n.b = n.b + 1 %}{{ n.b }}",
]


@pytest.mark.oracle
@pytest.mark.parametrize("template", LIKE_TRANSFORMERS)
def test_what_a_template_may_ask_for_is_what_transformers_gives(
    renderer: TemplateRenderer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, template: str
) -> None:
    """The time, the arguments of `tojson`, and None for tools and documents."""
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import chat_template_utils

    class Frozen(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Frozen":
            return cls.fromtimestamp(NOW, tz)

    monkeypatch.setattr(chat_template_utils, "datetime", Frozen)
    save_byte_tokenizer(tmp_path, template=template)
    theirs: Any = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "hé <b> & 'q' \u2028"}]
    expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert renderer.render(template, messages, {}) == expected


def test_the_time_is_that_of_each_request() -> None:
    """Also of a template that is compiled already."""
    times = iter([0, 86_400 * 365])
    renderer = TemplateRenderer(lambda: next(times) + 43_200)
    try:
        template = "{{ strftime_now('%Y') }}"
        assert [renderer.render(template, MESSAGES, {}) for _ in range(2)] == ["1970", "1971"]
    finally:
        renderer.close()


def test_the_plain_template_asks_as_a_dialogue(renderer: TemplateRenderer) -> None:
    """For checkpoints without a template of their own."""
    messages = [{"role": "system", "content": "Be brief."}, *MESSAGES]
    assert renderer.render(plain_template, messages, {"bos_token": "<s>"}) == (
        "<s>System: Be brief.\n\nUser: hello\n\nAssistant:"
    )
    assert renderer.render(plain_template, MESSAGES, {}) == "User: hello\n\nAssistant:"
