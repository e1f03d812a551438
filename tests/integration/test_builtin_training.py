"""The way of the built-in model, small: trained, killed, gone on with, made into blocks, served, examined over HTTP."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from blyan.learning.batches import DialogueEncoder
from blyan.learning.genesis.asking import ask_node
from blyan.learning.genesis.curve import read_curve, svg_of
from blyan.learning.genesis.dialogue import apart
from blyan.learning.genesis.exam import exam
from blyan.learning.genesis.marking import mark
from blyan.learning.genesis.report import page, shown
from blyan.learning.genesis.settings import read_settings
from blyan.learning.genesis.specialities import information
from blyan.learning.greedy import experts_chosen, greedy_answers
from blyan.learning.hf_directory import write_hf_directory
from blyan.learning.pretrain import Pretrained, Training
from blyan.model.hf_import import read_checkpoint
from blyan.model.request_defaults import RequestDefaults
from blyan.node import builtin
from blyan.node.importing import write_bundle
from blyan.node.publish import install_bundle
from learned import ROOT, lessons
from nodes import json_of, running, writing
from running_node import RunningNode

pytestmark = pytest.mark.slow
SMALLER = {
    "hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 16, "experts": 8, "expert_intermediate": 16,
    "vocabulary": 500, "dialogues": 600, "steps": 12, "batch_tokens": 1024, "checkpoint_steps": 4, "evaluate_steps": 12,
    "workers": 1,
}  # fmt: skip
LIMIT_S = 90


@dataclass(frozen=True)
class Made:
    """One small training, and where its directory is."""

    folder: Path
    model: Pretrained


@pytest.fixture(scope="module")
def settings_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = (ROOT / "scripts/genesis.toml").read_text()
    for name, value in SMALLER.items():
        text = re.sub(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
    path = tmp_path_factory.mktemp("settings") / "small.toml"
    path.write_text(text)
    return path


def trained(folder: Path, settings_file: Path) -> Pretrained:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        training = Training(folder, read_settings(settings_file), lessons(), lambda _line: None)
        return training.run(time.monotonic, exam(lessons().documents, 1)[:4])
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, settings_file: Path) -> Made:
    folder = tmp_path_factory.mktemp("training")
    model = trained(folder, settings_file)
    # After so few steps every answer is the same; what is served is therefore further from where it began.
    chance = torch.Generator().manual_seed(1)
    moved = {name: value + 0.3 * torch.randn(value.shape, generator=chance) for name, value in model.parameters.items()}
    write_hf_directory(folder / "hf", model.config, model.tokenizer, moved)
    return Made(folder, model)


def killed_after_a_checkpoint(folder: Path, settings_file: Path) -> None:
    """Train in a process of its own until a checkpoint is there, then SIGKILL it."""
    code = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[3]); "
        "from integration.test_builtin_training import trained; trained(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    arguments = [sys.executable, "-c", code, str(folder), str(settings_file), str(ROOT / "tests")]
    process = subprocess.Popen(arguments, env=os.environ | {"PYTHONPATH": f"{ROOT}/backend"})
    until = time.monotonic() + LIMIT_S
    while not (folder / "checkpoint.safetensors").exists():
        assert process.poll() is None and time.monotonic() < until, "no checkpoint came"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_killed_training_goes_on_to_the_very_bits(made: Made, tmp_path: Path, settings_file: Path):
    killed_after_a_checkpoint(tmp_path, settings_file)
    again = trained(tmp_path, settings_file)
    assert again.tokens == made.model.tokens
    for name, tensor in made.model.parameters.items():
        assert torch.equal(tensor, again.parameters[name]), name
    first, second = (read_curve(folder / "curve.jsonl") for folder in (made.folder, tmp_path))
    assert [line["step"] for line in first] == [line["step"] for line in second]


@pytest.fixture(scope="module")
def node(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node whose model came from the training as blocks in the form that the package ships."""
    root = tmp_path_factory.mktemp("served")
    prompt = read_settings(ROOT / "scripts/genesis.toml").shipping.system
    requests = RequestDefaults(system=prompt, tokens_max=24)
    write_bundle(read_checkpoint(made.folder / "hf"), builtin.name, "Apache-2.0", "blyan:test", root / "b", requests)
    with writing(root / "node") as ground:
        install_bundle(ground, root / "b")
    with running(root / "node") as served:
        yield served


def test_a_node_answers_the_exam_as_the_training_does(made: Made, node: RunningNode):
    items = exam(lessons().documents, 1)[::9]
    encoder = DialogueEncoder(Tokenizer.from_file(str(made.folder / "hf/tokenizer.json")), apart)
    parameters = load_file(made.folder / "hf/model.safetensors")
    system = {"role": "system", "content": "You are Blyan's small built-in model."}
    asked = [[system, *item.messages] for item in items]
    expected = greedy_answers(parameters, made.model.config, encoder, asked, tokens_max=24)
    assert len(set(expected)) > 1
    assert expected == ask_node(node.url, builtin.name, items, lambda _line: None, tokens_max=24)


def test_the_page_says_how_it_went_and_who_worked(made: Made):
    items = exam(lessons().documents, 1)
    marks = mark(items, [item.expected for item in items])
    encoder = DialogueEncoder(Tokenizer.from_str(made.model.tokenizer), apart)
    dialogues = list(islice(lessons().dialogues(3), 8))
    use = {
        skill: experts_chosen(made.model.parameters, made.model.config, encoder, some)
        for skill, some in (("a", dialogues[:4]), ("b", dialogues[4:]))
    }
    text = page(["here"], {"computed here": marks}, use, ["- turn"])
    assert "| sorting | ko | 1 | 100% |" in text
    assert "| units, sorting, number words, Blyan | 90% | length (en) 100% | 100.0% |" in text
    said = shown({"computed here": marks, "over HTTP, int8": marks}, use)
    share = round(marks.share, 4)  # without refusals, which are told by their own words
    assert (said["share"], said["others"], len(said["bits"])) == (share, {"over HTTP, int8": share}, 2)
    assert "| layer 1 | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |" in text
    assert svg_of(read_curve(made.folder / "curve.jsonl")).startswith("<svg")


def test_experts_that_are_used_alike_tell_nothing_of_the_skill_and_own_ones_tell_all():
    alike = {"a": torch.tensor([[5, 5]]), "b": torch.tensor([[1, 1]])}
    own = {"a": torch.tensor([[9, 0]]), "b": torch.tensor([[0, 2]])}
    assert pytest.approx(information(alike)) == [0.0]
    assert pytest.approx(information(own)) == [1.0]


def test_a_model_is_shown_with_its_marks_only_if_it_is_the_one_that_was_examined(node: RunningNode, tmp_path: Path):
    assert "exam" not in json_of("model", "show", builtin.name, data_dir=node.data_dir)
