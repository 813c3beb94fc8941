# SPDX-License-Identifier: MIT
"""multiprocessing's helpers that a test has started do their work before its PID 1 ends."""

from __future__ import annotations

import os
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from tests.support import NEEDS_NAMESPACES, run_source

pytestmark = NEEDS_NAMESPACES

SHARED = Path("/dev/shm")

FORGETS = """
import pytest
from multiprocessing import shared_memory

def leave(name):
    shared_memory.SharedMemory(name=name, create=True, size=64).close()

@pytest.mark.isolated(pid=True, leftovers="fail")
def test_test(): leave("{name}-test")

def test_call(isolate): isolate.using(pid=True)(leave, "{name}-call")
"""

HOLDS = """
import os
import pytest
import signal
from multiprocessing import shared_memory

@pytest.mark.isolated(ipc=True, pid=True, mount=True, leftovers="ignore", timeout=1.5)
def test_holds():
    shared_memory.SharedMemory(create=True, size=64).close()
    if not os.fork():
        signal.pause()
"""

INHERITS = """
import os
import pytest
from multiprocessing import resource_tracker, shared_memory

resource_tracker.ensure_running()
TRACKER = resource_tracker._resource_tracker._pid

@pytest.mark.isolated(pid=True)
@pytest.mark.parametrize("n", range(2))
def test_inside(n):
    shared_memory.SharedMemory(name=f"{name}-{{n}}", create=True, size=64).close()

def test_after():
    assert os.waitpid(TRACKER, os.WNOHANG) == (0, 0)
    for n in range(2):
        memory = shared_memory.SharedMemory(name=f"{name}-{{n}}")
        memory.close()
        memory.unlink()
"""

ATTACHES = """
import pytest
from multiprocessing import shared_memory

def attach(name):
    shared_memory.SharedMemory(name=name).close()

@pytest.fixture(scope="session")
def memory():
    memory = shared_memory.SharedMemory(name="{name}", create=True, size=64)
    yield memory
    memory.close()
    memory.unlink()

@pytest.mark.isolated({keywords})
def test_attaches(memory):
    attach(memory.name)

def test_calls(memory, isolate):
    isolate.using({keywords})(attach, memory.name)
    attach(memory.name)
"""

FORGETS_A_NAMESAKE = """
import pytest
from multiprocessing import resource_tracker, shared_memory

resource_tracker.ensure_running()

@pytest.mark.isolated
def test_forgets():
    shared_memory.SharedMemory(name="{name}", create=True, size=64).close()
"""

FORK_SERVER = """
import multiprocessing
import os
import pytest

context = multiprocessing.get_context("forkserver")

def report(end):
    end.send(os.readlink("/proc/self/ns/pid"))

def where():
    ours, theirs = context.Pipe()
    process = context.Process(target=report, args=(theirs,))
    process.start()
    process.join()
    return ours.recv()

@pytest.fixture(scope="session")
def outside():
    return where()

@pytest.mark.isolated
def test_starts_another(outside, isolate):
    assert where() == os.readlink("/proc/self/ns/pid") != outside
    assert isolate(where) not in (outside, os.readlink("/proc/self/ns/pid"))

def test_after(outside):
    assert where() == outside
"""

WRITES = """
import multiprocessing
import os
import pytest
from pathlib import Path

HERE = Path(__file__).parent

@pytest.mark.isolated(leftovers="fail")
def test_fork_server(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
    process = context.Process(target=os.getpid)
    process.start()
    process.join()
    assert process.exitcode == 0

def test_has_ended():
    assert (HERE / "ended").exists()
"""

# A fork of the server has another number, and leaves by os._exit().
PRELOADED = """
import atexit
from pathlib import Path

atexit.register(Path(__file__).with_name("ended").touch)
"""


@pytest.fixture
def name() -> str:
    """Of shared memory on the host, which no other run uses."""
    return f"nsisolate-copies-{os.getpid()}"


def remaining(name: str) -> list[str]:
    """What is left on the host, where it does not stay."""
    left = sorted(path.name for path in SHARED.glob(f"{name}*"))
    for found in left:
        shared_memory.SharedMemory(name=found).unlink()
    return left


def test_the_resource_tracker_removes_what_a_test_forgot(tmp_path: Path, name: str) -> None:
    """Without an IPC and a mount namespace it would stay on the host."""
    result = run_source(tmp_path, FORGETS.format(name=name))
    assert remaining(name) == []
    assert result.returncode == 0, result.text


def test_who_holds_the_trackers_pipe_takes_no_budget(tmp_path: Path) -> None:
    """It does not end then, and is not waited for until the test's time is over."""
    result = run_source(tmp_path, HOLDS)
    assert result.returncode == 0, result.text


def test_the_runners_resource_tracker_is_left_alone(tmp_path: Path, name: str) -> None:
    """A test that uses it neither ends it nor has it clean up."""
    result = run_source(tmp_path, INHERITS.format(name=name), "-p", "no:randomly")
    assert remaining(name) == []
    assert result.returncode == 0, result.text


@pytest.mark.parametrize("keywords", ["pid=True", "pid=True, init=True", "net=True"])
def test_what_a_test_attaches_to_stays(tmp_path: Path, name: str, keywords: str) -> None:
    """It is whose it was, on the short way and on the long one."""
    for more in ((), ("-p", "xdist", "-n", "1")):
        source = ATTACHES.format(name=name, keywords=keywords)
        result = run_source(tmp_path, source, "-p", "no:randomly", *more)
        assert remaining(name) == []
        assert result.returncode == 0, result.text


def test_a_namesake_in_a_private_dev_shm_is_another_one(tmp_path: Path, name: str) -> None:
    """The runner's resource tracker does not remove the host's for it."""
    (SHARED / name).touch()
    try:
        result = run_source(tmp_path, FORGETS_A_NAMESAKE.format(name=name))
        assert result.returncode == 0, result.text
        assert (SHARED / name).exists()
    finally:
        (SHARED / name).unlink(missing_ok=True)


def test_a_fork_server_of_the_runners_stays_outside(tmp_path: Path) -> None:
    """Whatever starts a process inside has a server of its own for that."""
    result = run_source(tmp_path, FORK_SERVER, "-p", "no:randomly")
    assert result.returncode == 0, result.text


def test_the_fork_server_ends_as_a_program_does(tmp_path: Path) -> None:
    """By its own hand: what it has registered at exit is done."""
    (tmp_path / "preloaded.py").write_text(PRELOADED)
    result = run_source(tmp_path, WRITES, "-p", "no:randomly")
    assert result.returncode == 0, result.text
