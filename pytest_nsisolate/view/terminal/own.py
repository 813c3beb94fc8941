# SPDX-License-Identifier: MIT
"""``tty=``: the terminal of the test's own process.

Fact: who writes to a terminal waits when it is full. The test cannot read what it writes itself.
Consequence: a process outside reads (:mod:`pytest_nsisolate.process.terminal_reader_program`), and
the test asks that for what is new.

The standard streams stay those of the captured test.
"""

from __future__ import annotations

from _socket import SocketType
from collections.abc import Generator, Mapping, Sequence
from typing import Final, NoReturn

import pytest

from pytest_nsisolate.child import helper_channel, own_terminal
from pytest_nsisolate.errors import failing
from pytest_nsisolate.kernel.originals import os, re, subprocess
from pytest_nsisolate.process.terminal_reader_program import ANSWER, HANG_UP, REQUEST
from pytest_nsisolate.view.terminal.terminal import TERM, Terminal
from pytest_nsisolate.wire.frames import FrameWriter

#: Milliseconds in which what a failed test has written last gets to the reader.
_ON_ITS_WAY: Final = 100

_SEQUENCES: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])"
)


class OwnTerminal(Terminal):
    """The test's own. Made in the runner; a plugin of the test's process, which shows in the
    reports what was written.

    :param item: the test.
    :param size: rows and columns.
    """

    def __init__(self, item: pytest.Item, size: tuple[int, int]) -> None:
        super().__init__()
        self._item = item
        self._size = size
        self._slave = -1
        self._channel: SocketType | None = None
        self._next = 0
        self._number = 0
        #: What no report has shown yet.
        self._unshown = b""

    def open_up(self, writer: FrameWriter) -> None:
        """In the child, before the first fixture.

        :raises StepError: for the step that fails.
        """
        self._master, self._slave, self._channel = own_terminal.open_up(writer)
        with failing("set the terminal's size", None):
            self._set_size()
        os.environ["TERM"] = TERM
        for name in ("LINES", "COLUMNS"):
            os.environ.pop(name, None)
        self._item.config.pluginmanager.register(self)

    def show(self) -> None:
        """From now on there is a screen: the fixture is used."""
        from pytest_nsisolate.view.terminal.emulator import Emulator

        self._read(0)
        self._emulator = Emulator(*self._size, self.type)
        self._emulator.feed(self._written)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """What was written to it is shown like captured output."""
        report = yield
        if item is self._item and self._channel is not None:
            self._ask(_ON_ITS_WAY if report.failed and not self._unshown else 0)
            text, self._unshown = _readable(self._unshown), b""
            if text:
                report.sections.append((f"Captured terminal {call.when}", text))
            if report.failed and (screen := self.describe()):
                report.sections.append(("Terminal", screen))
        return report

    # As a window whose program is the test --------------------------------------------------------

    def start(
        self,
        args: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Not here: this terminal has its program, the test.

        :raises RuntimeError: always.
        """
        del args, env, cwd
        _has_no_program()

    def wait(self, within: float = 10.0) -> int:
        """Not here either."""
        del within
        _has_no_program()

    def hangup(self) -> None:
        """Close the window: reads and writes fail, and the foreground group gets SIGHUP."""
        if self._master is not None:
            self._ask(0)
            self._close_descriptors()
            self._ask(0, start=HANG_UP)

    def close(self) -> None:
        """It ends with the test."""

    def describe(self) -> str:
        """The last screen, once there is one."""
        if self._emulator is None:
            return ""
        self._read(0)
        return f"{self._program()}\n{self._emulator.screen()}"

    def _check_started(self) -> None:
        """The test is there."""

    def _is_over(self) -> bool:
        return self._master is None

    def _program(self) -> str:
        return "the test's own terminal" + ("" if self._master is not None else ", hung up")

    def _read(self, seconds: float) -> None:
        self._ask(int(seconds * 1000))

    def _ask(self, milliseconds: int, *, start: int | None = None) -> None:
        """Take in what is new; wait for the first of it so long at most."""
        if self._channel is None:
            return
        while True:
            number = self._number = (self._number + 1) % (1 << 32)
            first = self._next if start is None else start
            self._channel.send(REQUEST.pack(number, first, milliseconds))
            while True:
                answer = helper_channel.hear(self._channel)
                heard, following = ANSWER.unpack(answer[: ANSWER.size])
                if heard == number:
                    break  # those before it were not waited for
            self._next = following
            chunk = answer[ANSWER.size :]
            self._unshown += chunk
            self._keep(chunk)
            if not chunk or start is not None:
                return
            milliseconds = 0


def _has_no_program() -> NoReturn:
    __tracebackhide__ = True
    raise RuntimeError(
        "with tty= the terminal's program is the test itself; start others by subprocess, with"
        " open('/dev/tty') as their streams, or leave tty= out"
    )


def _readable(written: bytes) -> str:
    """Without what moves the cursor and changes colours."""
    text = written.decode(errors="replace").replace("\r\n", "\n")
    return _SEQUENCES.sub("", text)
