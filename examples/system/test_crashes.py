# SPDX-License-Identifier: MIT
"""A test that takes its process down fails alone.

Each of these would fail, and be seen as an ordinary failure: signal, captured output, Python
stack. A demo should end green, so they are expected to: a crash satisfies ``xfail`` (as long as
it names no exception with ``raises=``), and ``strict`` makes sure that they do crash. Shown with
``-rx``; take the mark away to see the reports.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

import pytest

SEGFAULT = "import ctypes; ctypes.string_at(0)"


@pytest.mark.isolated(pid=True)
@pytest.mark.xfail(strict=True, reason="reads address 0: SIGSEGV")
def test_segfault() -> None:
    """A real segmentation fault in this test, and in no other."""
    ctypes.string_at(0)


@pytest.mark.isolated(pid=True)
@pytest.mark.xfail(strict=True, reason="leaves without a word: exit status 3")
def test_exit() -> None:
    """The process exits in the middle of the test, as a library with a fatal error may do."""
    os._exit(3)


@pytest.mark.isolated(pid=True, timeout=0.5)
@pytest.mark.xfail(strict=True, reason="never ends: over its budget of 0.5 s")
def test_hang() -> None:
    """Deaf to every signal and never ready; the budget is enforced from outside."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_IGN)
        except OSError:  # two that the C library keeps for itself
            pass
    while True:
        time.sleep(60)


@pytest.mark.isolated(False)
def test_control_without_isolation_the_process_is_gone() -> None:
    """The same line in a process of its own ends that process: in the runner, the whole run."""
    finished = subprocess.run(
        ["sh", "-c", 'ulimit -c 0; exec "$@"', "sh", sys.executable, "-c", SEGFAULT], check=False
    )

    assert finished.returncode == -signal.SIGSEGV
