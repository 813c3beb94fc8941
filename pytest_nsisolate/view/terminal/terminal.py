# SPDX-License-Identifier: MIT
"""A program at its own terminal, as the test sees and steers it.

Fact: what a program writes waits in the kernel until the other side reads it, and a program whose
terminal is full waits too. Only the test can read: a thread would keep it from entering a user
namespace (unshare(2)), and a process would be one more of its world.
Consequence: the screen goes on whenever the test looks or waits, through this object.

Fact: a terminal belongs to one session (setsid(2)). Consequence: each program gets a new terminal
and leads a session of its own, as in a window, so that a hang-up and Ctrl-C reach what they would
reach there.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import fcntl, os, re, select, subprocess, termios
from pytest_nsisolate.kernel.signals import signal_name
from pytest_nsisolate.view.assertions.failures import failure
from pytest_nsisolate.view.terminal.keys import sequence

if TYPE_CHECKING:
    from pytest_nsisolate.view.terminal.emulator import Emulator, Screen

#: As the console of Linux, whose sequences pyte knows.
TERM: Final = "linux"

_SIZE: Final = (24, 80)
_MOST: Final = 1000
_PACK: Final = Struct("=HHHH").pack
_CHUNK: Final = 1 << 16

#: Of what was written, this much is kept beside the screen.
_MOST_KEPT: Final = 1 << 20

#: Seconds in one look of a wait.
_TURN: Final = 0.05

#: Looked at without a wait, a program that writes for ever is left after so many seconds.
_LONGEST_LOOK: Final = 1.0


#: That of the test itself (``tty=``), an :class:`~pytest_nsisolate.view.terminal.own.OwnTerminal`.
OWN_TERMINAL: Final = pytest.StashKey[Any]()


class Terminal:
    """What the fixture ``terminal`` is: a window with one program at a time."""

    def __init__(self) -> None:
        self._size = _SIZE
        self._master: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._emulator: Emulator | None = None
        self._written = b""

    # The program ---------------------------------------------------------------------------------

    def start(
        self,
        args: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program at this terminal, which is cleared.

        It leads a session, has the terminal as its controlling one, and as its standard streams.

        :param args: the program and its arguments, as a list.
        :param env: its whole environment; without, the test's. ``TERM`` is ``linux`` unless it says
            otherwise.
        :param cwd: its directory; without, the test's.
        :returns: the process. Wait for it by :meth:`wait`, which reads what it writes meanwhile.
        :raises RuntimeError: while the program before is at work.
        :raises OSError: when it cannot be started.
        """
        __tracebackhide__ = True
        if isinstance(args, str | bytes) or not args:
            raise TypeError(f"args is a list of a program's words, not {args!r}")
        if self._process is not None and self._process.poll() is None:
            raise RuntimeError(f"{self!r} has a program at work; wait for it, or hang up")
        from pytest_nsisolate.view.terminal.emulator import Emulator

        self.close()
        self._master, slave = os.openpty()
        os.set_blocking(self._master, False)
        self._emulator = Emulator(*self._size, self.type)
        self._written = b""
        self._set_size()
        # No LINES and COLUMNS of the test's own: the kernel knows the size, and a resize.
        own = {k: v for k, v in os.environ.items() if k not in ("LINES", "COLUMNS", "TERM")}
        try:
            self._process = subprocess.Popen(
                list(args),
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env={"TERM": TERM, **(own if env is None else env)},
                cwd=cwd,
                start_new_session=True,
                preexec_fn=_take_terminal,
            )
        finally:
            os.close(slave)
        return self._process

    def wait(self, within: float = 10.0) -> int:
        """Wait for the end of the program: its ``returncode``.

        :param within: seconds.
        """
        __tracebackhide__ = True
        process = self._started()
        deadline = monotonic() + within
        while process.poll() is None:
            if (left := deadline - monotonic()) <= 0:
                raise self._failure(
                    f"the program at the terminal goes on: {_line(process)}",
                    f"its end within {within:g} s",
                )
            self._read(min(left, _TURN))
        self._read(0)
        return process.returncode

    def hangup(self) -> None:
        """Close the window: the session's leader gets SIGHUP, and its reads and writes fail."""
        self._read(0)
        self._close_descriptors()

    def close(self) -> None:
        """Hang up, and end the program if it is still there."""
        self._close_descriptors()
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()

    # The keyboard and the window -----------------------------------------------------------------

    def type(self, text: str) -> None:
        """Type a text; ``\\n`` is the key Enter."""
        __tracebackhide__ = True
        self._send(text.replace("\n", "\r"))

    def press(self, *keys: str) -> None:
        """Press keys, one after the other.

        :param keys: ``"enter"``, ``"up"``, ``"page-down"``, ``"f1"``, ``"ctrl-c"``, ``"alt-x"``,
            or a character.
        :raises ValueError: for a key that there is not; none is pressed then.
        """
        __tracebackhide__ = True
        self._send("".join([sequence(key) for key in keys]))

    def resize(self, rows: int, columns: int) -> None:
        """Another size of the window; the program in the foreground gets SIGWINCH."""
        __tracebackhide__ = True
        _check_size(rows=rows, columns=columns)
        self._size = rows, columns
        if self._master is not None:
            self._read(0)
            self._set_size()
        if self._emulator is not None:
            self._emulator.resize(rows, columns)

    # What is seen --------------------------------------------------------------------------------

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The program that was started last."""
        return self._process

    @property
    def screen(self) -> Screen:
        """What a person would see now."""
        __tracebackhide__ = True
        self._check_started()
        self._read(0)
        assert self._emulator is not None
        return self._emulator.screen()

    @property
    def output(self) -> bytes:
        """What the program has written, as it wrote it; of much, the last MiB."""
        self._read(0)
        return self._written

    def assert_screen(self, expected: str | re.Pattern[str], *, within: float = 10.0) -> Screen:
        """The screen shows a text, or what a regular expression finds, in its lines.

        :param expected: a text, or a compiled regular expression.
        :param within: seconds to wait for it.
        :returns: the screen that showed it.
        """
        __tracebackhide__ = True
        if not isinstance(expected, str | re.Pattern):
            raise TypeError(f"expected is text or a compiled expression, not {expected!r}")
        self._check_started()
        deadline = monotonic() + within
        while True:
            over = self._is_over()
            self._read(0)
            assert self._emulator is not None
            screen = self._emulator.screen()
            if _shows(screen, expected):
                return screen
            left = deadline - monotonic()
            if over or not left > 0:
                raise self._failure(
                    f"the screen does not show {_named(expected)}",
                    f"{_named(expected)} within {within:g} s",
                )
            self._read(min(left, _TURN))

    def assert_no_echo(self, *, within: float = 10.0) -> None:
        """What is typed now is not shown: a prompt for a password (termios(3), ECHO).

        :param within: seconds to wait for it.
        """
        __tracebackhide__ = True
        self._check_started()
        deadline = monotonic() + within
        while self._master is not None:
            over = self._is_over()
            if not termios.tcgetattr(self._master)[3] & termios.ECHO:
                return
            left = deadline - monotonic()
            if over or not left > 0:
                break
            self._read(min(left, _TURN))
        raise self._failure("what is typed is shown", f"no echo within {within:g} s")

    def describe(self) -> str:
        """The last screen, for the report of a failed test; empty before the first program."""
        if self._emulator is None or self._process is None:
            return ""
        self._read(0)
        return f"{self._program()}\n{self._emulator.screen()}"

    def __repr__(self) -> str:
        rows, columns = self._size
        program = "" if self._process is None else f" of {self._program()}"
        return f"<{type(self).__name__} of {rows} rows and {columns} columns{program}>"

    # Inside --------------------------------------------------------------------------------------

    def _started(self) -> subprocess.Popen[bytes]:
        __tracebackhide__ = True
        if self._process is None:
            raise RuntimeError("no program was started at this terminal: terminal.start([...])")
        return self._process

    def _check_started(self) -> None:
        __tracebackhide__ = True
        self._started()

    def _is_over(self) -> bool:
        return self._master is None or self._started().poll() is not None

    def _program(self) -> str:
        return _state(self._started(), hung_up=self._master is None)

    def _failure(self, what: str, expected: str) -> AssertionError:
        self._read(0)
        assert self._emulator is not None
        screen = self._emulator.screen()
        return failure(what, expected=expected, seen=self._program(), text=str(screen))

    def _send(self, text: str) -> None:
        __tracebackhide__ = True
        self._check_started()
        data = text.encode()
        deadline = monotonic() + _LONGEST_LOOK
        while data:
            if self._master is None:
                raise RuntimeError(f"{self!r} is closed")
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                # The program does not read: the kernel's queue is full.
                if monotonic() > deadline:
                    raise self._failure(
                        "what was typed is not read", f"it within {_LONGEST_LOOK:g} s"
                    ) from None
                self._read(_TURN)

    def _read(self, seconds: float) -> None:
        """Take in what has been written; wait for the first of it so long at most."""
        if self._master is None:
            return
        poller = select.poll()
        poller.register(self._master, select.POLLIN)
        until = monotonic() + seconds + _LONGEST_LOOK
        milliseconds = seconds * 1000
        while poller.poll(milliseconds):
            milliseconds = 0
            try:
                chunk = os.read(self._master, _CHUNK)
            except BlockingIOError:
                return
            except OSError:  # EIO: the other side is closed
                return
            if not chunk:
                return
            self._keep(chunk)
            if monotonic() > until:
                return

    def _keep(self, chunk: bytes) -> None:
        self._written = (self._written + chunk)[-_MOST_KEPT:]
        if self._emulator is not None:
            self._emulator.feed(chunk)

    def _set_size(self) -> None:
        assert self._master is not None
        rows, columns = self._size
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, _PACK(rows, columns, 0, 0))

    def _close_descriptors(self) -> None:
        master, self._master = self._master, None
        if master is not None:
            os.close(master)


class LastScreen:
    """A plugin of one test's process: what failed is shown with what stood on the screen.

    :param item: the test.
    """

    def __init__(self, item: pytest.Item, terminal: Terminal) -> None:
        self._item = item
        self._terminal = terminal

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add a section to the report of a failed phase."""
        report = yield
        if item is self._item and report.failed and (text := self._terminal.describe()):
            report.sections.append(("Terminal", text))
        return report


def _check_size(**size: object) -> None:
    for name, number in size.items():
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{name} is a whole number, not {number!r}")
        if not 0 < number <= _MOST:
            raise ValueError(f"{name} is from 1 to {_MOST}, not {number}")


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _shows(screen: Screen, expected: str | re.Pattern[str]) -> bool:
    if isinstance(expected, str):
        return expected in screen.text
    return expected.search(screen.text) is not None


def _named(expected: str | re.Pattern[str]) -> str:
    return repr(expected) if isinstance(expected, str) else f"/{expected.pattern}/"


def _state(process: subprocess.Popen[bytes], *, hung_up: bool) -> str:
    """A program, and what has become of it."""
    code = process.poll()
    if code is None:
        state = "at work, hung up" if hung_up else "at work"
    else:
        state = f"killed by {signal_name(-code)}" if code < 0 else f"ended with status {code}"
    return f"{_line(process)}, {state}"


def _line(process: subprocess.Popen[Any]) -> str:
    args = process.args
    words = [args] if isinstance(args, str | bytes) else args
    return " ".join(os.fsdecode(word) for word in words)  # type: ignore[union-attr]


def preload() -> None:
    """Import, in the runner, what a screen needs, so that no child has to; if it is installed."""
    if not missing():
        from pytest_nsisolate.view.terminal import emulator  # noqa: F401


def missing() -> str:
    """What keeps the fixture from being of use; empty if nothing does."""
    try:
        import pyte  # noqa: F401
    except ImportError:
        return (
            "the fixture terminal needs pyte, the extra of that name:"
            " pip install 'pytest-nsisolate[terminal]'"
        )
    return ""
