# SPDX-License-Identifier: MIT
"""Each limit met, by the least that it takes; nothing goes on for ever where one is missing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

isolated = pytest.mark.isolated
expect = pytest.mark.expect

# What reports say. Not written at the tests: their source is in the reports too.
TITLE = "- Limits -"
REACHED = "process limit %d reached ("
CHILDREN = "children: %d\n"
PID_MAX = "process limit 600 reached (pid_max of its PID namespace)"
OUT_OF_MEMORY = "out of memory: limits memory=64M ("
FILES = "file limit 128 reached (RLIMIT_NOFILE)"
FILE_SIZE = "file size limit 64K reached (RLIMIT_FSIZE)"
NO_BOX = "limits are of a test or a call, not of a box"

unnamed = expect("call failed", "!" + TITLE)

#: Children of a shell that wait for a line: cheap ones.
_CROWD = "exec 3<&0; i=0; while [ $i -lt %d ]; do i=$((i + 1)); (read line) <&3 & done; exit 0"


@contextlib.contextmanager
def forks(most: int) -> Iterator[list[int]]:
    """So many children that wait, or as many as there may be."""
    children: list[int] = []
    try:
        for _ in range(most):
            child = os.fork()
            if child == 0:
                wait()
            children.append(child)
        yield children
    finally:
        os.write(1, b"children: %d\n" % len(children))
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def wait() -> NoReturn:
    while True:
        signal.pause()


def crowd(most: int) -> subprocess.Popen[bytes]:
    """A shell that has started so many of itself, or has given up, with what it says by then."""
    held, _write = os.pipe()
    shell = ["sh", "-c", _CROWD % most]
    return subprocess.Popen(shell, stdin=held, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def spin() -> NoReturn:
    while True:
        pass


def allocate(size: int = 300 << 20) -> int:
    return len(bytearray(size))


# Processes ----------------------------------------------------------------------------------------


@isolated(limits={"processes": 40})
@expect("call failed", REACHED % 40, CHILDREN % 39, TITLE)
def test_forks() -> None:
    with forks(60):
        pass


@isolated(limits={"processes": 40}, init=True)
@expect("call failed", REACHED % 40, CHILDREN % 38)
def test_forks_beside_an_init() -> None:
    with forks(60):
        pass


@isolated(limits={"processes": 1}, init=True)
@expect("setup failed", "isolation refused: limit processes=1: EINVAL", "remedy: ask for more")
def test_no_room_beside_an_init() -> None:
    pass


@isolated
@expect("passed")
def test_forks_without_a_limit() -> None:
    with forks(60) as children:
        assert len(children) == 60


@isolated(limits={"processes": 10})
@expect("call failed", REACHED % 10)
def test_threads() -> None:
    end = threading.Event()
    try:
        for _ in range(30):
            threading.Thread(target=end.wait, daemon=True).start()
    finally:
        end.set()


@isolated(limits={"processes": 600}, leftovers="ignore")
@expect("call failed", PID_MAX)
def test_pid_max() -> None:
    with pytest.raises(OSError, match="Read-only"):
        Path("/proc/sys/kernel/pid_max").write_text("4000000", encoding="ascii")
    shell = crowd(700)
    shell.wait()
    assert shell.returncode != 0
    with forks(2):
        pass


@isolated(leftovers="ignore")
@expect("passed")
def test_no_pid_max() -> None:
    assert crowd(700).wait() == 0


@isolated(limits={"processes": 40})
@expect("passed")
def test_a_limit_that_the_test_expects() -> None:
    with pytest.raises(BlockingIOError), forks(60):
        pass


@isolated(limits={"processes": 40})
@unnamed
def test_another_eagain() -> None:
    read, _write = os.pipe()
    os.set_blocking(read, False)
    os.read(read, 1)


# Memory -------------------------------------------------------------------------------------------


@isolated(limits={"memory": "64M"})
@expect("call failed", OUT_OF_MEMORY)
def test_memory() -> None:
    allocate()


@isolated(limits={"memory": "64M"}, init=True)
@expect("call failed", OUT_OF_MEMORY)
def test_memory_beside_an_init() -> None:
    allocate()


@isolated(limits={"memory": "1G"})
@expect("passed")
def test_enough_memory() -> None:
    assert allocate()


# Time, files --------------------------------------------------------------------------------------


@isolated(limits={"cpu": 1})
@expect("call failed", "killed by SIGKILL: cpu limit of 1 s used up (RLIMIT_CPU)")
def test_cpu() -> None:
    spin()


@isolated(limits={"cpu": 1}, init=True)
@expect("call failed", "killed by SIGXCPU: cpu limit of 1 s used up (RLIMIT_CPU)")
def test_cpu_beside_an_init() -> None:
    spin()


@isolated(limits={"cpu": 60}, init=True)
@expect("call failed", "killed by SIGKILL", "!cpu limit")
def test_another_sigkill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@isolated(limits={"cpu": 60, "memory": "1G", "processes": 40}, timeout=0.3)
@expect("call failed", "timed out after 0.3 s", "!limits ", "!cpu limit")
def test_timeout() -> None:
    wait()


@isolated(limits={"files": 128})
@expect("call failed", FILES)
def test_files() -> None:
    for _ in range(200):
        os.open("/dev/null", os.O_RDONLY)


@isolated(limits={"files": 16})
@expect(
    "setup failed", "isolation refused: limit files=16: EINVAL", "files open, so from", "remedy:"
)
def test_fewer_files_than_are_open() -> None:
    pass


@isolated(limits={"file_size": "64K"})
@expect("call failed", FILE_SIZE)
def test_file_size(tmp_path: Path) -> None:
    tmp_path.joinpath("big").write_bytes(bytes(1 << 20))


@isolated
@expect("passed")
def test_files_without_a_limit(tmp_path: Path) -> None:
    for _ in range(200):
        os.open("/dev/null", os.O_RDONLY)
    tmp_path.joinpath("big").write_bytes(bytes(1 << 20))


@isolated(
    limits={"memory": "1G", "cpu": 60, "processes": 100, "files": 1024, "file_size": "1G"},
)
@expect("passed")
def test_all_of_them() -> None:
    done = subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, check=True)
    assert done.stdout == b"1\n"
    # What it is in is the root of its cgroup namespace.
    lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    assert {line.rpartition(":")[2] for line in lines} == {"/"}


# Calls --------------------------------------------------------------------------------------------


@expect("call failed", OUT_OF_MEMORY)
def test_call(isolate: Any) -> None:
    isolate.using(limits={"memory": "64M"})(allocate)


@expect("call failed", REACHED % 40)
def test_call_that_forks(isolate: Any) -> None:
    def body() -> None:
        with forks(60):
            pass

    isolate.using(limits={"processes": 40})(body)


@expect("call failed", NO_BOX)
def test_box(isolate: Any) -> None:
    isolate.using(limits={"memory": "64M"}).open()


@isolated
@expect("passed")
def test_the_runner_is_well() -> None:
    pass
