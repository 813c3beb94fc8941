# SPDX-License-Identifier: MIT
"""A test that is over before the runner has read the number of its PID 1."""

from __future__ import annotations

import os
import select
import signal
import socket

import pytest

from pytest_nsisolate.kernel import syscalls
from pytest_nsisolate.process import reaping
from pytest_nsisolate.process.channel import MESSAGE, Output, RunnerEnd
from pytest_nsisolate.process.child_process import ChildProcess
from pytest_nsisolate.process.launch import fork

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this needs Linux")


def test_a_supervisor_that_waits_for_an_answer_gets_it_at_the_reaping() -> None:
    """Otherwise it would wait for as long as a step may take, and then be killed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    frames, frames_write = os.pipe()
    heard, says = os.pipe()
    supervisor = fork()
    if supervisor == 0:
        try:
            ours.close()
            os.write(says, theirs.recv(MESSAGE.size)[:1])
        finally:
            os._exit(0)
    for fd in (frames_write, says, theirs.detach()):
        os.close(fd)
    end = RunnerEnd(
        supervisor,
        os.pidfd_open(supervisor),
        False,
        ours.detach(),
        frames,
        bytes(8),
        Output.create(),
    )

    ChildProcess(end, maps=None, budget=None, init=False).reap()

    with os.fdopen(heard, "rb") as pipe:
        assert pipe.read() == b"G"


def test_a_child_that_a_debugger_keeps_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pidfd says that it has ended, and only its tracer may reap it: no wait is without end."""
    monkeypatch.setattr(reaping, "STEP_SECONDS", 0.1)
    (go, says_go), (seized, says_seized) = os.pipe(), os.pipe()
    child = fork()
    if child == 0:
        os.close(says_go)
        os.read(go, 1)
        os._exit(0)
    tracer = fork()
    if tracer == 0:
        syscalls._ptrace(syscalls._PTRACE_SEIZE, child)
        os.write(says_seized, b"s")
        os.close(says_go)
        signal.pause()
    assert os.read(seized, 1) == b"s"
    os.write(says_go, b"g")
    pidfd = os.pidfd_open(child)
    try:
        assert select.select([pidfd], [], [], 30)[0] == [pidfd]
        assert not reaping.ask_after(child)
        reaping.reap(child, over=True)
    finally:
        os.kill(tracer, signal.SIGKILL)
        os.waitpid(tracer, 0)
    reaping.reap(child, over=True)
    with pytest.raises(ChildProcessError):
        os.waitpid(child, os.WNOHANG)
    for fd in (go, says_go, seized, says_seized, pidfd):
        os.close(fd)
