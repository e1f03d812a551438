"""The repository obeys the rules of the house, and every rule is seen to fail on a snippet that breaks it."""

import json
import re
import tomllib
from pathlib import Path, PurePosixPath

import pytest

import tidy_documents
import tidy_rules
from tidy_rules import Source

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = tidy_rules.read_sources(ROOT, ["backend/blyan"])
SCRIPTS = tidy_rules.read_sources(ROOT, ["scripts"])
TESTS = tidy_rules.read_sources(ROOT, ["tests"])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# pyright checks these in its standard mode: torch's own annotations are too loose for strict.
TENSOR_CODE = ("model/", "learning/", "storage/tensor_block.py")


# Formats that are frozen, specified and tested before their first speaker; each line goes when that one comes.
FROZEN_BEFORE_USE: dict[str, str] = {}


def source(text: str, inner: str = "chain/log.py") -> Source:
    return Source(tidy_rules.PACKAGE / inner, text)


def read(path: str) -> str:
    """The text of a repository file; empty where it is absent, so that the rule says what is missing."""
    return (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).exists() else ""


def assert_tidy(complaints: list[str]) -> None:
    assert not complaints, "\n" + "\n".join(complaints)


# The repository


def test_no_size_grows_and_the_ratchet_only_shrinks() -> None:
    recorded = json.loads(read("tests/ratchet.json"))
    assert_tidy(tidy_rules.ratchet(tidy_rules.oversize(PACKAGE + SCRIPTS + TESTS), recorded))


@pytest.mark.parametrize(
    "rule",
    [
        tidy_rules.banned_names,
        tidy_rules.broad_excepts,
        tidy_rules.missing_docstrings,
        tidy_rules.impurities,
        tidy_rules.forbidden_imports,
    ],
)
def test_the_package_obeys(rule) -> None:
    assert_tidy(rule(PACKAGE))


def test_nothing_anywhere_executes_bytes() -> None:
    assert_tidy(tidy_rules.executed_bytes(PACKAGE + SCRIPTS + TESTS))


def test_every_module_is_reached_from_an_entry_point() -> None:
    entries = [target.partition(":")[0] for target in PROJECT["project"]["scripts"].values()]
    workers = ["blyan.chain.signature_worker"]  # started with `python -m`
    references = ["blyan.model.generate"]  # the plain loop that tests hold every faster one to
    known = [*entries, "blyan.__main__", *workers, *references, *FROZEN_BEFORE_USE]
    assert_tidy(tidy_rules.dead_modules(PACKAGE + SCRIPTS, known))


def test_a_format_frozen_before_its_use_is_used_nowhere() -> None:
    """Else it needs no exception any more."""
    for module in FROZEN_BEFORE_USE:
        speakers = [str(each.path) for each in PACKAGE if module in each.text and each.module != module]
        assert speakers == [], f"{module} has a speaker: take it out of FROZEN_BEFORE_USE"


def test_pyright_is_strict_about_everything_but_tensor_code() -> None:
    strict = [PurePosixPath(each) for each in PROJECT["tool"]["pyright"]["strict"]]

    def covered(path: PurePosixPath) -> bool:
        return any(
            path.is_relative_to(each) or (path.parent == each.parent and path.match(each.name)) for each in strict
        )

    loose = [str(each.path) for each in PACKAGE if not covered(each.path) and not each.inner.startswith(TENSOR_CODE)]
    assert loose == [], "add them to [tool.pyright] strict in pyproject.toml"


def test_no_path_in_a_document_is_dead() -> None:
    documents = [
        *ROOT.glob("*.md"),
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "migrations").rglob("*.md")),
    ]
    assert_tidy([line for document in documents for line in tidy_documents.dead_paths(ROOT, document)])


def test_every_error_code_stands_in_the_document_and_the_other_way_round() -> None:
    written = tidy_documents.documented(read("docs/errors.md"))
    found = tidy_documents.error_codes(PACKAGE)
    assert_tidy(tidy_documents.differences(found, written, "the error code", "docs/errors.md"))


def test_every_configuration_key_stands_in_the_document_and_the_other_way_round() -> None:
    written = tidy_documents.documented(read("docs/configuration.md"))
    parts = ("config", "compute_config", "http_config", "accounts_config", "ledger_config", "network_config")
    found = tidy_documents.configuration_keys(
        *(source(read(f"backend/blyan/node/{part}.py"), f"node/{part}.py") for part in parts)
    )
    assert_tidy(tidy_documents.differences(found, written, "the key", "docs/configuration.md"))


def test_every_metric_stands_in_the_document_and_the_other_way_round() -> None:
    written = tidy_documents.documented(read("docs/metrics.md"))
    assert_tidy(tidy_documents.differences(tidy_documents.metrics(PACKAGE), written, "the metric", "docs/metrics.md"))


# The rules themselves


def test_a_long_function_class_and_module_are_noticed() -> None:
    body = "    x = 1\n"
    text = "def f():\n" + body * 70 + "class C:\n" + body * 200 + "\n" * 130
    assert tidy_rules.oversize([source(text)]) == {
        "backend/blyan/chain/log.py": 402,
        "backend/blyan/chain/log.py::f": 71,
        "backend/blyan/chain/log.py::C": 201,
    }


def test_a_function_of_seventy_lines_is_not_long() -> None:
    assert tidy_rules.oversize([source("def f():\n" + "    x = 1\n" * 69)]) == {}


@pytest.mark.parametrize(
    ("actual", "recorded", "said"),
    [
        ({"a::f": 80}, {}, "split it"),
        ({"a::f": 80}, {"a::f": 79}, "grew from 79 to 80"),
        ({"a::f": 80}, {"a::f": 81}, "write 80"),
        ({}, {"a::f": 80}, "remove its line"),
    ],
)
def test_the_ratchet_turns_one_way(actual: dict[str, int], recorded: dict[str, int], said: str) -> None:
    [complaint] = tidy_rules.ratchet(actual, recorded)
    assert said in complaint


def test_a_recorded_size_that_stays_is_accepted() -> None:
    assert tidy_rules.ratchet({"a::f": 80}, {"a::f": 80}) == []


@pytest.mark.parametrize("inner", ["chain/utils.py", "chain/http_helpers.py", "core/log.py", "common.py"])
def test_a_module_named_after_nothing_is_noticed(inner: str) -> None:
    assert len(tidy_rules.banned_names([source("", inner)])) == 1


def test_a_class_named_manager_is_noticed() -> None:
    assert len(tidy_rules.banned_names([source("class BlockManager:\n    pass\n")])) == 1
    assert tidy_rules.banned_names([source("class CoreferenceTable:\n    pass\n")]) == []


@pytest.mark.parametrize("caught", ["", " Exception", " BaseException", " (OSError, Exception)"])
def test_a_broad_except_without_a_reason_is_noticed(caught: str) -> None:
    text = f"try:\n    pass\nexcept{caught}:  # noqa: BLE001\n    pass\n"
    assert len(tidy_rules.broad_excepts([source(text)])) == 1


def test_a_broad_except_with_a_reason_is_accepted_ten_times() -> None:
    text = "try:\n    pass\nexcept Exception:  # noqa: BLE001 - the request boundary answers 500\n    pass\n"
    assert tidy_rules.broad_excepts([source(text * 10)]) == []
    assert "10 at most" in tidy_rules.broad_excepts([source(text * 11)])[0]


def test_a_broad_except_that_cleans_up_and_raises_again_is_accepted() -> None:
    assert tidy_rules.broad_excepts([source("try:\n    pass\nexcept BaseException:\n    pass\n    raise\n")]) == []


def test_a_public_name_without_a_docstring_is_noticed() -> None:
    assert len(tidy_rules.missing_docstrings([source("def f(): ...\nclass C: ...\n")])) == 3
    assert tidy_rules.missing_docstrings([source('"""M."""\ndef _f(): ...\n')]) == []


@pytest.mark.parametrize(
    "text",
    [
        "import time",
        "from time import monotonic",
        "import random",
        "from secrets import token_bytes",
        "from uuid import uuid4",
        "import os\nos.environ['A']",
        "from os import environ",
        "import os\nos.urandom(4)",
        "import datetime\ndatetime.datetime.now()",
        "from datetime import datetime\ndatetime.now()",
        "import numpy as np\nnp.random.rand()",
        "import torch\ntorch.randn(3)",
        "p.multinomial(1)",
    ],
)
def test_reading_clock_chance_or_environment_below_node_is_noticed(text: str) -> None:
    assert tidy_rules.impurities([source(text)])
    assert tidy_rules.impurities([source(text, "node/config.py"), source(text, "primitives/clock.py")]) == []


def test_a_seeded_draw_is_accepted() -> None:
    assert tidy_rules.impurities([source("import torch\ntorch.randn(3, generator=g)")]) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from marshal import loads",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "eval('1')",
        "exec('1')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
    ],
)
def test_bytes_that_become_code_are_noticed(text: str) -> None:
    assert len(tidy_rules.executed_bytes([source(text)])) == 1


def test_eval_mode_of_a_module_is_not_eval() -> None:
    assert tidy_rules.executed_bytes([source("model.eval()")]) == []


@pytest.mark.parametrize(
    ("inner", "text"),
    [
        ("ledger/store.py", "import aiohttp"),
        ("governance/tally.py", "import torch.nn"),
        ("storage/tile.py", "import torch"),
        ("validation/verdict.py", "from blyan.network import client"),
        ("model/gate.py", "from aiohttp import web"),
        ("payments/bly.py", "import web3"),
        ("cli/model.py", "from transformers import AutoModel"),
    ],
)
def test_an_import_against_the_contracts_is_noticed(inner: str, text: str) -> None:
    assert len(tidy_rules.forbidden_imports([source(text, inner)])) == 1


def test_the_named_exceptions_to_the_contracts_are_accepted() -> None:
    allowed = [source("import torch", "storage/tensor_block.py"), source("import web3", "anchoring/contract.py")]
    assert tidy_rules.forbidden_imports(allowed) == []


def test_a_module_that_only_a_dead_module_imports_is_dead() -> None:
    sources = [
        source("from blyan.chain import log", "cli/main.py"),
        source("", "chain/__init__.py"),
        source("", "chain/log.py"),
        source("import blyan.chain.left", "chain/right.py"),
        source("import blyan.chain.right", "chain/left.py"),
    ]
    dead = tidy_rules.dead_modules(sources, ["blyan.cli.main"])
    assert [line.partition(":")[0] for line in dead] == ["backend/blyan/chain/left.py", "backend/blyan/chain/right.py"]


def test_a_script_and_a_lazy_name_keep_a_module_alive() -> None:
    sources = [
        source("GROUPS = ['blyan.cli.chat']", "cli/main.py"),
        source("", "cli/chat.py"),
        source("", "model/growth.py"),
        Source(PurePosixPath("scripts/grow.py"), "from blyan.model.growth import widen"),
    ]
    assert tidy_rules.dead_modules(sources, ["blyan.cli.main"]) == []


def test_dead_links_paths_and_commands_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "backend/blyan/chain").mkdir(parents=True)
    document = tmp_path / "docs/a.md"
    document.write_text(
        "[gone](b.md) [here](a.md#top) [web](https://example.org) `docs/b.md` `docs/*.md` `chain/gone.py`\n"
        "`application/json` `origin/next`\n```sh\nscripts/gone --fast\n```\n"
    )
    said = tidy_documents.dead_paths(tmp_path, document)
    assert [re.search(r"(to |`)([\w./]+)", line)[2] for line in said] == [  # type: ignore[index]
        "b.md",
        "docs/b.md",
        "chain/gone.py",
        "scripts/gone",
    ]


def test_error_codes_are_found_in_classes_and_calls() -> None:
    text = 'class A:\n    code: ClassVar[str] = "a"\nclass B:\n    code = "b"\nfault(code="c")\ncode = "none"\n'
    assert tidy_documents.error_codes([source(text)]) == {"a", "b", "c"}


def test_metrics_are_found_by_their_kinds() -> None:
    text = 'Counter("blyan_a_total", "")\nGaugeMetricFamily("blyan_b", "")\nprint("blyan_c")\nGauge(name, "")\n'
    assert tidy_documents.metrics([source(text)]) == {"blyan_a_total", "blyan_b"}


def test_configuration_keys_follow_the_dataclasses() -> None:
    text = (
        "@dataclass(frozen=True)\nclass Api:\n    listen: str = ''\n"
        "@dataclass(frozen=True)\nclass Config:\n    api: Api\n    name: str\n    LIMIT: ClassVar[int] = 1\n"
        "@dataclass\nclass Origin:\n    file: str\n"
    )
    assert tidy_documents.configuration_keys(source(text)) == {"api.listen", "name"}


def test_documented_names_are_first_cells_under_their_section() -> None:
    text = (
        "# Keys\n| key | why |\n|---|---|\n| `name` | x |\n## `[api]`\n| `listen` | `not_this` |\n| `api.port` | y |\n"
    )
    assert tidy_documents.documented(text) == {"name", "api.listen", "api.port"}


def test_differences_name_the_side_that_lacks_the_name() -> None:
    said = tidy_documents.differences({"a"}, {"b"}, "code", "docs/errors.md")
    assert said == [
        "code `a` is in the code and not in docs/errors.md",
        "code `b` is in docs/errors.md and not in the code",
    ]
