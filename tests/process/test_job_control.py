# SPDX-License-Identifier: MIT
"""Ctrl-Z, as the handler of the runner takes it; with a terminal: ``test_live.py``."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal
from pytest_nsisolate.process.job_control import stopping_with

said = []

def hold():
    said.append("hold")
    os.kill(os.getpid(), signal.{number})

try:
    with stopping_with(hold, lambda: said.append("release")):
        os.kill(os.getpid(), signal.SIGTSTP)
except KeyboardInterrupt:
    said.append("interrupt")
print(*said, signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL)
"""


@pytest.mark.parametrize(
    ("number", "expected"),
    [("SIGTSTP", "hold release True"), ("SIGINT", "hold release interrupt True")],
)
def test_a_key_while_the_child_is_being_held(number: str, expected: str) -> None:
    """A second Ctrl-Z is one with the first; after a Ctrl-C the child is let go on, to be ended."""
    command = [sys.executable, "-c", SCRIPT.replace("{number}", number)]
    # In a session of its own nobody could let it go on, so the kernel does not stop it.
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, start_new_session=True, check=False
    )
    assert done.stdout.strip() == expected, done.stderr
