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

import io
import logging
import os
import sys
from typing import Any, TextIO

import pytest

from pytest_nsisolate import pytest_internals as internals
from pytest_nsisolate.channel import Output

_KINDS = ("stdout", "stderr", "log")


class MemoryFile(io.TextIOWrapper):
    """A text file over a memfd, in the shape of pytest's ``CaptureIO``.

    :param fd: the memfd; it stays the caller's.
    :param tee: a second stream that gets everything too (``--capture=tee-sys``).
    """

    def __init__(self, fd: int, tee: TextIO | None = None) -> None:
        raw: Any = io.FileIO(fd, "r+", closefd=False)
        super().__init__(raw, encoding="utf-8", errors="replace", newline="", write_through=True)
        self._fd = fd
        self._tee = tee
        self.seek(0, os.SEEK_END)

    def write(self, text: str, /) -> int:
        """Write to the file, and to the second stream if there is one."""
        if self._tee is not None:
            self._tee.write(text)
        return super().write(text)

    def getvalue(self) -> str:
        """Everything that is in the file now."""
        return read_text(self._fd)

    def clear(self) -> None:
        """Start over with an empty file."""
        self.seek(0)
        self.truncate()


def read_text(fd: int) -> str:
    """The whole content of a memfd, wherever its offset stands."""
    size = os.fstat(fd).st_size
    parts = []
    offset = 0
    while offset < size and (part := os.pread(fd, size - offset, offset)):
        parts.append(part)
        offset += len(part)
    return b"".join(parts).decode("utf-8", "replace")


def move_to(output: Output, config: pytest.Config) -> None:
    """In the runner, before the clone: copy what this phase has captured so far."""
    for capture, fd in zip(internals.global_captures(config), _streams(output), strict=False):
        _write_all(fd, _captured(capture).encode("utf-8", "surrogateescape"))
    handler: Any = internals.report_log_handler(config)
    if handler is not None:
        _write_all(output.log, handler.stream.getvalue().encode("utf-8", "replace"))


def forget_moved(config: pytest.Config) -> None:
    """In the runner, after the clone: the child reports that text, nobody else may."""
    for capture in internals.global_captures(config):
        capture.tmpfile.seek(0)
        capture.tmpfile.truncate()
    handler: Any = internals.report_log_handler(config)
    if handler is not None:
        handler.stream.seek(0)
        handler.stream.truncate()


def redirect(output: Output, config: pytest.Config) -> None:
    """In the child: pytest's capture and log handler write into the memfds from now on."""
    for capture, fd in zip(internals.global_captures(config), _streams(output), strict=False):
        if hasattr(capture, "targetfd"):
            os.dup2(fd, capture.tmpfile.fileno(), inheritable=False)
            if capture._state == "started":
                os.dup2(fd, capture.targetfd)
        else:
            _replace_memory(capture, fd)
    handler = internals.report_log_handler(config)
    if handler is not None:
        _log_into(handler, MemoryFile(output.log))


def lost_text(output: Output) -> list[tuple[str, str]]:
    """In the runner, after a death: (kind, text) of what the last phase had captured."""
    found = []
    for kind, fd in zip(_KINDS, (output.stdout, output.stderr, output.log), strict=True):
        text = read_text(fd)
        if kind == "log":
            text = text.strip()
        if text:
            found.append((kind, text))
    return found


def flush_streams() -> None:
    """Before a fork or a raw exit: what sits in a buffer would be written twice or never."""
    for stream in {sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__}:
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass  # closed or broken by the test; there is nobody to tell


def _streams(output: Output) -> tuple[int, int]:
    return output.stdout, output.stderr


def _captured(capture: Any) -> str:
    if hasattr(capture, "targetfd"):
        return read_text(capture.tmpfile.fileno())
    return str(capture.tmpfile.getvalue())


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _replace_memory(capture: Any, fd: int) -> None:
    """``SysCapture``: a memory file takes the place of the string buffer."""
    before = capture.tmpfile
    capture.tmpfile = MemoryFile(fd, getattr(before, "_other", None))
    if getattr(sys, capture.name) is before:
        setattr(sys, capture.name, capture.tmpfile)


def _log_into(handler: Any, file: MemoryFile) -> None:
    """``LogCaptureHandler.reset`` makes a new string buffer per phase; here it empties the file."""

    def reset() -> None:
        handler.records = []
        file.clear()

    handler.stream = file
    handler.reset = reset
    assert isinstance(handler, logging.Handler)
