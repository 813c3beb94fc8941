# SPDX-License-Identifier: MIT
"""The descriptors between the runner and one child, and who owns each of them.

========== ==================================== =========================================
what       runner                               child
========== ==================================== =========================================
frames     reads; closes after the supervisor's end  the test's own process writes
control    socket, runner's end                 the supervisor; PID 1 until its maps stand; the init
output     four memfds, read after a crash      fd 1 and 2, the log and the fault handler
pidfds     of the supervisor and of PID 1            the supervisor: of the runner and of PID 1
========== ==================================== =========================================

What is not a process's own is covered by ``/dev/null`` in it (dup2), never closed: a closed number
is reused by the next open file of the test and would then receive the old owner's writes.
"""

from __future__ import annotations

import errno
import struct
from _socket import SocketType
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import syscalls
from pytest_nsisolate.kernel.libc import step_error
from pytest_nsisolate.kernel.originals import os, signal
from pytest_nsisolate.wire.frames import FrameWriter, Kind

#: What becomes of a lone surrogate in the text of a log: it is kept, as in a ``StringIO``.
LOG_ERRORS: Final = "surrogatepass"

#: Each step of the machinery must be over within this many seconds.
STEP_SECONDS: Final = 10.0

#: What travels on the control socket: a letter and a number (see :data:`Letter`).
MESSAGE: Final = struct.Struct("=ci")

#: ``U`` supervisor to runner: write the id map of process N, 0 for the supervisor itself.
#: ``P`` supervisor to runner: PID 1 is process N.
#: ``G`` runner to PID 1: the id map is written; runner to supervisor: you may reap PID 1.
#: ``T`` init to runner: the test ended with wait status N.
#: ``H`` init to runner: the test stands still, as asked for by a Ctrl-Z.
#: ``S`` supervisor to runner: PID 1 ended with wait status N and has been reaped.
Letter: TypeAlias = Literal[b"U", b"P", b"G", b"T", b"H", b"S"]


@dataclass(frozen=True, slots=True)
class Output:
    """The files that outlive the child, whatever kills it: memfds made by the runner.

    :param stdout: what went to standard output in the current phase.
    :param stderr: likewise for standard error.
    :param log: likewise for captured log records, formatted.
    :param fault: what the fault handler wrote.
    """

    stdout: int
    stderr: int
    log: int
    fault: int

    @classmethod
    def create(cls) -> Output:
        """Four empty files in memory; the caller owns the descriptors.

        :raises StepError: when no descriptor is left.
        """
        made: list[int] = []
        try:
            for name in ("stdout", "stderr", "log", "fault"):
                made.append(os.memfd_create(f"nsisolate-{name}", os.MFD_CLOEXEC))
        except OSError as error:
            for fd in made:
                os.close(fd)
            raise StepError("memfd_create", None, error.errno or 0) from error
        return cls(*made)

    def lost_text(self) -> list[tuple[str, str]]:
        """In the runner, after a death: (kind, text) of what the last phase had captured."""
        files = {"stdout": read_text(self.stdout), "stderr": read_text(self.stderr)}
        files["log"] = read_text(self.log, LOG_ERRORS).strip()
        return [(kind, text) for kind, text in files.items() if text]

    def close(self) -> None:
        """Close the runner's copies."""
        for fd in (self.stdout, self.stderr, self.log, self.fault):
            os.close(fd)


def raised_by_handler(error: BaseException) -> bool:
    """Whether a signal handler of the suite has raised it, and not the system call itself.

    To be asked where the call is made: a call in C adds no frame to the traceback.
    """
    trace = error.__traceback__
    return trace is not None and trace.tb_next is not None


def read_text(fd: int, errors: str = "replace") -> str:
    """The whole content of a memfd, wherever its offset stands.

    :param errors: as of ``bytes.decode``; bytes that it does not admit are replaced.
    """
    size = os.fstat(fd).st_size
    if not size:
        return ""
    parts = []
    offset = 0
    while offset < size and (part := os.pread(fd, size - offset, offset)):
        parts.append(part)
        offset += len(part)
    data = b"".join(parts)
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError:  # the test has found the descriptor, and written what it liked
        return data.decode("utf-8", "replace")


@dataclass(slots=True)
class RunnerEnd:
    """What the runner holds of one child. It owns the descriptors and has to reap.

    :param forked: the process that the runner made: the supervisor, or PID 1 itself.
    :param direct: there is no supervisor.
    :param pid1_pidfd: of PID 1, once its number is known.
    :param pid1: that number.
    :param owed_signal: to be sent to PID 1 as soon as its number is known.
    :param open: the channels are open; closed for good once the child is not needed any more.
    :param word: what this child alone waits at, where it has that for itself.
    :param keeper: of a test in a world that others share: the process that forks it. Until it has,
        that is taken for PID 1, and what is below it for everything.
    """

    forked: int
    forked_pidfd: int
    direct: bool
    control: int
    frames: int
    nonce: bytes
    output: Output
    pid1_pidfd: int | None = None
    pid1: int | None = None
    owed_signal: int | None = None
    open: bool = True
    word: int | None = None
    keeper: int | None = None

    @property
    def is_born(self) -> bool:
        """Whether the number of the test's process is known."""
        return self.pid1 is not None and self.pid1 != self.keeper

    def __post_init__(self) -> None:
        if self.direct:
            self.pid1_pidfd, self.pid1 = self.forked_pidfd, self.forked

    def descriptors(self) -> tuple[int, ...]:
        """What this process holds of the child; another child must not have that."""
        if not self.open:
            return (self.forked_pidfd,)
        pidfds = {self.forked_pidfd, self.pid1_pidfd, self.word} - {None}
        files = (self.output.stdout, self.output.stderr, self.output.log, self.output.fault)
        return (self.control, self.frames, *files, *(fd for fd in pidfds if fd is not None))

    def tell(self, letter: Letter, number: int = 0) -> None:
        """Send one message; that a peer is gone is seen by its pidfd, not here.

        :raises StepError: when it cannot be sent.
        """
        try:
            os.write(self.control, MESSAGE.pack(letter, number))
        except (BrokenPipeError, ConnectionResetError):
            pass
        except OSError as error:
            if raised_by_handler(error):
                raise
            raise StepError("write to its supervisor", None, error.errno or 0) from error

    def send_signal(self, number: int) -> None:
        """A signal for PID 1; nothing to one that has ended.

        :raises StepError: when it cannot be sent.
        """
        if self.pid1_pidfd is None:
            # A busy supervisor may say its number when the test is already running.
            self.owed_signal = number
            return
        try:
            signal.pidfd_send_signal(self.pid1_pidfd, number)
        except ProcessLookupError:
            pass
        except OSError as error:
            if raised_by_handler(error):
                raise
            raise StepError("pidfd_send_signal", None, error.errno or 0) from error

    def let_go(self) -> None:
        """The child is not needed any more: close everything but the pidfd of what was forked.

        May be called again.

        :raises StepError: when it cannot be told.
        """
        if not self.open:
            return
        self.open = False
        if self.pid1_pidfd is None:
            # The test was over before its number had been read: the supervisor waits for an
            # answer, and no EOF will come, because it holds a copy of this end as well.
            self.tell(b"G")
        os.close(self.control)
        os.close(self.frames)
        if self.pid1_pidfd is not None and not self.direct:
            os.close(self.pid1_pidfd)
        if self.word is not None:
            os.close(self.word)
        self.output.close()


@dataclass(frozen=True, slots=True)
class Shared:
    """Descriptors of the plugin that every child inherits and must not keep.

    :param null: ``/dev/null``, to be duplicated over the others.
    :param runner_pidfd: the runner, as the supervisor watches it.
    :param foreign: what else has to go: execnet's channel to the controller.
    :param watchdog: the socket of the watchdog, None where there is none.
    """

    null: int
    runner_pidfd: int
    foreign: tuple[int, ...]
    watchdog: SocketType | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """The child's ends, as the supervisor and PID 1 use them before the test runs.

    :param not_ours: what PID 1 covers first of all.
    :param mask: the runner's signal mask, restored last.
    :param collecting: whether the runner's garbage collector was on.
    """

    control: int
    writer: FrameWriter
    not_ours: tuple[int, ...]
    shared: Shared
    mask: frozenset[int]
    collecting: bool

    def tell(self, letter: Letter, number: int = 0) -> None:
        """One message to the runner; whether it is alive is seen by its pidfd, not here."""
        try:
            os.write(self.control, MESSAGE.pack(letter, number))
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has let go of a finished child, or is dead
        except OSError as error:
            raise step_error("tell the runner", None, error) from error

    def await_word(self) -> None:
        """Block until the runner has said ``G``. It has a deadline; without it, there is an EOF.

        :raises StepError: ECONNRESET when the runner is gone.
        """
        try:
            said = os.read(self.control, MESSAGE.size)
        except OSError as error:
            raise step_error("wait for the id map", "user", error) from error
        if not said:
            raise StepError("wait for the id map", "user", errno.ECONNRESET)

    def refuse(self, error: StepError) -> None:
        """Tell the runner which step failed."""
        refuse(self.writer, error)

    def cover(self, *descriptors: int) -> None:
        """Put ``/dev/null`` over what is not the test's.

        :raises StepError: ``dup2``.
        """
        try:
            for fd in descriptors:
                os.dup2(self.shared.null, fd, inheritable=False)
        except OSError as error:
            raise step_error("dup2", None, error) from error


def refuse(writer: FrameWriter, error: StepError) -> None:
    """Tell the runner which step failed, and, where that matters, whether a filter refused it."""
    frame: dict[str, object] = {"step": error.step, "namespace": error.namespace}
    frame |= {"errno": error.errno, "detail": error.detail}
    if error.errno == errno.EPERM:
        frame["filtered"] = _is_filtered()
    if writer.steps is not None:
        frame["steps"] = writer.steps.text().decode()
    writer.send(Kind.REFUSED, frame)


def _is_filtered() -> bool:
    """Every kernel grants ``unshare(0)``, so what refuses it is a filter (seccomp(2))."""
    try:
        syscalls.unshare(0)
    except OSError:
        return True
    return False
