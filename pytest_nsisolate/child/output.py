# SPDX-License-Identifier: MIT
"""Where captured output and log text of an attempt go, so that no death can take them along.

Fact: pytest captures into a temporary file (``--capture=fd``) or into memory (``sys``), and logs
into memory. A fork shares the file, offset and all, and copies the memory, which dies with the
child: the peers lose the output of a crash, or find it in the next test's report.

Consequence: the runner makes one memfd per stream and attempt. What was captured up to the clone
is moved into them; in the child they take the place of pytest's own files, under the same objects,
so that capsys, capfd, ``-s`` and ``capture=sys`` go on as they are. The runner reads them
when the child can no longer tell.

What still fails: text that sits in a capsys or capfd fixture when the test dies is lost with it,
because it had been taken away from the report on purpose.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any, TextIO

import pytest

from pytest_nsisolate.errors import failing
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.originals import io, os
from pytest_nsisolate.process.channel import LOG_ERRORS, Output, read_text


class MemoryFile(internals.CaptureIO):
    """A text file over a memfd, where pytest insists on its ``CaptureIO``.

    :param fd: the memfd; it stays the caller's.
    :param errors: what becomes of a lone surrogate. In ``CaptureIO`` it is an error of the test,
        the ``StringIO`` of a log keeps it.
    """

    def __init__(self, fd: int, *, errors: str = "strict") -> None:
        raw: Any = io.FileIO(fd, "r+", closefd=False)
        io.TextIOWrapper.__init__(
            self, raw, encoding="UTF-8", errors=errors, newline="", write_through=True
        )
        self._fd = fd
        self.seek(0, os.SEEK_END)

    def getvalue(self) -> str:
        """Everything that is in the file now."""
        return read_text(self._fd, self.errors or "replace")

    def clear(self) -> None:
        """Start over with an empty file."""
        self.seek(0)
        self.truncate()


class _Tee(MemoryFile, internals.TeeCaptureIO):
    """With a second stream that gets everything too (``--capture=tee-sys``)."""

    def __init__(self, fd: int, other: TextIO) -> None:
        MemoryFile.__init__(self, fd)
        self._other = other


def _memory(fd: int, before: Any) -> MemoryFile:
    """What takes the place of one of pytest's own."""
    other = getattr(before, "_other", None)
    return MemoryFile(fd) if other is None else _Tee(fd, other)


def move_to(output: Output, config: pytest.Config) -> bool:
    """In the runner, before the clone: copy what this phase has captured so far.

    :returns: whether there was anything, which is then to be forgotten here (:func:`forget_moved`).
    """
    moved = False
    for capture, fd in zip(internals.global_captures(config), _streams(output), strict=False):
        text = _captured(capture)
        if text:
            moved = True
            _write_all(fd, text.encode("utf-8", "surrogateescape"))
    handler: Any = internals.report_log_handler(config)
    text = handler.stream.getvalue() if handler is not None else ""
    if text:
        moved = True
        _write_all(output.log, text.encode("utf-8", LOG_ERRORS))
    return moved


class Redirection:
    """Makes pytest's capture and log handler write into the memfds, in the child.

    Everything that can be is made ready in the runner, where it costs no page.
    """

    def __init__(self, output: Output, config: pytest.Config) -> None:
        captures = internals.global_captures(config)
        pairs = list(zip(captures, _streams(output), strict=False))
        self._files = [
            (capture, fd, capture.tmpfile.fileno()) for capture, fd in pairs if _has_file(capture)
        ]
        self._memories = [
            (capture, _memory(fd, capture.tmpfile))
            for capture, fd in pairs
            if not _has_file(capture)
        ]
        self._handler: Any = internals.report_log_handler(config)
        self._log = MemoryFile(output.log, errors=LOG_ERRORS)

    def apply(self) -> None:
        """In the child, before anything else is written."""
        for capture, fd, file in self._files:
            os.dup2(fd, file, inheritable=False)
            if capture._state == "started":
                os.dup2(fd, capture.targetfd)
        for capture, memory in self._memories:
            if getattr(sys, capture.name) is capture.tmpfile:
                setattr(sys, capture.name, memory)
            capture.tmpfile = memory
        if self._handler is not None:
            self._handler.stream = self._log
            self._handler.reset = self._reset_log

    def _reset_log(self) -> None:
        """``LogCaptureHandler.reset`` makes a new buffer per phase; this empties the file."""
        self._handler.records = []
        self._log.clear()


def forget_moved(config: pytest.Config) -> None:
    """In the runner, after the clone: only the child reports that text."""
    for capture in internals.global_captures(config):
        capture.tmpfile.seek(0)
        capture.tmpfile.truncate()
    handler: Any = internals.report_log_handler(config)
    if handler is not None:
        handler.stream.seek(0)
        handler.stream.truncate()


def direct_to(output: Output) -> None:
    """In the child, when pytest captures no more: what is written from now on goes to these files.

    They begin anew.
    """
    flush_streams()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # the test's own, or closed
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with suppress(OSError):  # the test has closed them
        for fd, number in zip(_streams(output), (1, 2), strict=True):
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)
            os.dup2(fd, number)


def flush_to_terminal(config: pytest.Config) -> None:
    """Before a fork, after which both sides would write it, and before the child's turn to write.

    The reporter's text waits in ``sys.__stdout__`` while the descriptor below is that of the
    capture: to flush it as it is would make it a test's output, and lose it (pytest-sugar does not
    flush). So the descriptor is the real one for that moment.

    :raises StepError: without a descriptor left for that.
    """
    captured = [
        (capture.targetfd, capture.targetfd_save)
        for capture in internals.global_captures(config)
        if _has_file(capture) and capture._state == "started"
    ]
    with failing("flush the terminal", None):
        _flush_to(captured)


def _flush_to(captured: list[tuple[int, int]]) -> None:
    """Flush the streams, with the real descriptors in the place of those of the captures.

    :param captured: numbers, and what each really is.
    """
    if not captured:
        flush_streams()
        return
    (number, real), *others = captured
    # What is there now may be a capture of capfd's, on top of that one.
    copy = os.dup(number)
    try:
        os.dup2(real, number)
        _flush_to(others)
    finally:
        try:
            os.dup2(copy, number)
        finally:
            os.close(copy)


def flush_streams() -> None:
    """Before a raw exit, or for another process's turn: what sits in a buffer would never come."""
    for stream in {sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__}:
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass  # closed or broken by the test; there is nowhere to say so


def _streams(output: Output) -> tuple[int, int]:
    return output.stdout, output.stderr


def _has_file(capture: Any) -> bool:
    """``FDCapture``, as opposed to ``SysCapture``."""
    return hasattr(capture, "targetfd")


def _captured(capture: Any) -> str:
    if _has_file(capture):
        return read_text(capture.tmpfile.fileno())
    return str(capture.tmpfile.getvalue())


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
