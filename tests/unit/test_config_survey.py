"""`blyan config`: where each setting comes from, every mistake at once, and variables that nobody reads."""

import dataclasses
import logging
import re
from pathlib import Path

import pytest

from blyan.node.config import read_config, sections, unread_variables
from blyan.node.config_survey import shown, survey, survey_file
from blyan.primitives.errors import InvalidInput, NotFound

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, text: str) -> Path:
    (folder / "node.toml").write_text(text)
    return folder


def test_each_setting_says_where_it_comes_from(tmp_path: Path) -> None:
    """Default, line of the file, variable, flag; the environment wins over the file."""
    write(tmp_path, '[http]\nlisten = "127.0.0.1:1"\n\n[compute]\nthreads = 3\n')
    found = survey(tmp_path, {"BLYAN_COMPUTE__THREADS": "2"})
    origins = {each.key: (each.value, each.origin) for each in found.settings}
    assert origins["http.listen"] == ("127.0.0.1:1", f"{tmp_path}/node.toml:2")
    assert origins["compute.threads"] == (2, "BLYAN_COMPUTE__THREADS")
    assert origins["storage.bytes_max"] == (0, "default")
    assert origins["data_dir"] == (str(tmp_path), "flag")
    assert survey(tmp_path, {"BLYAN_DATA_DIR": str(tmp_path)}).settings[0].origin == "BLYAN_DATA_DIR"


def test_a_survey_names_every_setting_once(tmp_path: Path) -> None:
    """None is left out, so that what is shown is all that holds."""
    expected = ["data_dir"] + [
        f"{section}.{each.name}" for section, kind in sections().items() for each in dataclasses.fields(kind)
    ]
    assert expected == [each.key for each in survey(tmp_path, {}).settings]


def test_all_mistakes_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    """Unknown keys and sections with what was meant, kinds, ranges, addresses; in the order of the file."""
    write(
        tmp_path,
        '[http]\nlisten = "0.0.0.0:1"\nlisen = "x"\n[compute]\nthreads = 99999\n[htp]\na = 1\n'
        "[storage]\n# here\nbytes_max = 'x'\n",
    )
    found = survey(tmp_path, {"BLYAN_STORAGE__VERIFY_AT_START": "maybe", "BLYAN_HTTP_LISTEN": "x", "BLYAN_X__Y": "1"})
    told = [(each.where.rpartition("/")[2], each.message) for each in found.mistakes]
    assert [where for where, _ in told] == [
        *(f"node.toml:{line}" for line in (2, 3, 5, 6, 10)),
        "BLYAN_STORAGE__VERIFY_AT_START",
        "BLYAN_X__Y",
        "environment",
    ]
    words = ["loopback", "did you mean 'listen'", "0 to 1024", "did you mean 'http'", "expected int", "expected bool"]
    for word, (_, message) in zip(words, told, strict=False):
        assert word in message
    assert told[-1][1] == "expected BLYAN_HTTP__LISTEN, found BLYAN_HTTP_LISTEN"


def test_a_value_that_an_outer_one_hides_keeps_its_own_mistake(tmp_path: Path) -> None:
    """A variable that is refused does not take the blame for the line of the file."""
    write(tmp_path, "[compute]\nthreads = 99999\n")
    found = survey(tmp_path, {"BLYAN_COMPUTE__THREADS": "two"})
    assert {each.where.rpartition("/")[2] for each in found.mistakes} == {"node.toml:2", "BLYAN_COMPUTE__THREADS"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\nhttp.lisen = 'x'\n", 2),
        ("http = { lisen = 'x' }\n", 1),
        ("['http']\n\n'lisen' = 3\n", 3),
        ("[http]\n[http.lisen]\nx = 1\n", 2),
        ("[http\n", 1),
        ("a = \n", 1),
    ],
)
def test_lines_are_found_in_every_way_to_write_a_table(tmp_path: Path, text: str, line: int) -> None:
    """Dotted, inline, quoted, nested, and where it is no TOML at all."""
    (mistake,) = survey_file(write(tmp_path, text) / "node.toml").mistakes
    assert mistake.where.rpartition("/")[2] == f"node.toml:{line}"


def test_a_passphrase_file_that_others_read_is_a_mistake(tmp_path: Path) -> None:
    """What a setting points to is looked at too; its content is shown nowhere."""
    (tmp_path / "secret").write_text("hunter2")
    (tmp_path / "secret").chmod(0o644)
    write(tmp_path, f'[keys]\npassphrase_file = "{tmp_path}/secret"\n')
    found = survey(tmp_path, {})
    assert "nobody else read it" in found.mistakes[0].message
    assert "hunter2" not in str(found)


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    """Asked for by name, it must exist; the data directory's own may be absent."""
    with pytest.raises(NotFound):
        survey_file(tmp_path / "none.toml")
    assert survey(tmp_path, {}).mistakes == ()


@pytest.mark.parametrize(
    ("key", "value", "printed"),
    [
        ("password", "hunter2", "(redacted)"),
        ("stripe_key", "sk_live_1", "(redacted)"),
        ("passphrase_file", "/etc/phrase", "/etc/phrase"),
        ("url", "postgres://me:hunter2@db/x", "postgres://(redacted)@db/x"),
        ("urls", ("redis://:p@r",), ("redis://(redacted)@r",)),
        (
            "database",
            "postgresql://me:a@b@db/x?sslpassword=p&host=/s",
            "postgresql://(redacted)@db/x?sslpassword=(redacted)&host=/s",
        ),
        (
            "rpc_urls",
            ("1=https://me:p@eth.org/v3/abc?k=1", "5=https://free.org"),
            ("1=https://(redacted)@eth.org/(redacted)", "5=https://free.org"),
        ),
        ("token", "", ""),
        ("threads", 3, 3),
    ],
)
def test_secrets_are_not_shown(key: str, value: object, printed: object) -> None:
    """By the name of the key, and inside URLs."""
    assert shown(key, value) == printed


def test_a_variable_with_one_underscore_is_refused(tmp_path: Path) -> None:
    """Silently ignored, a node would listen where nobody wants it."""
    with pytest.raises(InvalidInput, match=r"expected BLYAN_HTTP__LISTEN, found BLYAN_HTTP_LISTEN"):
        read_config(tmp_path, {}, {"BLYAN_HTTP_LISTEN": "127.0.0.1:1"})


def test_a_variable_that_nobody_reads_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With what was meant where that is near; those of Kubernetes, of scripts and of others are left alone."""
    with caplog.at_level(logging.WARNING):
        read_config(tmp_path, {}, {"BLYAN_DATA_DIRR": "x", "BLYAN_WHEELS": "y", "HOME": "z"})
    assert caplog.messages == ["environment: BLYAN_DATA_DIRR is read by nobody (did you mean 'BLYAN_DATA_DIR'?)"]
    kubernetes = ["PORT", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_8645_TCP", "PORT_8645_TCP_ADDR"]
    assert unread_variables({f"BLYAN_{name}": "x" for name in kubernetes}) == []


def test_the_defaults_in_the_document_are_those_of_the_code() -> None:
    """Key, default; tests/test_tidy.py holds the names."""
    table = dict(re.findall(r"^\| `([\w.]+)` \| ([^|]+?) \|", (ROOT / "docs/configuration.md").read_text(), re.M))
    for section, kind in sections().items():
        made = kind()
        for each in dataclasses.fields(kind):
            value = getattr(made, each.name)
            value = ",".join(value) if isinstance(value, tuple) else value
            text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value or "none")
            text = "0" if type(value) is int and value == 0 else text
            assert table[f"{section}.{each.name}"].strip('`"') == text, f"{section}.{each.name}"
