# SPDX-License-Identifier: MIT
"""``pid1.loopback``; the tests themselves are ``inner/loopbacks.py``."""

from __future__ import annotations

from typing import Final

import pytest

from tests.inner_runs import (
    SIDES,
    UNHURRIED,
    Side,
    assert_expected,
    cases,
    run_batch,
    shared_batch,
)
from tests.support import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES


@cases("loopbacks")
def test_loopback(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite is reported as its ``expect`` mark says, and nothing is left."""
    result = shared_batch(tmp_path_factory, "loopbacks", side, conftest=UNHURRIED)
    assert_expected(result, name, expected)


#: Each module has a world of its own, with a server that its tests share; one test is killed.
SHARED: Final = """
import os, pathlib, signal, socket, time
from typing import Final

import pytest
pytestmark = pytest.mark.isolated(share="module", inside="server", timeout=300)

@pytest.fixture(scope="module", autouse=True)
def server():
    pid = os.fork()
    if pid == 0:
        listening = socket.create_server(("127.0.0.1", 7))
        while True:
            connection, _ = listening.accept()
            connection.sendall(connection.recv(9))
            connection.close()
    yield
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

def ask():
    until = time.monotonic() + 30
    while True:
        start = time.monotonic()
        try:
            with socket.create_connection(("127.0.0.1", 7), timeout=30) as connection:
                connection.sendall(b"x")
                assert connection.recv(9) == b"x"
                return time.monotonic() - start
        except ConnectionRefusedError:
            assert time.monotonic() < until
            time.sleep(0.01)

def links():
    return [name for _, name in socket.if_nameindex()]

def test_disturbs(pid1):
    ask()
    pid1.loopback.impair(delay=0.02)
    assert ask() >= 0.08

def test_undisturbed(pid1):
    assert links() == ["lo"]
    assert pathlib.Path("/sys/class/net/lo/mtu").read_text() == "65536\\n"
    ask()
    assert pid1.loopback.counts.passed == 0

def test_killed(pid1):
    pid1.loopback.hold()
    os.kill(os.getpid(), signal.SIGKILL)

def test_after_that(pid1):
    ask()
    pid1.loopback.impair(delay=0.02)
    assert ask() >= 0.08
"""


@pytest.mark.parametrize("side", SIDES)
def test_tests_that_share_a_world(side: Side) -> None:
    """Each has an undisturbed ``lo``, also after one that was killed; two worlds at a time."""
    files = {"test_one.py": SHARED, "test_two.py": SHARED, "conftest.py": UNHURRIED}
    result = run_batch(files, side, "--nsisolate-jobs=2", timeout=600)
    assert "2 failed, 6 passed" in result.text, result.text
    assert result.text.count("FAILED test_") == 2, result.text
    assert result.text.count("::test_killed - isolated test crashed in call: killed by") == 2
