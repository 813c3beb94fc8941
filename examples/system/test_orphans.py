# SPDX-License-Identifier: MIT
"""Who buries the dead: PID 1. By default that is the test, with ``init=True`` a small init."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from examples.system.conftest import Shell


def leave_an_orphan() -> None:
    """A shell starts a child and is gone; the child ends with status 7, and whose is it now?"""
    subprocess.run(["sh", "-c", "(exit 7) &"], check=True)


@pytest.mark.isolated(pid=True)
def test_pid_1_inherits_the_orphan() -> None:
    """The test waits for a process that it never started: good for testing an init."""
    leave_an_orphan()

    _, status = os.wait()

    assert os.waitstatus_to_exitcode(status) == 7


@pytest.mark.isolated(pid=True, init=True)
def test_with_an_init_the_orphan_is_none_of_our_business(here: Shell) -> None:
    """As with ``docker run --init``: the init is PID 1, collects orphans and leaves no zombie."""
    leave_an_orphan()

    with pytest.raises(ChildProcessError):
        os.wait()
    deadline = time.monotonic() + 10
    while "Z" in (states := here("ps -e -o stat=")):
        assert time.monotonic() < deadline, states
        time.sleep(0.01)
    assert (os.getppid(), os.getpid() > 1) == (1, True)


@pytest.mark.isolated(pid=True, init=True)
def test_an_init_leaves_our_own_children_to_us() -> None:
    """The exit status of what the test starts arrives at the test."""
    assert subprocess.run(["sh", "-c", "exit 3"], check=False).returncode == 3
