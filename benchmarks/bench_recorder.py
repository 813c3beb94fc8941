# SPDX-License-Identifier: MIT
"""Record what one pytest session costs; loaded with ``-p bench_recorder``, the same for everyone.

Fact: the contenders start their work in different hooks (``runtestloop``, ``runtest_protocol``,
deep in set-up), so a clock inside a test or around one hook would favour one of them.
Consequence: the clock stands around the whole run loop, in the runner, outermost.
What still differs: what a contender does before the loop (collection) or after it is only in the
wall-clock time that ``measure.py`` takes from outside.

Environment: ``NSIBENCH_RECORD`` names the JSON file to write. It is removed here, so that a
contender that starts a second pytest for its tests is not recorded twice.
``NSIBENCH_RESIDENT_MB`` makes the runner that much bigger before the first test.
"""

from __future__ import annotations

import json
import mmap
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

PAGE = 4096


def resident_kib() -> int:
    """Resident set of this process in KiB (``VmRSS`` of proc_pid_status(5)), 0 without /proc."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def open_descriptors() -> int:
    """Descriptors that this process holds, without the one that lists them."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        return 0


def children() -> int:
    """Direct children of this process, zombies included (field 4 of proc_pid_stat(5))."""
    me = os.getpid()
    found = 0
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = entry.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if int(text.rpartition(")")[2].split()[1]) == me:
            found += 1
    return found


def touched_memory(megabytes: int) -> mmap.mmap | None:
    """Private memory of this size with every page written, in pages of 4 KiB.

    Private, because a shared mapping (mmap's default) is not copied by fork at all; without huge
    pages, because a runner's own heap is made of small ones and fork pays for each page's entry.
    """
    if not megabytes:
        return None
    size = megabytes * 1024 * 1024
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(getattr(mmap, "MADV_NOHUGEPAGE", mmap.MADV_NORMAL))
    memory[::PAGE] = b"\1" * (size // PAGE)
    return memory


class Recorder:
    """Clock, memory and descriptors of the runner around the run loop."""

    def __init__(self, path: Path, ballast: mmap.mmap | None) -> None:
        self._path = path
        self._ballast = ballast
        self._pid = os.getpid()
        self._starts: list[float] = []
        self._passed = 0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        before = (resident_kib(), open_descriptors())
        begin = time.monotonic()
        result = yield
        end = time.monotonic()
        # A child that fell out of its test would get here too; its file must not replace ours.
        if os.getpid() == self._pid:
            after = (resident_kib(), open_descriptors())
            self._write(begin, end, before, after)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        self._starts.append(time.monotonic())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._passed += 1

    def _write(
        self, begin: float, end: float, before: tuple[int, int], after: tuple[int, int]
    ) -> None:
        record = {
            "loop": end - begin,
            # The last test ends with the loop: one more stamp than tests.
            "stamps": [stamp - begin for stamp in (*self._starts, end)],
            "passed": self._passed,
            "resident_kib": [before[0], after[0]],
            "descriptors": [before[1], after[1]],
            "children": children(),
        }
        self._path.write_text(json.dumps(record), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Start recording where the environment asks for it."""
    path = os.environ.pop("NSIBENCH_RECORD", "")
    if path:
        ballast = touched_memory(int(os.environ.pop("NSIBENCH_RESIDENT_MB", "0")))
        config.pluginmanager.register(Recorder(Path(path), ballast), "nsibench-recorder")
