# SPDX-License-Identifier: MIT
"""Namespaces that stay open for several functions and commands.

Fact: namespaces live as long as a process is in them, and a process can be put into those of
another one: all at once by setns(2) with a pidfd, but for the PID namespace, into which only later
children are born.

Consequence: a keeper is PID 1 of the new namespaces; it holds nothing of the caller's, reaps
orphans, and does nothing else. Each function is a fork of the caller, as of any call, whose usher
joins the keeper's namespaces and forks the function's process there. When the keeper is killed the
kernel kills everything in its PID namespace, whatever has become a daemon there.

What still fails: a timeout ends the function's process, not those that it has started; these live
until the box is closed. The host's processes are not in the box, but it sees the host's files.
"""

from __future__ import annotations

import os
import posix
import select
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import IO, Any, NoReturn, ParamSpec, TypeVar

from pytest_nsisolate import outcome
from pytest_nsisolate.calls.body import Function
from pytest_nsisolate.calls.home import Home
from pytest_nsisolate.calls.spawning import admitted, refusal, spawn
from pytest_nsisolate.calls.tasks import Task
from pytest_nsisolate.copies import here
from pytest_nsisolate.errors import IsolatedLoss
from pytest_nsisolate.kernel import namespaces, process
from pytest_nsisolate.request import IsolationRequest
from pytest_nsisolate.wire import FrameWriter, Kind

P = ParamSpec("P")
T = TypeVar("T")

#: What ``subprocess.run`` takes as a command.
Command = Sequence[str | bytes | os.PathLike[str]]


class Box:
    """Open namespaces, by their keeper. Made by ``isolate.open()``; a context manager.

    Everything in it ends when it is closed.
    """

    def __init__(self, home: Home, request: IsolationRequest, *, trusted: bool) -> None:
        __tracebackhide__ = True
        self._home = home
        self._of = here()
        self._run = home.run
        self._trusted = trusted
        # The budget is that of each function, and the keeper is a reaper itself.
        named = request.namespaces | {"pid"}
        self._tasks: list[Task[Any]] = []
        self._closed = False
        with self._run.calls_lock:
            self._request = admitted(self._run, request.replace(namespaces=named))
            keeping = self._request.replace(timeout=None, init=False)
            self.attempt = spawn(self._run, home.config, keeping, lambda files: _keep)
            self._run.tasks.append(self)
        try:
            self.attempt.get_ready()
            ended = self.attempt.outcome
            if isinstance(ended, outcome.Refused):
                raise refusal(self._run, ended, keeping)
            if ended is not None:
                raise IsolatedLoss("the keeper of a box", str(ended))
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The number of its PID 1, as the caller sees it."""
        assert self.attempt.end.pid1 is not None
        return self.attempt.end.pid1

    @property
    def namespaces(self) -> dict[str, str]:
        """Kind of namespace to the file that stands for it, ``/proc/PID/ns/net``."""
        return {
            name: f"/proc/{self.pid}/ns/{namespaces.PROC_NAMES[name]}"
            for name in namespaces.NAMESPACES
            if name in self._request.namespaces
        }

    @property
    def settled(self) -> bool:
        """It is closed."""
        return self._closed

    def run(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in the box, and wait for it; as ``isolate(func, ...)``."""
        __tracebackhide__ = True
        task: Task[T] = self._task(Function(func, args, kwargs, self._trusted))
        return task.result()

    def start(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]:
        """As :meth:`run`, but without waiting; as ``isolate.start(func, ...)``."""
        __tracebackhide__ = True
        task: Task[T] = self._task(Function(func, args, kwargs, self._trusted))
        with self._run.calls_lock:
            self._tasks = [*(other for other in self._tasks if not other.over), task]
            self._home.custody.take(task)
        return task

    def command(
        self,
        args: Command,
        *,
        check: bool = False,
        input: str | bytes | None = None,  # noqa: A002 (the name that subprocess has)
        text: bool = True,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a program in the box and wait for its end, as :func:`subprocess.run` does.

        What it leaves running may hold its output for as long as it likes: that is waited for by
        nobody.

        :param check: a status other than 0 is a :class:`subprocess.CalledProcessError`.
        :param input: its standard input; without, there is nothing to read.
        :param text: whether ``input`` and the output are text, or bytes.
        :param timeout: seconds; then it is killed, and :class:`subprocess.TimeoutExpired`.
        :param env: its whole environment; without, the caller's.
        :raises OSError: when it cannot be started.
        """
        __tracebackhide__ = True
        data = input.encode() if isinstance(input, str) else input
        command = [os.fspath(arg) for arg in args]
        work = Function(_execute, (command, data, timeout, env, cwd), {})
        status, out, err = self._task(work).result()
        if text:
            out, err = (part.decode(errors="replace") for part in (out, err))
        if status is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(command, timeout, out, err)
        completed: subprocess.CompletedProcess[Any]
        completed = subprocess.CompletedProcess(command, status, out, err)
        if check:
            completed.check_returncode()
        return completed

    def close(self) -> None:
        """End everything in the box, and the box. May be called again."""
        if self._of is not here():
            return
        with self._run.calls_lock:
            if self._closed:
                return
            self._closed = True
            try:
                self.attempt.kill()
            finally:
                self.attempt.bury()
                self._run.tasks.remove(self)
        for task in self._tasks:
            task.end()

    #: What a custody does with a box that nobody has closed.
    end = close

    def __enter__(self) -> Box:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"open, PID 1 is {self.attempt.end.pid1}"
        return f"<{type(self).__name__} of {' '.join(sorted(self._request.namespaces))}, {state}>"

    def _task(self, function: Function) -> Task[Any]:
        __tracebackhide__ = True
        if self._of is not here():
            raise RuntimeError(f"{self!r} belongs to the process that has opened it")
        with self._run.calls_lock:
            if self._closed or self.attempt.wait(0):
                raise IsolatedLoss(function.name, "its box is closed, or its PID 1 has ended")
            # Whoever closes the box gives the number of its pidfd away.
            keeper = self.attempt.end.pid1_pidfd
            return Task(self._home, function, self._request, keeper)


def _keep(writer: FrameWriter) -> NoReturn:
    """PID 1 of a box, for as long as it is open."""
    try:
        process.block_signals()
        writer.send_encoded(Kind.READY, b"{}")
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        process.close_all_but()
        while True:
            signal.sigwait([signal.SIGCHLD])
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
    finally:
        posix._exit(1)


def _execute(
    command: list[str | bytes],
    data: bytes | None,
    timeout: float | None,
    env: Mapping[str, str] | None,
    cwd: str | None,
) -> tuple[int | None, bytes, bytes]:
    """In the box: (wait status, output, errors) of a program; no status if it was too slow.

    Through files and not pipes, whose end a daemon would hold back.
    """
    with _memory() as given, _memory() as out, _memory() as err:
        if data is not None:
            given.write(data)
            given.seek(0)
        stdin = subprocess.DEVNULL if data is None else given
        child = subprocess.Popen(command, stdin=stdin, stdout=out, stderr=err, env=env, cwd=cwd)
        status = _wait(child, timeout)
        return status, _content(out), _content(err)


def _memory() -> IO[bytes]:
    return open(os.memfd_create("nsisolate-command"), "r+b", buffering=0)


def _content(file: IO[bytes]) -> bytes:
    fd = file.fileno()
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _wait(child: subprocess.Popen[bytes], timeout: float | None) -> int | None:
    if timeout is not None:
        pidfd = os.pidfd_open(child.pid)
        waiter = select.poll()
        waiter.register(pidfd, select.POLLIN)
        if not waiter.poll(timeout * 1000):
            child.kill()
            child.wait()
            return None
    return child.wait()
