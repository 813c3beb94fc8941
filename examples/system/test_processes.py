# SPDX-License-Identifier: MIT
"""``pid=True``: the test is PID 1, and the processes of the host do not exist for it."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from examples.system.conftest import Shell


@pytest.mark.isolated(pid=True)
def test_ps_shows_this_test_as_pid_1_and_nothing_of_the_host(here: Shell, host: Shell) -> None:
    """``ps -ef`` lists two processes: the test, which has no parent, and ``ps`` itself."""
    # The idea of `docker run -it busybox ps -ef`, without docker and without an image.
    header, *rows = here("exec ps -ef").splitlines()
    test, ps = (row.split(maxsplit=7) for row in rows)

    assert header.split()[:3] == ["UID", "PID", "PPID"]
    assert test[1:3] == ["1", "0"]
    assert ps[2] == "1"
    assert ps[7] == "ps -ef"
    assert "a-shell-on-the-host" in host("ps -ef")


@pytest.mark.isolated(False)
def test_control_on_the_host_ps_shows_the_host(here: Shell, host: Shell) -> None:
    """The same ``ps -ef`` in the runner lists, among everything else, the host's shell."""
    assert "a-shell-on-the-host" in here("ps -ef")


@pytest.mark.isolated(pid=True)
def test_kill_minus_9_minus_1_hurts_nobody(here: Shell, host: Shell) -> None:
    """``kill -9 -1``, everything there is: that is what the test itself has started."""
    with subprocess.Popen(["sleep", "3600"]) as victim:
        here("kill -9 -1")  # spares the shell that asks for it, and PID 1

        assert victim.wait(timeout=10) == -signal.SIGKILL
    assert host("echo alive") == "alive"


@pytest.mark.isolated(pid=True)
def test_alone_there_is_nobody_to_kill() -> None:
    """Signal 0 only asks who could be reached; for PID 1 without children that is nobody."""
    with pytest.raises(ProcessLookupError):
        os.kill(-1, 0)


@pytest.mark.isolated(False)
def test_control_on_the_host_there_is_somebody_to_kill(host: Shell) -> None:
    """The same question in the runner reaches the host's shell at least."""
    os.kill(-1, 0)


@pytest.mark.isolated(pid=True)
def test_pid_1_does_not_die_of_its_own_sigkill() -> None:
    """The kernel drops what PID 1 sends itself, SIGKILL included: an init has to know that."""
    os.kill(os.getpid(), signal.SIGKILL)

    assert os.getpid() == 1


@pytest.mark.isolated(False)
def test_control_any_other_process_does() -> None:
    """A process that is not PID 1 and does the same is gone."""
    assert subprocess.run(["sh", "-c", "kill -9 $$"], check=False).returncode == -signal.SIGKILL
