# SPDX-License-Identifier: MIT
"""Two shells for every test of the demo: one where the test is, one on the host.

What is different between their answers is what the isolation does::

    assert here("uname -n") == "db1"
    assert host("uname -n") != "db1"
"""

from __future__ import annotations

import os
import secrets
import select
import subprocess
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

Shell: TypeAlias = Callable[[str], str]

#: What ``ps`` shows of the shell on the host, so that a test can look for it.
HOST_SHELL = "a-shell-on-the-host"

#: What a marker may name, and how it is called below ``/proc/self/ns``.
NAMESPACES = {
    "pid": "pid",
    "mount": "mnt",
    "net": "net",
    "uts": "uts",
    "ipc": "ipc",
    "cgroup": "cgroup",
}


@pytest.fixture
def here() -> Shell:
    """Run a command line where the test is, and return what it printed."""

    def ask(command: str) -> str:
        finished = subprocess.run(
            ["sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return answer(command, finished.returncode, finished.stdout)

    return ask


@pytest.fixture(scope="session")
def host() -> Iterator[Shell]:
    """Run a command line on the host, while the test is where it is.

    Session scope: the shell is started once, by the runner, before any test is isolated. The
    tests inherit its two pipes, as they inherit whatever a fixture has opened in the runner.
    """
    with subprocess.Popen(
        ["sh", "-s", HOST_SHELL], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        write, answers = shell.stdin.write, shell.stdout.fileno()

        def ask(command: str) -> str:
            # A word that nobody can foresee ends the answer, the exit status stands behind it.
            end = f"end-{secrets.token_hex(8)} "
            write(f"( {command}\n) </dev/null 2>&1; echo {end} $?\n".encode())
            output, status = read_until(answers, end.encode())
            return answer(command, status, output)

        yield ask


@pytest.fixture(autouse=True)
def look_before_you_shoot(request: pytest.FixtureRequest, host: Shell) -> None:
    """These tests kill, mount and rename: none of them starts on the host, whatever went wrong.

    No suite needs this. The plugin refuses a test that it cannot isolate; but somebody may have
    asked for ``--nsisolate=none --nsisolate-unsafe``, and a demo has to be harmless then too.
    """
    mark = request.node.get_closest_marker("isolated")
    if mark is None or mark.args == (False,):
        return
    ids_of_the_host = host("readlink /proc/self/ns/*").split()
    for name in {name for name in NAMESPACES if mark.kwargs.get(name)} or NAMESPACES:
        assert os.readlink(f"/proc/self/ns/{NAMESPACES[name]}") not in ids_of_the_host


def read_until(pipe: int, end: bytes) -> tuple[str, int]:
    received = bytearray()
    while end not in received or not received.endswith(b"\n"):
        ready, _, _ = select.select([pipe], [], [], 30)
        chunk = os.read(pipe, 65536) if ready else b""
        assert chunk, f"the shell on the host fell silent after {bytes(received)!r}"
        received += chunk
    output, _, status = received.rpartition(end)
    return output.decode(), int(status)


def answer(command: str, status: int, output: str) -> str:
    assert status == 0, f"{command!r} ended with exit status {status}:\n{output}"
    return output.rstrip("\n")
