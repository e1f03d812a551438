"""What every command keeps: exit codes, --json on all that reads, help, documents, and a quick start."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blyan.cli.completion import commands
from blyan.cli.parser import build, leaf_of
from blyan.ledger.sqlite_store import SqliteStore
from blyan.node.data_directory import lock
from blyan.node.wallet_file import write_wallet
from fakes import SlowNode
from ledgers import now, with_accounts
from nodes import command, command_apart, install_builtin, running, writing

ROOT = Path(__file__).resolve().parents[2]

# What reads, with arguments that make it answer here.
READS = {
    "model list": [],
    "model show": ["blyan-genesis"],
    "model plan": ["blyan-genesis"],
    "model verify": ["--all"],
    "doctor": [],
    "config show": ["--origin"],
    "config check": [],
    "blob list": [],
    "blob verify": ["--all"],
    "blob usage": [],
    "blob sweep": ["--dry-run"],
    "chain status": [],
    "chain verify": [],
    "chain prove": ["meta", "0"],
    "chain find": ["--model", "blyan-genesis"],
    "db check": [],
    "keys show": [],
    "price show": [],
    "ledger show": [],
    "ledger verify": [],
    "receipt show": ["receipt.json"],
    "receipt verify": ["receipt.json"],
    "wallet show": ["--file", "wallet.json"],
    "account balance": ["a"],
    "account statement": ["a"],
}
# What reads from a running node.
ASKS = {"chat": ["12 + 34"], "node status": [], "node peers": [], "node moves": []}
# What makes, changes or serves something, or prints a script or lines of JSON. Some of them know --json too.
WRITES = frozenset(
    "up,init,serve,model import,model export,model copy,model remove,model create,model pull,blob pin,blob unpin,"
    "chain snapshot,chain export,chain import,db rebuild,db backup,db restore,db migrate,keys encrypt,keys decrypt,"
    "keys rotate,price set,ledger export,account credit,account reverse,completion,wallet new,wallet import,"
    "node invite,node drain".split(",")
)
LEAVES = [each.path for each in commands(build()) if not each.verbs]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contract") / "data"
    install_builtin(folder)
    with writing(folder):
        books = SqliteStore(folder / "ledger.db", create=True)
        books.migrate(now)
        with_accounts(books, "a")
        books.close()
    (folder.parent / "receipt.json").write_text(json.loads((ROOT / "tests/vectors/receipt.json").read_text())["file"])
    write_wallet(folder.parent / "wallet.json", (1).to_bytes(32, "big"), "words", work=2)
    return folder


def given(data: Path, path: str) -> list[str]:
    """The arguments of what reads; files lie beside the data directory."""
    return [str(data.parent / each) if each.endswith(".json") else each for each in READS[path]]


def test_every_command_is_known_to_read_or_to_write() -> None:
    """A new one that reads joins the test below."""
    assert set(LEAVES) <= {*READS, *ASKS, *WRITES}


@pytest.mark.parametrize("path", sorted(READS))
def test_what_reads_speaks_json(data: Path, path: str) -> None:
    """One JSON value on stdout, nothing beside it, and the same exit code as without."""
    done = command_apart(*path.split(), *given(data, path), "--json", data_dir=data)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) is not None
    assert done.stdout.count("\n") == 1


@pytest.mark.slow
def test_what_asks_a_running_node_speaks_json(tmp_path: Path) -> None:
    """Its state, and an answer."""
    with running(tmp_path / "data", apart=True) as node:
        status = json.loads(command_apart("node", "status", "--json", data_dir=node.data_dir).stdout)
        assert (status["ready"], status["pid"], status["url"]) == (True, node.pid, node.url)
        assert status["models"] == [{"name": "blyan-genesis", "state": "ready"}]
        assert "blyan-genesis" in command_apart("node", "status", "--node", node.url).stdout
        alone = command_apart("node", "peers", "--json", data_dir=node.data_dir)  # this node has no peer port
        assert (alone.returncode, json.loads(alone.stdout)["error"]["code"]) == (3, "not_found")
        done = command_apart("chat", "12 + 34", "--temperature", "0", "--json", data_dir=node.data_dir)
        answer = json.loads(done.stdout)
        assert (answer["content"], answer["finish_reason"]) == ("12 + 34 = 46", "stop")
        assert answer["usage"]["completion_tokens"] > 2
        assert node.stop() == 0  # Ctrl-C is how a node is told to stop


def broken_config(tmp_path: Path) -> list[str | Path]:
    (tmp_path / "node.toml").write_text("[htp]\n")
    return ["config", "check", tmp_path / "node.toml"]


def damaged_chain(tmp_path: Path) -> list[str | Path]:
    install_builtin(tmp_path / "d")
    (bundle,) = (tmp_path / "d/chain/parameter/tile/entries").rglob("*.p/*")
    raw = bytearray(bundle.read_bytes())
    raw[50] ^= 1
    bundle.write_bytes(raw)
    return ["chain", "verify", "--data-dir", tmp_path / "d"]


CODES: list[tuple[int, str, Callable[[Path], list[str | Path]]]] = [
    (0, "", lambda _: ["config", "check"]),
    (1, "did you mean 'http'", broken_config),
    (2, "did you mean 'model'", lambda _: ["modle"]),
    (3, "did you mean 'blyan-genesis'", lambda _: ["model", "show", "blyan-gensis"]),
    (4, "expected a loopback address", lambda _: ["up", "--listen", "0.0.0.0:1"]),
    (6, "expected a list of models", lambda _: ["chat", "hi", "--node", "http://127.0.0.1:1"]),
    (6, "expected one that runs", lambda _: ["node", "status"]),
    (6, "expected one that runs", lambda _: ["node", "drain"]),
    (3, "network.listen", lambda _: ["node", "invite"]),
    (7, "chain/parameter", damaged_chain),
]


@pytest.mark.parametrize(("code", "words", "arguments"), CODES)
def test_every_exit_code_has_a_command_that_ends_with_it(
    data: Path, tmp_path: Path, code: int, words: str, arguments: Callable[[Path], list[str | Path]]
) -> None:
    """Those of the documented list that one process alone can reach; a traceback is none of them."""
    given = arguments(tmp_path)
    done = command(*given, data_dir=None if "--data-dir" in given else data)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_documented_exit_codes_are_those_that_tests_provoke() -> None:
    """Those that need somebody else have tests of their own below."""
    (listed,) = re.findall(
        r"^Exit codes: (.*?130 [a-z]+)", (ROOT / "docs/cli.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert [int(code) for code in re.findall(r"(\d+) [a-z]", listed)] == sorted(
        {code for code, _, _ in CODES} | {5, 75, 130}
    )


def test_what_nobody_can_pay_exits_5() -> None:
    """As the node says it."""
    with SlowNode([]) as node:
        node.refusal = (402, "insufficient_funds")
        done = command("chat", "hi", "--node", node.url)
    assert (done.returncode, "refused: insufficient_funds" in done.stderr) == (5, True)


def test_a_data_directory_in_use_exits_75(data: Path) -> None:
    """It names who has it."""
    with lock(data):
        done = command("blob", "unpin", "0" * 64, data_dir=data)
    assert (done.returncode, str(os.getpid()) in done.stderr) == (75, True)


def test_an_interrupted_command_exits_130() -> None:
    """By SIGINT, without a traceback."""
    with SlowNode(["begun"]) as slow:
        process = subprocess.Popen(
            [sys.executable, "-m", "blyan", "chat", "hi", "--node", slow.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.read(5) == b"begun"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (130, b"")


@pytest.mark.parametrize(
    ("arguments", "guess"),
    [
        (["modle", "list"], "model"),
        (["model", "lst"], "list"),
        (["model", "list", "--jsno"], "--json"),
        (["chat", "hi", "--modell=x"], "--model"),
        (["chain", "prove", "metta", "0"], "meta"),
        (["model", "import", "x", "--quantize", "int9"], "int8"),
    ],
)
def test_a_word_that_is_none_is_answered_with_the_nearest(arguments: list[str], guess: str) -> None:
    """Commands, options and values; usage of the command that was meant, exit 2."""
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"(did you mean '{guess}'?)" in done.stderr
    assert "--help` says more" in done.stderr


def test_a_beginning_of_an_option_is_not_taken_for_it() -> None:
    """It would be another one's once that begins alike."""
    assert command("chat", "hi", "--mod", "x").returncode == 2


@pytest.mark.parametrize("path", ["", *LEAVES])
def test_every_command_says_what_it_does(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every option and argument that has a name to explain has a help text, and --help prints them."""
    parser = build()
    for word in path.split():
        parser = parser.verbs()[word]
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for option in parser.options():
        assert option in printed
    options = [action for action in parser.everything() if action.option_strings]
    unexplained = [action.option_strings[0] for action in options if not action.help]
    assert set(unexplained) <= {"--chain", "--model", "--layer", "--expert", "--author", "--limit"}


@pytest.mark.parametrize("path", LEAVES)
def test_every_command_stands_in_the_document(path: str) -> None:
    """In a row of docs/cli.md that names its group."""
    *group, verb = path.split()
    rows = [line for line in (ROOT / "docs/cli.md").read_text().splitlines() if line.startswith("| `blyan ")]
    assert any(f"blyan {' '.join(group)}" in row and verb in row.replace("\\|", " ").replace("`", " ") for row in rows)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["completion", "bash"], ["config", "show"]])
def test_what_needs_no_model_starts_without_torch(arguments: list[str], tmp_path: Path) -> None:
    """Importing either takes longer than everything else they do."""
    done = _frugal(arguments, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def _frugal(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command in `folder`; its code is 1 and says so on stderr if it loaded what takes long."""
    script = (
        "import sys\nfrom blyan.cli.main import main\n"
        "try:\n    code = main(sys.argv[1:])\nexcept SystemExit as ended:\n    code = ended.code\n"
        "loaded = {'torch', 'aiohttp', 'prompt_toolkit', 'transformers'} & sys.modules.keys()\n"
        "sys.exit(code or ', '.join(loaded) or 0)"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=folder, check=False
    )


def test_what_changes_no_weights_does_without_torch(tmp_path: Path) -> None:
    """A folder that is new; a price; a copy of a model; its end."""
    for line in ("init", "price set blyan-genesis --prompt 1 --completion 2", "model copy blyan-genesis mine"):
        assert _frugal(line.split(), tmp_path).returncode == 0
    assert _frugal("model remove mine --yes".split(), tmp_path).returncode == 0


@pytest.mark.parametrize("line", ["--help model", "-h chat", "--data-dir=q --help up", "--help --version", "--help"])
def test_help_and_mistakes_before_a_command_list_all_of_them(line: str) -> None:
    """Whatever comes after."""
    printed = command(*line.split()).stdout
    assert all(f"    {word} " in printed for word in ("up", "init", "model", "wallet", "completion"))
    assert "'chain', 'db', 'ledger'" in command("-1", "model", "list").stderr


@pytest.mark.parametrize("path", [path for path in LEAVES if path not in ("up", "init")])
def test_a_command_parsed_alone_is_that_of_the_whole_tree(path: str) -> None:
    """Other groups are not even imported; `up` and `init` are one module."""
    words = path.split()
    alone = build((f"blyan.cli.{words[0]}",))
    assert list(alone.verbs()) == words[:1]
    leaves = [leaf_of(parser, words) for parser in (alone, build())]
    assert leaves[0].options() == leaves[1].options()
    assert leaves[0].format_help() == leaves[1].format_help()


def test_the_version_is_that_of_the_package() -> None:
    """On stdout, as data."""
    import blyan

    assert command("--version").stdout == f"blyan {blyan.__version__}\n"


def listing(folder: Path) -> dict[str, Any]:
    """Every file with its time and size."""
    return {str(each): (each.stat().st_mtime_ns, each.stat().st_size) for each in sorted(folder.rglob("*"))}


@pytest.mark.slow
def test_what_reads_changes_nothing(data: Path) -> None:
    """Not a byte and not a time; `model verify` alone notes when it found everything whole."""
    before = listing(data)
    for path in ("doctor", "config show", "config check", "model show", "chain status", "blob usage"):
        command(*path.split(), *given(data, path), data_dir=data)
    assert listing(data) == before


@pytest.mark.parametrize("arguments", ["chain find abc", "blob verify abc", "blob pin zz", "chain find --author zz"])
def test_an_id_that_is_none_is_a_mistake_of_usage(data: Path, arguments: str) -> None:
    """In words, and as JSON where that was asked for."""
    done = command(*arguments.split(), data_dir=data)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "expected 64" in done.stderr
    assert json.loads(command(*arguments.split(), "--json", data_dir=data).stdout)["error"]["message"]
