# SPDX-License-Identifier: MIT
"""Two tests that both need port 80 of every address, and no lock between them.

Under ``pytest -n 2 test_port_80.py::test_listen_on_port_80`` they hold it at the same time: each
waits, port in hand, until it has seen that the other holds it too. That needs a worker for each. If
they have to share one they run one after the other, and nobody waits for somebody who cannot come.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

OTHER = {"left": "right", "right": "left"}


@pytest.fixture(scope="module")
def meeting_point(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers of this run see."""
    base = tmp_path_factory.getbasetemp()
    # pytest-xdist gives each worker a directory below that of the run.
    return base.parent if hasattr(request.config, "workerinput") else base


@pytest.fixture(scope="module")
def both_at_once(request: pytest.FixtureRequest) -> bool:
    """Whether there are as many workers as tests: then each test has one for itself."""
    worker: dict[str, int] = getattr(request.config, "workerinput", {"workercount": 1})
    return len(OTHER) == len(request.session.items) <= worker["workercount"]


def leave_word(message: Path) -> None:
    message.touch()


def wait_for_word(message: Path) -> None:
    deadline = time.monotonic() + 30
    while not message.exists():
        assert time.monotonic() < deadline, f"nobody left word: {message.name}"
        time.sleep(0.01)


@pytest.mark.isolated(net=True, timeout=90)
@pytest.mark.parametrize("me", ["left", "right"])
def test_listen_on_port_80(me: str, meeting_point: Path, both_at_once: bool) -> None:
    """Port 80 of 0.0.0.0 is free, for a test of an unprivileged user as well: root is at home."""
    other = OTHER[me]
    with socket.create_server(("0.0.0.0", 80)) as server:
        assert server.getsockname() == ("0.0.0.0", 80)
        if both_at_once:
            leave_word(meeting_point / f"{me} holds port 80")
            wait_for_word(meeting_point / f"{other} holds port 80")
            # Nobody lets go before both have seen it.
            leave_word(meeting_point / f"{me} has seen {other}")
            wait_for_word(meeting_point / f"{other} has seen {me}")


@pytest.mark.isolated(False)
def test_both_listen_at_the_same_time(tmp_path: Path) -> None:
    """The two above under ``pytest -n 2``: both pass, so each has seen the other listening."""
    pytest.importorskip("xdist", reason="needs pytest-xdist for its two workers")
    run = tmp_path / "run"
    options = shlex.split(f"-p nsisolate -p xdist -n 2 -p no:cacheprovider --basetemp='{run}'")
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"{__file__}::test_listen_on_port_80"],
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stdout
    assert {word.name for word in run.glob("* has seen *")} == {
        "left has seen right",
        "right has seen left",
    }
