# SPDX-License-Identifier: MIT
"""``init=True``: a tiny init is PID 1, and the test is its child, as with ``docker run --init``.

Fact: PID 1 gets no signal that it has no handler for, not even its own SIGKILL, and every orphan of
its namespace becomes its child (pid_namespaces(7)). A test that never asked to be PID 1 is
surprised by both: ``os.kill(os.getpid(), SIGKILL)`` does nothing and orphans stay zombies.

Consequence: the init is a process of its own, outside the test's interpreter. A SIGCHLD handler
with ``waitpid(-1)`` inside the test would eat the exit codes of the test's own children: it turned
the status of ``Popen(["false"])`` into 0 in 20 of 20 runs.

What it does: it blocks every signal and takes them one by one; SIGCHLD means reap all there is,
anything else is passed on to the test. When the test ends it reports the exact wait status and
exits, and the kernel kills what is left.

A Ctrl-Z is answered when the test stands still. Runner and test read the same terminal: a test that
was about to stop took the line that was typed for the shell, in 3 of 70 runs on a busy machine.
"""

from __future__ import annotations

from typing import NoReturn

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import process
from pytest_nsisolate.kernel.originals import os, posix, signal
from pytest_nsisolate.kernel.signals import hold_signal, release_signal
from pytest_nsisolate.process.channel import MESSAGE


def fork_test(control: int, *, lean: bool = False) -> None:
    """Stay behind as the init. Returns in the test's own process (PID 2), and nowhere else.

    :param control: the socket over which the test's wait status goes to the runner.
    :param lean: keep no other descriptor.
    :raises StepError: when there cannot be another process.
    """
    # An inherited SIG_IGN would have the kernel reap the test, and its status would be lost.
    try:
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        test = posix.fork()
    except OSError as error:
        raise StepError("fork", "pid", error.errno or 0) from error
    if test:
        try:
            if lean:
                process.close_all_but(control)
            _serve(test, control)
        finally:
            posix._exit(0)
    try:
        if before is not None:  # None: a handler that Python did not install
            signal.signal(signal.SIGCHLD, before)
        os.setsid()
    except OSError as error:
        raise StepError("setsid", None, error.errno or 0) from error


def _serve(test: int, control: int) -> NoReturn:
    signals = signal.valid_signals()
    meant = {hold_signal(): signal.SIGSTOP, release_signal(): signal.SIGCONT}
    options = os.WNOHANG | os.WUNTRACED | os.WCONTINUED
    inside = os.getpid() == 1
    stopped = asked = False
    while True:
        found = signal.sigwaitinfo(signals)
        number = found.si_signo
        if number != signal.SIGCHLD:
            # 0 is a sender outside; a sender inside means this signal itself.
            if number in meant and not (inside and found.si_pid):
                number = meant[number]
                asked = number == signal.SIGSTOP
            os.kill(test, number)
        while True:
            pid, status = os.waitpid(-1, options)
            if pid == 0:
                break
            if pid != test:
                continue
            if not (os.WIFSTOPPED(status) or os.WIFCONTINUED(status)):
                os.write(control, MESSAGE.pack(b"T", status))
                posix._exit(0)
            stopped = os.WIFSTOPPED(status)
        if asked and stopped:
            asked = False
            _say_held(control)


def _say_held(control: int) -> None:
    try:
        os.write(control, MESSAGE.pack(b"H", 0))
    except (BrokenPipeError, ConnectionResetError):
        # The runner has let go of a finished test; its SIGPIPE is not for the test.
        signal.sigtimedwait({signal.SIGPIPE}, 0)
