# SPDX-License-Identifier: MIT
"""A system call that fails while the runner listens is named; what a handler raises is not ours."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.process import outcome
from pytest_nsisolate.process.channel import MESSAGE, Output, RunnerEnd
from pytest_nsisolate.process.child_process import ChildProcess
from pytest_nsisolate.process.launch import fork
from pytest_nsisolate.process.supervisor_messages import SupervisorMessages
from tests.support import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES

#: A child whose supervisor has said this, and waits to be killed.
Heard = Callable[..., ChildProcess]


@pytest.fixture
def heard() -> Iterator[Heard]:
    """A descriptor that is given takes the place of the pipe's."""
    with ExitStack() as stack:

        def make(
            *said: bytes, frames: int | None = None, direct: bool = False, init: bool = False
        ) -> ChildProcess:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            reading, writing = os.pipe()
            stack.callback(theirs.close)
            stack.callback(os.close, writing)
            for message in said:
                theirs.send(message)
            if frames is not None:
                os.dup2(frames, reading, inheritable=False)
                os.close(frames)
            supervisor = fork()
            if supervisor == 0:
                while True:
                    signal.pause()
            pidfd = os.pidfd_open(supervisor)
            end = RunnerEnd(
                supervisor, pidfd, direct, ours.detach(), reading, bytes(8), Output.create()
            )
            child = ChildProcess(end, maps=None, budget=None, init=init)
            stack.callback(child.end_and_reap)
            return child

        yield make


def ended(child: ChildProcess) -> outcome.Outcome | None:
    """How it has ended, with nothing said."""
    assert child.next_frame() is None
    return child.outcome


def reason(child: ChildProcess) -> str:
    """Why it was lost."""
    found = ended(child)
    assert isinstance(found, outcome.Broken)
    return found.reason


def test_frames_that_cannot_be_read(heard: Heard) -> None:
    """The child is ended, and the runner's own failure is what its report is about."""
    child = heard(frames=os.open("/", os.O_RDONLY))
    assert reason(child).startswith("in the runner read of its frames: EISDIR, Is a directory.")


def test_a_rest_that_cannot_be_read(heard: Heard) -> None:
    """The last read, when the child is dead already, is one of those: no exception of the run's."""
    reading, writing = os.pipe()  # never readable, and a read of it is refused
    try:
        child = heard(MESSAGE.pack(b"S", 0), frames=writing)
        assert reason(child).startswith("in the runner read of its frames: EBADF")
    finally:
        os.close(reading)


def test_a_number_that_is_no_process(heard: Heard) -> None:
    """The host refuses a pidfd: a refusal, and the child is ended."""
    assert ended(heard(MESSAGE.pack(b"P", -1))) == Refusal("pidfd_open", None, errno.EINVAL)


def test_what_a_handler_of_the_suite_raises_is_the_suites(heard: Heard) -> None:
    """Also an OSError, which the system call could have raised."""

    def raises(*_: object) -> None:
        raise OSError(errno.EIO, "a handler of the suite")

    child = heard()
    before = signal.signal(signal.SIGALRM, raises)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(OSError, match="a handler of the suite"):
            child.next_frame()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    # It was killed: nobody will ask for it again.
    assert not isinstance(child.outcome, outcome.Broken) or "in the runner" not in str(
        child.outcome.reason
    )


@pytest.mark.parametrize(
    ("direct", "init", "speaks"), [(False, False, True), (True, True, True), (True, False, False)]
)
def test_only_who_has_something_to_say_wakes_the_runner(
    heard: Heard, direct: bool, init: bool, speaks: bool
) -> None:
    """A PID 1 that is neither below a supervisor nor an init lets its socket go, and no more."""
    child = heard(direct=direct, init=init)
    assert (child.end.control in child.watched()) is speaks


def test_pid1_does_not_go_on_after_its_id_map_was_refused() -> None:
    """Its number may be said before the runner has ended the child; the word is for both."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    pid1 = fork()
    if pid1 == 0:
        while True:
            signal.pause()
    end = RunnerEnd(
        pid1, os.pidfd_open(pid1), False, ours.detach(), reading, bytes(8), Output.create()
    )
    messages = SupervisorMessages(end, maps=None)
    messages.refusal = Refusal("write uid_map", "user", errno.EPERM)
    try:
        theirs.send(MESSAGE.pack(b"P", pid1))
        assert messages.read()
        assert MESSAGE.unpack(theirs.recv(MESSAGE.size))[0] == b"G"
        assert select.select([end.forked_pidfd], [], [], 20)[0], "it goes on"
    finally:
        os.kill(pid1, signal.SIGKILL)
        os.waitpid(pid1, 0)
        end.let_go()
        os.close(end.forked_pidfd)
        os.close(writing)
        theirs.close()
