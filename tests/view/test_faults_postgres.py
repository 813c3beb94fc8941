# SPDX-License-Identifier: MIT
"""Faults below a real database server, which has many processes."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from pytest_nsisolate import Pid1View
from pytest_nsisolate.kernel import seccomp
from tests.support import NEEDS_NAMESPACES, POSTGRES, eventually, needs, needs_program

pytestmark = [
    NEEDS_NAMESPACES,
    needs(seccomp.refusal() is None, "this kernel or this machine takes no such filter"),
    needs_program("initdb", "postgres", "psql"),
    # PostgreSQL refuses to be root, as an ordinary user's test is by its id map.
    pytest.mark.isolated(user="same"),
]

ASK: Final = ("psql", "-h", "127.0.0.1", "-U", "tester", "-XAtq", "postgres", "-c")

#: What adds a page to a table, and what makes a transaction last.
WRITES: Final = ("write", "pwrite64", "pwritev", "fallocate")
SYNCS: Final = ("fsync", "fdatasync")


def as_another_user(program: str, *words: object) -> list[str]:
    switch = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command = [f"{POSTGRES}/{program}", *(str(word) for word in words)]
    return [*switch, *command] if os.geteuid() == 0 else command


def ask(query: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ASK, query], capture_output=True, text=True, timeout=60)


def answers() -> bool:
    return ask("SELECT 1").stdout == "1\n"


def count() -> int:
    return int(ask("SELECT count(*) FROM numbers").stdout)


@pytest.fixture
def data() -> Iterator[Path]:
    """A new server's files. They are made before the first fault, because it takes many calls."""
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
        made = Path(folder, "data")
        command = as_another_user("initdb", "-D", made, "-A", "trust", "-U", "tester", "--no-sync")
        subprocess.run(command, check=True, capture_output=True, cwd="/")
        yield made


@contextmanager
def server(data: Path) -> Iterator[None]:
    """It logs to standard error, which is in the report if this fails."""
    options = ("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=")
    process = subprocess.Popen(as_another_user("postgres", "-D", data, *options), cwd="/")
    try:
        assert eventually(answers, 60)
        yield
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(60)


def test_a_database_on_bad_days(pid1: Pid1View, data: Path) -> None:
    """A full disk, one that does not sync, and no free descriptor: what was committed stays."""
    with pid1.fail("chdir", "EIO", unused="ok", path="/nowhere"), server(data):
        assert ask("CREATE TABLE numbers (n int); INSERT INTO numbers VALUES (1)").returncode == 0

        with pid1.fail(WRITES, "ENOSPC", path=f"{data}/base/*") as full:
            done = ask("INSERT INTO numbers SELECT generate_series(1, 100000)")
        assert "No space left on device" in done.stderr
        assert {call.process for call in full.calls} == {"postgres"}
        assert count() == 1

        with pid1.fail(("accept", "accept4"), "EMFILE", times=2, process="postgres") as refused:
            assert count() == 1
        assert refused.count == 2

        with pid1.fail(SYNCS, "EIO", path=f"{data}/pg_wal/*", times=1) as unsynced:
            # It cannot know what is on the disk, so it starts again from its log.
            done = ask("INSERT INTO numbers VALUES (2)")
            assert done.returncode, done
        assert unsynced.count == 1
        assert eventually(answers, 60)
        assert count() in (1, 2)
        assert ask("INSERT INTO numbers VALUES (3)").returncode == 0
        assert ask("SELECT n FROM numbers WHERE n <> 2 ORDER BY n").stdout == "1\n3\n"
