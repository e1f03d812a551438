"""Real servers for tests, private ones: started when the first test wants one, gone when the tests end.

Where a server's program is not installed the test is skipped; with CI=true it fails, so that nobody believes it ran.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import psycopg
import pytest

_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
_FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=on")


def missing(what: str) -> None:
    """Skip the test that wants this, or fail it where everything must be there."""
    if os.environ.get("CI") in {"true", "1"}:
        pytest.fail(f"{what} is not installed, and with CI=true it must be")
    pytest.skip(f"{what} is not installed")


def program(name: str) -> str | None:
    """Where a program of PostgreSQL lies; Debian keeps them out of PATH."""
    search = os.pathsep.join([os.environ.get("PATH", ""), *map(str, _PROGRAMS)])
    return shutil.which(name, path=search)


class PostgresServer:
    """A PostgreSQL of its own on a unix socket, as user postgres when we are root, which it refuses to run as."""

    def __init__(self, settings: Sequence[str] = _FAST) -> None:
        initdb, postgres = program("initdb"), program("postgres")
        if initdb is None or postgres is None:
            raise FileNotFoundError("postgres")
        self.folder = Path(tempfile.mkdtemp(prefix="blyan-pg-"))
        self._settings = settings
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self._postgres = postgres
        self._numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            shutil.chown(self.folder, self._user)
        command = [initdb, "--no-sync", "-A", "trust", "-U", "blyan", "-E", "UTF8", "--locale=C", "-D", self.data]
        self._as_user(command, subprocess.DEVNULL).wait(60)
        self.start()

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = [word for each in (*self._settings, "max_connections=64") for word in ("-c", each)]
        places = ["-D", self.data, "-k", str(self.folder), "-c", "listen_addresses="]
        with (self.folder / "log").open("ab") as log:
            self._process = self._as_user([self._postgres, *places, *settings], log)
        deadline = time.monotonic() + 15
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT is its fast shutdown, SIGQUIT a crash that recovers from the log at the next start."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def url(self, database: str) -> str:
        return f"postgresql://blyan@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """The address of a database that nobody has used."""
        name = f"t{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _as_user(self, command: list[str], output: object) -> subprocess.Popen[bytes]:
        extra = {"user": self._user, "group": self._user, "extra_groups": []} if os.geteuid() == 0 else {}
        return subprocess.Popen(command, cwd=self.folder, stdout=output, stderr=subprocess.STDOUT, **extra)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the tests of this process; it does not sync, as no test cuts the power."""
    try:
        server = PostgresServer()
    except FileNotFoundError:
        missing("PostgreSQL (apt: postgresql)")
        raise
    with server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """A database of this test's own."""
    return postgres_server.new_database()
