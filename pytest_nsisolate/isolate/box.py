# SPDX-License-Identifier: MIT
"""Namespaces that stay open for several functions and commands.

Fact: namespaces live as long as a process is in them, and a process can be put into those of
another one: into all at once by setns(2) with a pidfd, except the PID namespace, into which only
later children are born.

Consequence: a keeper is PID 1 of the new namespaces; it holds nothing of the caller's, reaps
orphans, and does nothing else. Each function is a fork of the caller, as in any call; its
supervisor joins the keeper's namespaces and forks the function's process there. When the keeper is
killed the kernel kills everything in its PID namespace, daemons too.

What still fails: a timeout ends the function's process, not those that it has started; these live
until the box is closed. The host's processes are not in the box, but it sees the host's files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from shlex import join
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec, TypeVar

from pytest_nsisolate.child import output
from pytest_nsisolate.errors import IsolatedCrash, IsolatedLoss, StepError, failing
from pytest_nsisolate.host.refusal import Refusal, RefusedError
from pytest_nsisolate.isolate.call import Function
from pytest_nsisolate.isolate.faulty import Faulty
from pytest_nsisolate.isolate.judgement import refusal
from pytest_nsisolate.isolate.per_process import PerProcess
from pytest_nsisolate.isolate.task import Task
from pytest_nsisolate.kernel import namespaces, process
from pytest_nsisolate.kernel.originals import os, posix, select, signal, subprocess
from pytest_nsisolate.process import channel
from pytest_nsisolate.process.after_fork import here
from pytest_nsisolate.process.place import Place
from pytest_nsisolate.request.model import IsolationRequest
from pytest_nsisolate.wire.frames import FrameWriter

if TYPE_CHECKING:
    from pytest_nsisolate.view.faults import Injector

P = ParamSpec("P")
T = TypeVar("T")

#: What ``subprocess.run`` takes as a command.
Command = Sequence[str | bytes | os.PathLike[str]]

#: What a message shows of a failed command's output, from its end.
_MOST_LINES: Final = 40
_MOST_CHARACTERS: Final = 4000

#: Seconds between two calls of :attr:`Box.meanwhile`.
_LOOK_SECONDS: Final = 0.02

#: Characters of a command that name it in a message.
_MOST_NAMED: Final = 100


class Box(Faulty):
    """Open namespaces, by their keeper. Made by ``isolate.open()``; a context manager.

    Everything in it ends when it is closed.

    :param lent: forks of its opener may run something in it, too.
    :param furnish: called by its PID 1 when the namespaces stand, before any other process is in
        them; a :class:`~pytest_nsisolate.errors.StepError` refuses the box.
    """

    def __init__(
        self,
        home: PerProcess,
        request: IsolationRequest,
        name: str,
        *,
        trusted: bool,
        lent: bool = False,
        furnish: Callable[[], None] | None = None,
    ) -> None:
        __tracebackhide__ = True
        self._home = home
        self._of = here()
        self._caller = home.caller
        self._trusted = trusted
        self._lent = lent
        # The budget is that of each function, and the keeper is an init itself.
        named = request.namespaces | {"pid"}
        self._tasks: list[Task[Any]] = []
        self._closed = False
        self._end_span = home.span(name, "box")
        #: Called now and then while the caller waits for a function or a command.
        self.meanwhile: Callable[[], None] | None = None
        launcher = self._caller.launcher
        with launcher.lock:
            self._request = request.replace(namespaces=named)
            keeping = self._request.replace(timeout=None, init=False)
            try:
                output.flush_to_terminal(home.config)
                self.child, keeping = launcher.start_admitted(
                    keeping, lambda _: partial(_keep, furnish), budget=None
                )
            except RefusedError as error:
                raise refusal(error.refusal, self._request, name) from None
            self._request = keeping.replace(timeout=request.timeout, init=request.init)
            self._caller.tasks.append(self)
        try:
            self.child.get_ready()
            ended = self.child.outcome
            if isinstance(ended, Refusal):
                raise refusal(launcher.explained(ended, keeping.user), keeping, name)
            if ended is not None:
                raise IsolatedLoss(f"PID 1 of {name}", str(ended))
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The number of its PID 1, as the caller sees it."""
        assert self.child.end.pid1 is not None
        return self.child.end.pid1

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
        task: Task[T] = self._task(Function.of(func, args, kwargs, self._trusted))
        return self._result(task)

    def start(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]:
        """As :meth:`run`, but without waiting; as ``isolate.start(func, ...)``."""
        __tracebackhide__ = True
        task: Task[T] = self.begin(Function.of(func, args, kwargs, self._trusted))
        with self._caller.launcher.lock:
            self._home.unawaited.take(task)
        return task

    def begin(self, function: Function) -> Task[Any]:
        """As :meth:`start`, of a task that ends with the box and need not be awaited."""
        __tracebackhide__ = True
        task = self._task(function)
        with self._home.caller.launcher.lock:
            self._tasks = [*(other for other in self._tasks if not other.over), task]
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

        It does not wait for what the program leaves running, which may hold its output. An
        exception about its end has the last lines that it wrote as notes.

        :param args: the program and its arguments, as a list.
        :param check: a status other than 0 raises :class:`subprocess.CalledProcessError`.
        :param input: its standard input; without, there is nothing to read.
        :param text: whether ``input`` and the output are text, or bytes.
        :param timeout: seconds; then it is killed, and :class:`subprocess.TimeoutExpired`.
        :param env: its whole environment; without, the caller's.
        :raises OSError: when it cannot be started.
        """
        __tracebackhide__ = True
        data = input.encode() if isinstance(input, str) else input
        command = listed(args)
        name = in_one_line(command)
        where = None if cwd is None else os.fspath(cwd)
        error: Exception
        try:
            streams = _Streams.create(data)
        except StepError as step:
            refused = self._caller.launcher.explained(Refusal.of(step), self._request.user)
            raise refusal(refused, self._request, name) from None
        try:
            work = Function(_execute, (command, streams, timeout, env, where), {}, command=name)
            try:
                status, failure = self._result(self._task(work))
            except IsolatedCrash as crash:
                streams.explain(crash)
                raise
            out, err = streams.written(text=text)
            if failure is not None:
                raise OSError(*failure)
            if status is None:
                assert timeout is not None
                error = subprocess.TimeoutExpired(command, timeout, out, err)
            elif status and check:
                error = subprocess.CalledProcessError(status, command, out, err)
            else:
                return subprocess.CompletedProcess(command, status, out, err)
            streams.explain(error)
            raise error
        finally:
            streams.close()

    def begin_to_close(self) -> None:
        """Kill everything in it without waiting for that, which :meth:`close` does."""
        pidfd = self.child.end.pid1_pidfd
        if self._of is here() and not self._closed and pidfd is not None:
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended

    def close(self) -> None:
        """End everything in the box, and the box. May be called again."""
        if self._of is not here():
            return
        with self._caller.launcher.lock:
            if self._closed:
                return
            self._closed = True
            try:
                self.child.kill()
            finally:
                self.child.reap()
                self._caller.tasks.remove(self)
        for task in self._tasks:
            task.end()
        self._end_span("closed", self.child)

    def helpers(self) -> dict[int, str]:
        """The processes that hold it open, and what to call them."""
        pid1 = self.child.end.pid1
        return {**self.child.helpers(), **({} if pid1 is None else {pid1: "(PID 1 of a box)"})}

    @property
    def processes(self) -> frozenset[int]:
        """Each process that holds it open or runs in it is one of these, or below one of them."""
        children = [self.child, *(task.child for task in self._tasks if not task.over)]
        found = {pid for child in children for pid in (child.end.forked, child.end.pid1)}
        return frozenset(pid for pid in found if pid is not None)

    #: What the end of a test or fixture does with a box that is still open.
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
        state = "closed" if self._closed else f"open, PID 1 is {self.child.end.pid1}"
        return f"<{type(self).__name__} of {' '.join(sorted(self._request.namespaces))}, {state}>"

    def _injector(self) -> Injector:
        from pytest_nsisolate.view.faults import Injector  # few tests need it

        if self._closed:
            raise RuntimeError(f"{self!r} has no processes any more")
        where = self.namespaces["pid"]
        inside = os.stat(where).st_ino
        return Injector(self._home.fault_engine(), {"within": inside}, where)

    def _result(self, task: Task[T]) -> T:
        __tracebackhide__ = True
        while self.meanwhile is not None and not task.wait(_LOOK_SECONDS):
            self.meanwhile()
        return task.result()

    def _has_ended(self, keeper: int) -> bool:
        if self._of is here():
            return self.child.wait(0)
        waiter = select.poll()  # what its opener hears of it is not this process's to read
        waiter.register(keeper, select.POLLIN)
        return bool(waiter.poll(0))

    def _task(self, function: Function) -> Task[Any]:
        __tracebackhide__ = True
        if self._of is not here() and not self._lent:
            raise RuntimeError(f"{self!r} belongs to the process that has opened it")
        with self._home.caller.launcher.lock:
            # Closing the box frees the number of its pidfd for another file.
            keeper = self.child.end.pid1_pidfd
            if self._closed or keeper is None or self._has_ended(keeper):
                raise IsolatedLoss(function.name, "its box is closed, or its PID 1 has ended")
            return Task(self._home, function, self._request, Place(keeper))


def _keep(furnish: Callable[[], None] | None, writer: FrameWriter) -> NoReturn:
    """PID 1 of a box, for as long as it is open."""
    try:
        process.block_signals()
        if furnish is not None:
            try:
                furnish()
            except StepError as error:
                channel.refuse(writer, error)
                raise
        writer.send_ready()
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


@dataclass(frozen=True, slots=True)
class _Streams:
    """What a command reads and writes: files of the caller's, which outlive each writer.

    Not pipes, whose end a daemon would hold back.

    :param given: None for nothing to read.
    """

    given: int | None
    out: int
    err: int

    @classmethod
    def create(cls, data: bytes | None) -> _Streams:
        """
        :raises StepError: when there is no descriptor, or no memory, left.
        """
        made: list[int] = []
        try:
            with failing("memfd_create", None):
                for _ in range(2 if data is None else 3):
                    made.append(os.memfd_create("nsisolate-command", os.MFD_CLOEXEC))
            if data is None:
                return cls(None, *made)
            with failing("write the input of a command", None):
                rest = memoryview(data)
                while rest:
                    rest = rest[os.pwrite(made[2], rest, len(data) - len(rest)) :]
            return cls(made[2], made[0], made[1])
        except BaseException:
            for fd in made:
                os.close(fd)
            raise

    def close(self) -> None:
        for fd in (self.given, self.out, self.err):
            if fd is not None:
                os.close(fd)

    def written(self, *, text: bool) -> tuple[Any, Any]:
        """Standard output and standard error, as far as they have come."""
        found: list[Any] = [os.pread(fd, os.fstat(fd).st_size, 0) for fd in (self.out, self.err)]
        out, err = (part.decode(errors="replace") for part in found) if text else found
        return out, err

    def explain(self, error: Exception) -> None:
        """Give the end of both to an exception that tells of the command, as notes."""
        for name, text in zip(("output", "error"), self.written(text=True), strict=True):
            whole = text.rstrip()
            end = "\n".join(whole.split("\n")[-_MOST_LINES:])[-_MOST_CHARACTERS:]
            if end:
                cut = " (its end)" if len(end) < len(whole) else ""
                error.add_note(f"Standard {name}{cut}:\n{end}")


def listed(args: Command) -> list[str | bytes]:
    """The words of a command.

    :raises TypeError: for a string.
    """
    __tracebackhide__ = True
    if isinstance(args, str | bytes | os.PathLike):
        raise TypeError(f"a command is a list of its words, [{args!r}, ...], not {args!r}")
    if not args:
        raise ValueError("a command is a list of its words, and this one is empty")
    return [os.fspath(arg) for arg in args]


def in_one_line(command: list[str | bytes]) -> str:
    """A command as you would type it; a long one shortened."""
    line = " ".join(join(os.fsdecode(part) for part in command).split())
    return line if len(line) <= _MOST_NAMED else f"{line[:_MOST_NAMED]}..."


def _execute(
    command: list[str | bytes],
    streams: _Streams,
    timeout: float | None,
    env: Mapping[str, str] | None,
    cwd: str | None,
) -> tuple[int | None, tuple[object, ...] | None]:
    """In the box: wait status of a program, and why it could not be started.

    No status if it was too slow.
    """
    stdin = subprocess.DEVNULL if streams.given is None else streams.given
    try:
        child = subprocess.Popen(
            command, stdin=stdin, stdout=streams.out, stderr=streams.err, env=env, cwd=cwd
        )
    except OSError as error:
        return None, (error.errno, error.strerror, error.filename)
    return _wait(child, timeout), None


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
