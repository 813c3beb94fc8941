# SPDX-License-Identifier: MIT
"""The watchdog, by itself: a process that stands in for the runner starts it and ends."""

from __future__ import annotations

import subprocess
import sys

from tests.support import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES

#: Its child holds standard output open until the watchdog kills it.
RUNNER = """
import os, signal
from pytest_nsisolate.process import watchdog
own = os.pidfd_open(os.getpid())
dog = watchdog.spawn(own)
child = os.fork()
if child == 0:
    signal.alarm(60)
    signal.pause()
watchdog.report_to(dog.socket, os.pidfd_open(child))
print(own, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_runner_with_low_descriptors_has_one_too() -> None:
    """Where the numbers are free at which the watchdog gets its own."""
    command = [sys.executable, "-c", RUNNER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.stderr) == ("3\n", "")
