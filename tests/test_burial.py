# SPDX-License-Identifier: MIT
"""A test that is over before the runner has read the number of its PID 1."""

from __future__ import annotations

import os
import socket

import pytest

from pytest_nsisolate.channel import MESSAGE, Output, RunnerEnd
from pytest_nsisolate.launch import fork
from pytest_nsisolate.supervise import Attempt

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this needs Linux")


def test_an_usher_that_waits_for_a_word_gets_it_at_the_burial() -> None:
    """Otherwise it would wait for as long as a step may take, and then be killed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    frames, frames_write = os.pipe()
    heard, says = os.pipe()
    usher = fork()
    if usher == 0:
        try:
            ours.close()
            os.write(says, theirs.recv(MESSAGE.size)[:1])
        finally:
            os._exit(0)
    for fd in (frames_write, says, theirs.detach()):
        os.close(fd)
    end = RunnerEnd(
        usher, os.pidfd_open(usher), False, ours.detach(), frames, bytes(8), Output.create()
    )

    Attempt(end, maps=None, budget=None, init=False).bury()

    with os.fdopen(heard, "rb") as pipe:
        assert pipe.read() == b"G"
