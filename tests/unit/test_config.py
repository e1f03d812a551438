"""Configuration: one frozen value, later origins win, mistakes are named."""

from pathlib import Path

import pytest

from blyan.node.config import read_config
from blyan.primitives.errors import Denied, InvalidInput


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    """node.toml < BLYAN_SECTION__KEY < flags, key by key."""
    (tmp_path / "node.toml").write_text(
        '[http]\nlisten = "127.0.0.1:1"\nallowed_hosts = ["a"]\n'
        "[compute]\nthreads = 1\n[storage]\nverify_at_start = false\n"
    )
    environment = {
        "BLYAN_HTTP__LISTEN": "127.0.0.1:2",
        "BLYAN_COMPUTE__THREADS": "2",
        "BLYAN_DATA_DIR": "x",
        "HOME": "y",
    }
    config = read_config(tmp_path, {"http": {"listen": "127.0.0.1:3"}}, environment)
    assert config.http.address == ("127.0.0.1", 3)
    assert config.http.allowed_hosts == ("a",)
    assert config.compute.threads == 2
    assert config.storage.verify_at_start is False


def test_without_anything_the_defaults_are_complete(tmp_path: Path) -> None:
    """An empty folder configures a node on loopback."""
    assert read_config(tmp_path, {}, {}).http.address == ("127.0.0.1", 8645)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[http]\nlisen = 'x'", "did you mean 'listen'"),
        ("[htp]\nlisten = 'x'", "did you mean 'http'"),
        ("[http]\nlisten = 5", r"http\.listen: expected str, found 5"),
        ("[compute]\nthreads = -1", "expected int, found -1"),
        ("[compute]\nthreads = 100000", "expected 0 to 1024, found 100000"),
        ("[compute]\nthreads = true", "expected int, found True"),
        ("[http", "expected TOML"),
        ("http = 3", "expected a section"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, toml: str, message: str) -> None:
    """Key, expectation and value, with a suggestion where one is close."""
    (tmp_path / "node.toml").write_text(toml)
    with pytest.raises(InvalidInput, match=message):
        read_config(tmp_path, {}, {})


def test_mistakes_in_the_environment_are_named(tmp_path: Path) -> None:
    """The origin is in the message."""
    with pytest.raises(InvalidInput, match=r"environment: compute\.threads: expected int, found 'two'"):
        read_config(tmp_path, {}, {"BLYAN_COMPUTE__THREADS": "two"})


@pytest.mark.parametrize("listen", ["0.0.0.0:8645", "192.168.1.5:80", "[::]:80", "example.org:80"])
def test_listening_beyond_loopback_is_denied(tmp_path: Path, listen: str) -> None:
    """Nothing authenticates callers yet, so nobody else may call."""
    with pytest.raises(Denied, match="expected a loopback address"):
        _ = read_config(tmp_path, {"http": {"listen": listen}}, {}).address


@pytest.mark.parametrize("listen", ["8645", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000"])
def test_an_address_without_a_port_is_refused(tmp_path: Path, listen: str) -> None:
    """HOST:PORT is the form."""
    with pytest.raises(InvalidInput, match="expected HOST:PORT"):
        _ = read_config(tmp_path, {"http": {"listen": listen}}, {}).address


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", None),
        ("0", 0),
        ("4096", 4096),
        ("8GiB", 8 << 30),
        ("512 mib", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("2MB", 2_000_000),
    ],
)
def test_the_memory_of_experts_is_a_size_as_people_write_it(tmp_path: Path, text: str, found: int | None) -> None:
    """Binary and decimal units; nothing is no budget, zero is one."""
    config = read_config(tmp_path, {"inference": {"expert_memory": text}}, {})
    assert config.inference.expert_bytes == found


@pytest.mark.parametrize("text", ["8GB of it", "-1", "8 gigs", "1e9", "GiB", "9" * 40])
def test_a_memory_of_experts_that_is_no_size_is_refused(tmp_path: Path, text: str) -> None:
    """With the key, and what a size looks like."""
    with pytest.raises(InvalidInput, match=r"inference\.expert_memory: expected a size such as 8GiB"):
        read_config(tmp_path, {"inference": {"expert_memory": text}}, {})
