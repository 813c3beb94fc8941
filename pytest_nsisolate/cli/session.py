# SPDX-License-Identifier: MIT
"""One command in its namespaces, from the first fork until nothing of it is left.

Fact: a process that is PID 1 gets no signal that it has no handler for (pid_namespaces(7)), so a
Ctrl-C that is passed on to it may do nothing at all.
Consequence: the third signal that asks for the end ends everything by SIGKILL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Final, NoReturn

from pytest_nsisolate import kernel
from pytest_nsisolate.cli.command import (
    BY_SIGNAL,
    NOT_STARTED,
    TIMED_OUT,
    execute,
    take_terminal,
)
from pytest_nsisolate.cli.relay import End, press, relay
from pytest_nsisolate.cli.terminal import PASSED_ON, Signals, Terminal, stop_here
from pytest_nsisolate.errors import IsolatedRefusal, NsisolateError, StepError, failing
from pytest_nsisolate.host.remedies import explain
from pytest_nsisolate.kernel import mounts, process, roots
from pytest_nsisolate.kernel.originals import os, posix, select, signal, socket, traceback
from pytest_nsisolate.process import launch, outcome
from pytest_nsisolate.process.channel import Output, RunnerEnd, Shared, refuse
from pytest_nsisolate.process.child_process import ChildProcess
from pytest_nsisolate.process.mount_plans import current_directory
from pytest_nsisolate.process.plan import plan_world
from pytest_nsisolate.process.supervisor import LaunchPlan
from pytest_nsisolate.request.options import Settings
from pytest_nsisolate.request.resolve import IsolationRequest
from pytest_nsisolate.runner.run import Run
from pytest_nsisolate.wire.frames import FrameWriter, Kind

#: Signals that ask for the end; at the third one nobody is asked any more.
_ASKING: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
_PATIENCE: Final = 3

#: Seconds that a command has after its terminal has gone.
_HANGUP_SECONDS: Final = 2.0


class LostError(NsisolateError):
    """The command has gone on its way into the namespaces, and nobody could say why."""


class Session:
    """A command that stands in its namespaces; a context manager, at whose end it is gone.

    :param command: what to run; where there is no such thing, that is its own exit status.
    :param root: the folder that is its root; real, and checked (:func:`roots.problem`).
    :param directory: where it starts, seen from inside.
    :raises IsolatedRefusal: when this host denies a namespace.
    :raises LostError: when it has gone on the way.
    """

    def __init__(
        self,
        request: IsolationRequest,
        command: Sequence[str],
        *,
        root: str | None = None,
        directory: str | None = None,
    ) -> None:
        self._run = Run(settings=Settings())
        self._request = request
        self._terminal = Terminal() if os.isatty(0) else None
        self._asked: list[int] = []
        self._signals: Signals | None = None
        self._child: ChildProcess | None = None
        self._master = -1
        try:
            self._start(self._plan(root), command, directory)
            self._get_ready()
        except StepError as error:
            self.close()
            raise self._refusal(error) from None
        except BaseException:
            self.close()
            raise

    # The way in ---------------------------------------------------------------------------------

    def _plan(self, root: str | None) -> LaunchPlan:
        asked = self._request
        verdict = self._run.host_check.probe(asked.namespaces, asked.user, asked.named)
        if (found := verdict.refusal) is not None:
            step = StepError(found.step, found.namespace, found.errno, found.detail)
            raise IsolatedRefusal(step, found.cause, found.remedy)
        if verdict.leave_out_user:
            self._request = asked.without_user_namespace()
        own, more = self._request.namespaces, self._request.devices
        world = new_root = None
        if "mount" in own:
            in_use = [current_directory()] if root is None else [current_directory(), root]
            # A root of its own has a minimal /dev in any case.
            shown = None if root is not None or self._request.has_host_powers else more
            world = mounts.plan_mounts(own=own, in_use=in_use, more_devices=shown)
            if root is not None:
                new_root = roots.plan_root(root, own=own, more_devices=more)
        plan = plan_world(self._request, self._run, world)
        return replace(plan, lean=True, root=new_root)

    def _start(self, plan: LaunchPlan, command: Sequence[str], directory: str | None) -> None:
        kernel.preload()
        with failing("open what the child shares", None):
            self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            shared = Shared(null, os.pidfd_open(os.getpid()), ())

        def register(end: RunnerEnd) -> None:
            budget = self._request.timeout
            self._child = ChildProcess(end, maps=plan.maps, budget=budget, init=plan.init)

        # Blocked until they wait in a pipe; the command begins with the caller's own mask.
        mask = process.block_signals()
        try:
            writer = launch.launch(plan, Output.create(), shared, (), register)
            if writer is not None:
                channel = None if self._terminal is None else theirs
                _become(command, writer, channel, directory, mask)
            self._signals = Signals()
        finally:
            process.restore_signals(mask)
        theirs.close()

    def _get_ready(self) -> None:
        child = self._child
        assert child is not None
        child.get_ready()
        match child.outcome:
            case outcome.Refused() as refused:
                step = StepError(refused.step, refused.namespace, refused.errno, refused.detail)
                raise self._refusal(step)
            case outcome.Broken(reason=reason):
                raise LostError(f"the command was lost: {reason}")
        if self._terminal is not None:
            flags = socket.MSG_CMSG_CLOEXEC
            _, received, _, _ = socket.recv_fds(self._channel, 1, 1, flags)
            if not received:
                raise LostError("the command has ended before it had a terminal")
            self._master = received[0]

    def _refusal(self, step: StepError) -> IsolatedRefusal:
        user = self._request.user
        why = explain(step.step, step.namespace, step.errno, self._run.host, user=user)
        return IsolatedRefusal(step, why.cause, why.remedy)

    # At work ------------------------------------------------------------------------------------

    def serve(self) -> tuple[int, str]:
        """Until the command has ended: (the exit status to end with, what there is to say)."""
        child, signals = self._child, self._signals
        assert child is not None
        assert signals is not None
        if self._terminal is None:
            end = self._wait(child, signals)
        else:
            end = relay(
                *(self._master, _end_of(child)),
                terminal=self._terminal,
                signals=signals,
                seconds=child.seconds_left,
                deliver=lambda number: self._deliver(child, number),
            )
        if end is End.HUNG_UP:
            self._hang_up(child)
        while child.next_frame() is not None:
            pass
        return self._status(child)

    def _wait(self, child: ChildProcess, signals: Signals) -> End:
        """Without a terminal there is nothing to pass on but signals."""
        poller = select.poll()
        poller.register(signals.fd, select.POLLIN)
        poller.register(_end_of(child), select.POLLIN)
        while True:
            left = child.seconds_left
            ready = dict(poller.poll(None if left is None else left * 1000))
            if not ready:
                return End.LATE
            for number in signals.taken():
                if number == signal.SIGTSTP:
                    child.hold()
                    stop_here()
                    child.go_on()
                elif number in PASSED_ON and not self._deliver(child, number):
                    return End.HUNG_UP
            if _end_of(child) in ready:
                return End.ENDED

    def _deliver(self, child: ChildProcess, number: int) -> bool:
        """A signal for this process is one for the command; False when it was asked enough."""
        if number in _ASKING:
            self._asked.append(number)
            if len(self._asked) >= _PATIENCE:
                return False
        if not (self._terminal is not None and press(self._master, number)):
            _send(child, number)
        return True

    def _hang_up(self, child: ChildProcess) -> None:
        """The terminal has gone, or patience is at its end: so is the command, soon."""
        self._close_master()
        if len(self._asked) < _PATIENCE:
            self._asked.append(signal.SIGHUP)
            _send(child, signal.SIGHUP)
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
        if self._child is not None:
            child, self._child = self._child, None
            try:
                child.kill()
            finally:
                child.reap()
        if self._signals is not None:
            self._signals.close()
            self._signals = None

    def _close_master(self) -> None:
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _end_of(child: ChildProcess) -> int:
    """The pidfd of PID 1; of the process in the middle where that was lost."""
    end = child.end
    return end.forked_pidfd if end.pid1_pidfd is None else end.pid1_pidfd


def _send(child: ChildProcess, number: int) -> None:
    try:
        signal.pidfd_send_signal(_end_of(child), number)
    except ProcessLookupError:
        pass  # its end is what is seen next


def _become(
    command: Sequence[str],
    writer: FrameWriter,
    channel: socket.socket | None,
    directory: str | None,
    mask: frozenset[int],
) -> NoReturn:
    """In the new PID 1, or the child of the init: everything stands but the command itself."""
    try:
        if channel is not None:
            take_terminal(channel)
        writer.send_encoded(Kind.READY, b"{}")
        process.restore_signals(mask)
        execute(command, directory=directory)
    except StepError as error:
        refuse(writer, error)
    except BaseException as error:
        writer.send(Kind.BROKEN, {"text": "".join(traceback.format_exception(error))})
    finally:
        posix._exit(outcome.EXIT_REFUSED)
