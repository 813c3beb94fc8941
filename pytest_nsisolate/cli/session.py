# SPDX-License-Identifier: MIT
"""One command in its namespaces, from the first fork until nothing of it is left.

They are its own (``run``), or those of a test that is held open (``enter``).

Fact: PID 1 gets no signal that it has no handler for (pid_namespaces(7)), so a Ctrl-C that is
passed on to it may do nothing at all.
Consequence: the third signal that asks for the end ends everything by SIGKILL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

from pytest_nsisolate.cli.command import (
    BY_SIGNAL,
    NOT_STARTED,
    TIMED_OUT,
    execute,
    open_terminal,
    shell,
    take_terminal,
)
from pytest_nsisolate.cli.relay import End, press, relay
from pytest_nsisolate.cli.terminal import PASSED_ON, Signals, Terminal, stop_here
from pytest_nsisolate.errors import IsolatedRefusal, NsisolateError, StepError, failing
from pytest_nsisolate.host.refusal import Refusal, RefusedError
from pytest_nsisolate.kernel import process
from pytest_nsisolate.kernel.originals import os, posix, select, signal, socket, traceback
from pytest_nsisolate.process import outcome
from pytest_nsisolate.process.channel import refuse
from pytest_nsisolate.process.job_control import Job
from pytest_nsisolate.process.launcher import Launcher
from pytest_nsisolate.process.plan import Fixed, current_directory
from pytest_nsisolate.wire.frames import FrameWriter, Kind

if TYPE_CHECKING:
    from pytest_nsisolate.process.channel import Output
    from pytest_nsisolate.process.child_process import ChildProcess
    from pytest_nsisolate.process.place import Place
    from pytest_nsisolate.request.model import IsolationRequest

#: Signals that ask for the end; at the third one the command is not asked any more.
_ASKING: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
_PATIENCE: Final = 3

#: Seconds that a command has after its terminal has gone.
_HANGUP_SECONDS: Final = 2.0


class LostError(NsisolateError):
    """The command was lost on its way into the namespaces, without a reason."""


class Session:
    """A command that stands in its namespaces; a context manager, at whose end it is gone.

    :param name: the subcommand, which says what the command cannot.
    :param command: what to run; where there is no such thing, that is its own exit status. Without
        one, the user's shell.
    :param join: the process whose namespaces it joins.
    :param directory: where it starts, seen from inside.
    :raises IsolatedRefusal: when this host denies a namespace.
    :raises LostError: when it was lost on the way.
    """

    def __init__(
        self,
        name: str,
        request: IsolationRequest,
        command: Sequence[str],
        *,
        join: Place | None = None,
        directory: str | None = None,
    ) -> None:
        self._launcher = Launcher(Fixed((current_directory(),)))
        self._terminal = Terminal() if os.isatty(0) else None
        self._asked: list[int] = []
        self._signals: Signals | None = None
        self._child: ChildProcess | None = None
        self._master = -1
        try:
            if join is None:
                request = self._launcher.admit(request)
            become = partial(_become, name, command, directory)
            self._start(request, become, join=join)
            self._get_ready(request)
        except RefusedError as error:
            self.close()
            found = error.refusal
            raise IsolatedRefusal(found.error, found.cause, found.remedy) from None
        except BaseException:
            self.close()
            raise

    # The way in ---------------------------------------------------------------------------------

    def _start(
        self,
        request: IsolationRequest,
        become: Callable[..., NoReturn],
        *,
        join: Place | None,
    ) -> None:
        theirs: socket.socket | None = None
        spare: tuple[int, int] | None = None

        def prepare(_: Output) -> Callable[[FrameWriter], NoReturn]:
            nonlocal theirs, spare
            if self._terminal is not None:
                with failing("open a channel for the terminal", None):
                    self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                    spare = None if join is None else open_terminal()
            return partial(become, theirs, spare, mask)

        # Blocked until they wait in a pipe; the command begins with the caller's own mask.
        mask = process.block_signals()
        try:
            cwd = "/" if request.has_foreign_root else None
            self._child = self._launcher.start(
                request, prepare, budget=request.timeout, join=join, cwd=cwd
            )
            self._signals = Signals()
        finally:
            process.restore_signals(mask)
            if theirs is not None:
                theirs.close()
            for fd in spare or ():
                os.close(fd)

    def _get_ready(self, request: IsolationRequest) -> None:
        child = self._child
        assert child is not None
        child.get_ready()
        match child.outcome:
            case Refusal() as refused:
                raise RefusedError(self._launcher.explained(refused, request.user))
            case outcome.Broken(reason=reason):
                raise LostError(f"the command was lost: {reason}")
        if self._terminal is not None:
            flags = socket.MSG_CMSG_CLOEXEC
            _, received, _, _ = socket.recv_fds(self._channel, 1, 1, flags)
            if not received:
                raise LostError("the command has ended before it had a terminal")
            self._master = received[0]

    # At work ------------------------------------------------------------------------------------

    def serve(self, until: int | None = None) -> tuple[int, str]:
        """Until the command has ended: (the exit status to end with, what there is to say).

        :param until: a descriptor; when it can be read, the command is ended.
        """
        child, signals = self._child, self._signals
        assert child is not None
        assert signals is not None
        if self._terminal is None:
            end = self._wait(child, signals, until)
        else:
            end = relay(
                *(self._master, _end_of(child)),
                terminal=self._terminal,
                signals=signals,
                seconds=child.seconds_left,
                until=until,
                deliver=lambda number: self._deliver(child, number),
            )
        if end is End.HUNG_UP:
            self._hang_up(child)
        while child.next_frame() is not None:
            pass
        return self._status(child)

    def _wait(self, child: ChildProcess, signals: Signals, until: int | None) -> End:
        """Without a terminal there is nothing to pass on but signals."""
        poller = select.poll()
        poller.register(signals.fd, select.POLLIN)
        poller.register(_end_of(child), select.POLLIN)
        if until is not None:
            poller.register(until, select.POLLIN)
        while True:
            left = child.seconds_left
            ready = dict(poller.poll(None if left is None else left * 1000))
            if not ready:
                return End.LATE
            for number in signals.taken():
                if number == signal.SIGTSTP:
                    Job(child).hold()
                    stop_here()
                    Job(child).go_on()
                elif number in PASSED_ON and not self._deliver(child, number):
                    return End.HUNG_UP
            if _end_of(child) in ready:
                return End.ENDED
            if until in ready:
                return End.HUNG_UP

    def _deliver(self, child: ChildProcess, number: int) -> bool:
        """Pass a signal for this process on to the command; False when it was asked enough."""
        if number in _ASKING:
            self._asked.append(number)
            if len(self._asked) >= _PATIENCE:
                return False
        if not (self._terminal is not None and press(self._master, number)):
            _send(child, number)
        return True

    def _hang_up(self, child: ChildProcess) -> None:
        """The terminal has gone, or patience or time is at its end: so is the command, soon."""
        self._close_master()
        if len(self._asked) < _PATIENCE:
            self._asked.append(signal.SIGHUP)
            _send(child, signal.SIGHUP)
            _send(child, signal.SIGCONT)
            poller = select.poll()
            poller.register(_end_of(child), select.POLLIN)
            poller.poll(_HANGUP_SECONDS * 1000)
        if child.outcome is None:
            child.kill()

    def _status(self, child: ChildProcess) -> tuple[int, str]:
        match child.outcome:
            case outcome.Exited(status=status):
                return status, ""
            case outcome.Crashed(signal=signal.SIGKILL) if self._asked:
                return BY_SIGNAL + self._asked[-1], ""
            case outcome.Crashed(signal=number):
                return BY_SIGNAL + number, ""
            case outcome.TimedOut(seconds=seconds):
                return TIMED_OUT, f"timed out after {seconds:g} s"
            case outcome.Broken(reason=reason):
                return NOT_STARTED, f"the command was lost: {reason}"
            case ended:
                return NOT_STARTED, f"the command was lost: {ended}"

    # The end ------------------------------------------------------------------------------------

    def close(self) -> None:
        """End everything that is left of the command. Bounded; may be called again."""
        self._close_master()
        self._launcher.close()
        if self._signals is not None:
            self._signals.close()
            self._signals = None

    def _close_master(self) -> None:
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _end_of(child: ChildProcess) -> int:
    """The pidfd of PID 1; of the supervisor where that was lost."""
    end = child.end
    return end.forked_pidfd if end.pid1_pidfd is None else end.pid1_pidfd


def _send(child: ChildProcess, number: int) -> None:
    try:
        signal.pidfd_send_signal(_end_of(child), number)
    except ProcessLookupError:
        pass  # its end is what is seen next


def _become(
    name: str,
    command: Sequence[str],
    directory: str | None,
    channel: socket.socket | None,
    spare: tuple[int, int] | None,
    mask: frozenset[int],
    writer: FrameWriter,
) -> NoReturn:
    """In the new process: everything stands but the command itself."""
    try:
        if channel is not None:
            take_terminal(channel, spare)
        found = command or shell()
        writer.send_ready()
        process.restore_signals(mask)
        execute(found, name, directory=directory)
    except StepError as error:
        refuse(writer, error)
    except BaseException as error:
        writer.send(Kind.BROKEN, {"text": "".join(traceback.format_exception(error))})
    finally:
        posix._exit(outcome.EXIT_REFUSED)
