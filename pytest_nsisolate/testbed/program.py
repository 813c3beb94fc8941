# SPDX-License-Identifier: MIT
"""A program in the background of a host: started, awaited until it is ready, ended.

Fact: only children enter a PID namespace, and a program's status is its parent's to learn.
What we do: a function of the box (:mod:`.program_loop`) starts the program in a session of its own,
passes signals on, and waits for it. It dies with the box, as the program does.

Fact: a pipe that a daemon holds open never ends.
What we do: output goes to a file in memory, which outlives the process that writes to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeAlias

from pytest_nsisolate.errors import IsolatedLoss, NotReadyError, StepError, TestbedError, failing
from pytest_nsisolate.isolate.call import Function
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import open, os, re, select, signal, socket, subprocess, time
from pytest_nsisolate.process.after_fork import here
from pytest_nsisolate.testbed.program_loop import MESSAGE, serve

if TYPE_CHECKING:
    from pytest_nsisolate.isolate.task import Task
    from pytest_nsisolate.testbed.host import Host

#: When a program is ready: its port, a path on its host, text in its log, or a function.
Ready: TypeAlias = "int | str | os.PathLike[str] | re.Pattern[str] | Callable[[], object]"

#: Seconds between SIGTERM and SIGKILL.
GRACE: Final = 5.0

#: Bytes of a log that are looked through for a pattern, and kept for a message.
_MOST_LOG: Final = 1 << 20

_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.02

_LISTEN: Final = "0A"


class Program:
    """One program under way. Made by ``host.start(...)``; a context manager.

    :ivar command: as one would type it.
    :ivar pid: its number on its host.
    """

    def __init__(
        self,
        host: Host,
        words: list[str],
        name: str,
        *,
        env: Mapping[str, str] | None,
        cwd: str | None,
    ) -> None:
        __tracebackhide__ = True
        self.command = name
        self._host = host
        self._of = here()
        self.pid = 0
        self._status: int | None = None
        self._ended = False
        self._over = False  # its process group, too
        with host.testbed.refusing(f"host {host.name}"):
            with failing("memfd_create", None):
                self._log = os.memfd_create("nsisolate-program", os.MFD_CLOEXEC)
            try:
                with failing("socketpair", None):
                    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            except StepError:
                os.close(self._log)
                raise
        self._socket = ours
        try:
            work = Function(serve, (words, self._log, ours, theirs, env, cwd), {}, command=name)
            self._task: Task[int | None] = host.box.begin(work)
        except BaseException:
            ours.close()
            os.close(self._log)
            raise
        finally:
            theirs.close()
        self._await_start(words)

    def _await_start(self, words: list[str]) -> None:
        __tracebackhide__ = True
        try:
            letter, number = self._hear()
            if letter == b"E":
                error = OSError(number, os.strerror(number), words[0])
                error.add_note(f"on host {self._host.name}")
                raise error
            if letter != b"P":
                raise IsolatedLoss(self.command, "it has not started")
        except BaseException:
            try:
                self._end()
            finally:
                os.close(self._log)
            raise
        self.pid = number

    @property
    def is_own(self) -> bool:
        """This very process has started it, not one of which this is a fork."""
        return self._of is here()

    def _hear(self) -> tuple[bytes, int]:
        """The next message; without one, because that end is closed, no letter.

        A test that shares its testbed leaves the message for the next one.
        """
        flags = 0 if self.is_own else socket.MSG_PEEK
        refusing = self._host.testbed.refusing(f"host {self._host.name}")
        with refusing, failing("hear of the program", None):
            try:
                data = self._socket.recv(MESSAGE.size, flags)
            except ConnectionResetError:
                # It has ended with a signal of ours unread; what it has sent is here all the same.
                data = self._socket.recv(MESSAGE.size, flags)
        if len(data) < MESSAGE.size:
            return b"", 0
        letter, number = MESSAGE.unpack(data)
        return letter, number

    # What a test asks ----------------------------------------------------------------------------

    @property
    def log(self) -> str:
        """What it has written to its standard output and standard error, up to the last 1 MB."""
        if self._log < 0:
            return self._last_log
        size = os.fstat(self._log).st_size
        start = max(0, size - _MOST_LOG)
        return os.pread(self._log, size - start, start).decode(errors="replace")

    @property
    def status(self) -> int | None:
        """None while it runs; else its exit status, or minus the signal that has ended it."""
        self._look(0)
        return self._status

    def running(self) -> bool:
        """It has not ended."""
        return not self._look(0)

    def wait(self, timeout: float | None = None) -> int | None:
        """Until it ends by itself.

        :param timeout: seconds.
        :returns: its status; None if it is not known, because its host has crashed.
        :raises subprocess.TimeoutExpired: when it has not ended by then; it goes on.
        """
        __tracebackhide__ = True
        until = None if timeout is None else monotonic() + timeout
        while not self._look(_LONGEST_PAUSE):
            self._host.testbed.take_packets()
            if until is not None and monotonic() > until:
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.command, timeout, self.log)
        return self._status

    def send_signal(self, number: int) -> None:
        """To the program and all that is in its process group, as a terminal does."""
        if not self._look(0, group=True):
            self._say(b"S", number)

    def stop(self, within: float = GRACE) -> int | None:
        """SIGTERM, and SIGKILL after so many seconds, for it and all that is in its process group.

        All of these have ended afterwards; of a program that had ended by itself, too.

        :returns: its status.
        :raises TestbedError: if it was started for all tests of a module.
        """
        __tracebackhide__ = True
        self._check_own()
        self.send_signal(signal.SIGTERM)
        self.send_signal(signal.SIGCONT)
        if not self._await_group(within):
            self.kill()
        return self._status

    def kill(self) -> int | None:
        """SIGKILL; it and all that is in its process group have ended afterwards.

        :raises TestbedError: if it was started for all tests of a module.
        """
        __tracebackhide__ = True
        self._check_own()
        self.send_signal(signal.SIGKILL)
        # What the kernel does not let die ends with its host.
        while not self._await_group(GRACE) and not self._ended:
            pass
        return self._status

    def _check_own(self) -> None:
        __tracebackhide__ = True
        if not self.is_own:
            text = f"{self.command} was started for all tests that share {self._host.name}"
            raise TestbedError(f"{text}: send it a signal if one of them is to end it")

    def _await_group(self, seconds: float) -> bool:
        """Whether it has ended with its process group, waiting up to so long."""
        until = monotonic() + seconds
        if not self._over:
            self._say(b"W")
        while not self._look(max(0.0, min(_LONGEST_PAUSE, until - monotonic())), group=True):
            self._host.testbed.take_packets()
            if monotonic() > until:
                return False
        return True

    def _say(self, letter: bytes, number: int = 0) -> None:
        try:
            self._socket.send(MESSAGE.pack(letter, number))
        except OSError:
            pass  # it has just ended

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if not self._ended else f"ended with {self._status}"
        return f"<program {self.command} on {self._host.name}, {state}>"

    # Until it is ready ---------------------------------------------------------------------------

    def await_ready(self, ready: Ready, within: float) -> None:
        """Wait for a condition.

        :raises NotReadyError: when the program has ended, or the time is over.
        """
        __tracebackhide__ = True
        expected, holds = self._condition(ready)
        until = monotonic() + within
        pause = _FIRST_PAUSE
        while not holds():
            self._host.testbed.take_packets()
            if self._look(0):
                became = _ending(self._status)
                self.kill()
            elif monotonic() > until:
                became = f"not ready after {within:g} s"
                self.kill()
            else:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            raise NotReadyError(self._host.name, self.command, expected, became, self.log)

    def _condition(self, ready: Ready) -> tuple[str, Callable[[], object]]:
        __tracebackhide__ = True
        if isinstance(ready, bool) or ready is None:
            raise TypeError(f"ready={ready!r}: a port, a path, a pattern of the log or a function")
        if isinstance(ready, int):
            return f"port {ready}", lambda: port_in_use(self._host.pid, ready)
        if callable(ready):
            name = getattr(ready, "__qualname__", repr(ready)).rpartition("<locals>.")[2]
            return f"{name}() to be true", ready
        if isinstance(ready, re.Pattern):
            pattern = ready
            return f"{pattern.pattern!r} in its log", lambda: pattern.search(self.log)
        path = os.fspath(ready)
        if path.startswith("/"):
            there = f"/proc/{self._host.pid}/root{path}"
            return f"{path} to exist", lambda: os.path.exists(there)
        return f"{path!r} in its log", lambda: re.search(path, self.log)

    # The end -------------------------------------------------------------------------------------

    def _look(self, seconds: float, *, group: bool = False) -> bool:
        """Whether it has ended, and its process group if that is asked, waiting up to so long."""
        if self._over or (self._ended and not group):
            return True
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        if not poller.poll(seconds * 1000):
            return False
        letter, number = self._hear()
        self._ended = True
        if letter:
            self._status = number
        if letter != b"L" and self.is_own:
            self._end()
        return letter != b"L" or not group

    def _end(self) -> None:
        self._ended = self._over = True
        self._socket.close()
        if not self._task.settled:
            self._task.result()  # of the function that has waited for it

    def forget(self) -> None:
        """Its host is gone, and the program with it."""
        if not self._over:
            self._ended = self._over = True
            self._socket.close()
        if self._log >= 0:
            self._last_log = self.log
            os.close(self._log)
            self._log = -1

    _last_log: str = ""


def _ending(status: int | None) -> str:
    if status is None:
        return "it is gone"
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return f"killed by {name} before it was ready"
    return f"ended with status {status} before it was ready"


def port_in_use(pid: int, port: int) -> bool:
    """Whether a TCP port is listened to, or a UDP port in use, in the network of that process."""
    for name in ("tcp", "tcp6", "udp", "udp6"):
        try:
            with open(f"/proc/{pid}/net/{name}", encoding="utf-8") as file:
                lines = file.read().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, *_ = line.split()
            if int(local.rpartition(":")[2], 16) == port and (
                state == _LISTEN or name.startswith("udp")
            ):
                return True
    return False
