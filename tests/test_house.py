"""The house around the code: what the wheel carries, the scripts, and a fresh installation."""

import email
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import blyan

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["scripts/install", "scripts/run", "scripts/test", ".ci/run"]
IN_CI = os.environ.get("CI", "") in {"1", "true"}
SECOND_START_S_MAX = 15
DIST_INFO = f"blyan-{blyan.__version__}.dist-info"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of the working tree, built by the backend that pyproject.toml names."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    [path] = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def files_under(folder: str) -> set[str]:
    return {
        path.relative_to(ROOT / folder).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "inside"),
    [
        ("frontend", "blyan/_web"),
        ("migrations", "blyan/_migrations"),
        ("backend/blyan/builtin", "blyan/builtin"),
        ("backend/blyan", "blyan"),
    ],
)
def test_the_wheel_carries_every_file_of(wheel: zipfile.ZipFile, folder: str, inside: str) -> None:
    expected = files_under(folder)
    assert expected, f"{folder} is empty"
    assert set() == {name for name in expected if f"{inside}/{name}" not in wheel.namelist()}


@pytest.mark.slow
def test_the_wheel_carries_nothing_but_the_package(wheel: zipfile.ZipFile) -> None:
    assert {"blyan", DIST_INFO} == {name.partition("/")[0] for name in wheel.namelist()}


@pytest.mark.slow
def test_a_plain_node_needs_no_database_server_queue_evm_client_or_payment_service(wheel: zipfile.ZipFile) -> None:
    metadata = email.message_from_bytes(wheel.read(f"{DIST_INFO}/METADATA"))
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    names = {re.split(r"[^A-Za-z0-9_.-]", line)[0].lower() for line in required}
    assert "torch" in names
    assert set() == names & {"psycopg", "psycopg2", "asyncpg", "redis", "web3", "stripe", "transformers"}


@pytest.mark.slow
def test_the_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    assert b"blyan = blyan.cli.main:entry" in wheel.read(f"{DIST_INFO}/entry_points.txt")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_executable_and_strict(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert "\nset -euo pipefail\n" in (ROOT / script).read_text(encoding="utf-8")


def test_the_scripts_pass_shellcheck() -> None:
    if shutil.which("shellcheck") is None:
        if IN_CI:
            pytest.fail("shellcheck is not installed")
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", *(str(ROOT / script) for script in SCRIPTS)], check=True)


def test_every_version_in_the_constraints_is_exact() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A repository with our scripts, an installation that is up to date, and a `blyan` that prints its arguments."""
    root = tmp_path / "a repository"
    (root / ".venv/bin").mkdir(parents=True)
    (root / "scripts").mkdir()
    for name in ("scripts/install", "scripts/run", "pyproject.toml", "constraints.txt", "package-lock.json"):
        shutil.copy(ROOT / name, root / name)
    (root / ".venv/bin/python").symlink_to(sys.executable)
    (root / ".venv/bin/blyan").write_text('#!/bin/sh\nprintf "%s\\n" "$PWD" "$@"\n')
    (root / ".venv/bin/blyan").chmod(0o755)
    command = (
        f"{{ cat pyproject.toml constraints.txt package-lock.json && printf '%s' '{root}'; }} | cksum > .venv/.stamp"
    )
    subprocess.run(["/bin/sh", "-c", command], cwd=root, check=True)
    return root


def run_script(script: Path, *arguments: str, cwd: Path, **environment: str) -> list[str]:
    """Lines of stdout, with nothing in the environment but what is named. Raises CalledProcessError."""
    environment = {"HOME": "/empty", "PATH": "/usr/bin:/bin", **environment}
    done = subprocess.run([script, *arguments], cwd=cwd, env=environment, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_run_passes_its_arguments_and_the_data_directory_of_the_repository(stand_in: Path) -> None:
    said = run_script(stand_in / "scripts/run", "--listen", "127.0.0.1:0", cwd=stand_in)
    assert [str(stand_in), "up", "--data-dir", f"{stand_in}/.blyan", "--listen", "127.0.0.1:0"] == said


def test_run_works_through_a_link_from_another_folder(stand_in: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(stand_in / "scripts/run")
    said = run_script(tmp_path / "linked", cwd=tmp_path)
    assert [str(tmp_path), "up", "--data-dir", f"{stand_in}/.blyan"] == said


@pytest.mark.parametrize(("given", "used"), [("elsewhere", "{root}/elsewhere"), ("/srv/blyan", "/srv/blyan")])
def test_a_relative_data_directory_is_relative_to_the_repository(stand_in: Path, given: str, used: str) -> None:
    said = run_script(stand_in / "scripts/run", cwd=Path("/"), BLYAN_DATA_DIR=given)
    assert ["/", "up", "--data-dir", used.format(root=stand_in)] == said


def test_without_python_the_message_names_the_package(stand_in: Path, tmp_path: Path) -> None:
    shutil.rmtree(stand_in / ".venv")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "env", "readlink", "dirname", "cat", "cksum"):
        found = shutil.which(name)
        assert found
        (tools / name).symlink_to(found)
    done = subprocess.run(
        [shutil.which("bash") or "bash", stand_in / "scripts/run"],
        check=False,
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "sudo apt install python3 python3-venv" in done.stderr
    assert not (stand_in / ".venv").exists()


# A fresh installation, as a newcomer's machine sees it


@contextmanager
def started(clone: Path, home: Path) -> Iterator[tuple[str, float]]:
    """The address `scripts/run` prints, and the seconds until it was ready; stopped as Ctrl-C would."""
    environment = {"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin", "PIP_NO_CACHE_DIR": "1"}
    begun = time.monotonic()
    output = home / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["scripts/run", "--listen", "127.0.0.1:0", "--no-browser"],
            cwd=clone,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = None
        while url is None:
            assert process.poll() is None, output.read_text(errors="replace")
            printed = re.search(r"http://127\.0\.0\.1:\d+", output.read_text(errors="replace"))
            url = printed[0] if printed else None
            time.sleep(0.1)
        while not is_ready(url):
            assert process.poll() is None, output.read_text(errors="replace")
            time.sleep(0.1)
        yield url, time.monotonic() - begun
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=30)


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.network_install
def test_a_fresh_clone_installs_runs_and_starts_again_in_seconds(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    with started(clone, home):
        pass
    with started(clone, home) as (_, second_s):
        pass
    assert second_s < SECOND_START_S_MAX
