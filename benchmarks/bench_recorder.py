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
``NSIBENCH_CALLS`` counts Python calls on both sides; that takes time, so such a session is not
timed.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import platform
import resource
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

PAGE = 4096

# perf_event_open(2): its number, and the fields of struct perf_event_attr that are not zero.
PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241, "riscv64": 241}
SOFTWARE, PAGE_FAULTS, ATTRIBUTES, INHERIT, CLOSE_ON_EXEC = 1, 2, 64, 1 << 1, 1 << 3


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


class TrappedFaults:
    """Page faults that have trapped into the kernel, in this process and in all that it starts.

    ``ru_minflt`` of getrusage(2) also counts the pages that a call writes ahead (madvise(2),
    MADV_POPULATE_WRITE), without a trap for each.
    """

    def __init__(self) -> None:
        self._own, self._all = self._open(0), self._open(INHERIT)

    @staticmethod
    def _open(more: int) -> int | None:
        attributes = bytearray(ATTRIBUTES)
        struct.pack_into("=IIQ", attributes, 0, SOFTWARE, ATTRIBUTES, PAGE_FAULTS)
        struct.pack_into("=Q", attributes, 40, more)
        number = PERF_EVENT_OPEN.get(platform.machine(), -1)
        words = (ctypes.c_long(word) for word in (0, -1, -1, CLOSE_ON_EXEC))
        fd: int = ctypes.CDLL(None).syscall(ctypes.c_long(number), bytes(attributes), *words)
        return None if fd < 0 else fd

    def read(self) -> tuple[int, int] | None:
        """(in this process, in the others that have ended); None where the kernel does not tell."""
        if self._own is None or self._all is None:
            return None
        own, everything = (struct.unpack("=Q", os.read(fd, 8))[0] for fd in (self._own, self._all))
        return own, everything - own


class Calls:
    """Calls of Python functions, in this process and in those forked from it."""

    def __init__(self) -> None:
        self._counts = memoryview(mmap.mmap(-1, PAGE)).cast("Q")
        self._side = 0
        os.register_at_fork(after_in_child=self._be_child)
        sys.setprofile(self._count)

    def _be_child(self) -> None:
        self._side = 1

    def _count(self, frame: FrameType, event: str, argument: object) -> None:
        del frame, argument
        if event == "call":
            self._counts[self._side] += 1

    def read(self) -> tuple[int, int]:
        """(in this process, in the others)."""
        return self._counts[0], self._counts[1]


class Spending:
    """What each side has spent so far: this process, and its children that have been reaped."""

    def __init__(self, *, calls: bool) -> None:
        self._faults = TrappedFaults()
        self._calls = Calls() if calls else None

    def read(self) -> list[dict[str, float]]:
        """Of this process and of its children: seconds of processor time, faults, calls."""
        sides: list[dict[str, float]] = []
        faults = self._faults.read()
        calls = None if self._calls is None else self._calls.read()
        for side, who in enumerate((resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)):
            usage = resource.getrusage(who)
            sides.append(
                {
                    "cpu": usage.ru_utime + usage.ru_stime,
                    "faults": usage.ru_minflt if faults is None else faults[side],
                    "calls": 0 if calls is None else calls[side],
                }
            )
        return sides


class Recorder:
    """Clock, spending, memory and descriptors of the runner around the run loop."""

    def __init__(self, path: Path, ballast: mmap.mmap | None, spending: Spending) -> None:
        self._path = path
        self._ballast = ballast
        self._spending = spending
        self._pid = os.getpid()
        self._starts: list[float] = []
        self._passed = 0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        before = (resident_kib(), open_descriptors())
        spent = self._spending.read()
        begin = time.monotonic()
        result = yield
        end = time.monotonic()
        # A child that fell out of its test would get here too; its file must not replace ours.
        if os.getpid() == self._pid:
            spent = [
                {key: now[key] - then[key] for key in now}
                for now, then in zip(self._spending.read(), spent, strict=True)
            ]
            after = (resident_kib(), open_descriptors())
            self._write(begin, end, before, after, spent)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        self._starts.append(time.monotonic())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._passed += 1

    def _write(
        self,
        begin: float,
        end: float,
        before: tuple[int, int],
        after: tuple[int, int],
        spent: list[dict[str, float]],
    ) -> None:
        record = {
            "loop": end - begin,
            # The last test ends with the loop: one more stamp than tests.
            "stamps": [stamp - begin for stamp in (*self._starts, end)],
            "passed": self._passed,
            "resident_kib": [before[0], after[0]],
            "descriptors": [before[1], after[1]],
            "children": children(),
            "spent": spent,
        }
        self._path.write_text(json.dumps(record), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Start recording where the environment asks for it."""
    path = os.environ.pop("NSIBENCH_RECORD", "")
    if path:
        ballast = touched_memory(int(os.environ.pop("NSIBENCH_RESIDENT_MB", "0")))
        spending = Spending(calls=bool(os.environ.pop("NSIBENCH_CALLS", "")))
        config.pluginmanager.register(Recorder(Path(path), ballast, spending), "nsibench-recorder")
