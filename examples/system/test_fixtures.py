# SPDX-License-Identifier: MIT
"""Fixtures: wide scopes are set up once, in the runner; function scope, and what ``inside`` names,
in the test.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from examples.system.conftest import Shell


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Stands for what is dear to set up: a file that counts the set-ups, and a list in memory."""
    count = tmp_path_factory.mktemp("prepared") / "count"
    with count.open("a") as file:
        file.write("set up\n")
    return count, ["from the runner"]


@pytest.mark.isolated
@pytest.mark.parametrize("test", ["one", "another"])
def test_share_what_the_runner_prepared(test: str, prepared: tuple[Path, list[str]]) -> None:
    """Both find the one set-up of the runner; what each changes in memory, nobody else sees."""
    count, memory = prepared

    assert count.read_text() == "set up\n"
    assert memory == ["from the runner"]
    memory.append(f"changed by {test}")


@pytest.fixture
def process() -> int:
    """Function scope: set up where the test is."""
    return os.getpid()


@pytest.mark.isolated(pid=True)
def test_function_scope_lives_in_the_test(process: int) -> None:
    """The fixture ran as PID 1, as the test does."""
    assert process == os.getpid() == 1


@pytest.fixture(scope="module")
def web_port() -> Iterator[int]:
    """The port of a web server on 127.0.0.1; whose 127.0.0.1, that is the question."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        # Serving HTTP on 127.0.0.1 port 34567 (http://127.0.0.1:34567/) ...
        yield int(server.stdout.readline().split()[5])
        server.terminate()


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.isolated(net=True, inside=["web_port"])
def test_a_server_in_the_network_of_the_test(web_port: int, host: Shell) -> None:
    """``inside`` has the module's server set up in this test's network, for this test."""
    assert can_connect(web_port)


@pytest.mark.isolated(net=True)
def test_without_inside_the_server_is_elsewhere(web_port: int) -> None:
    """Module scope belongs to the runner: its server listens on the host's 127.0.0.1."""
    assert not can_connect(web_port)


@pytest.mark.isolated(False)
def test_control_on_the_host_the_server_is_there(web_port: int) -> None:
    """The runner, whose server it is, can connect to it."""
    assert can_connect(web_port)
