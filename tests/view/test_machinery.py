# SPDX-License-Identifier: MIT
"""A name or a condition never means the test itself, or what is there because it is isolated.

Every test here has the interpreter's name, and so has its init; an assertion that took one of
them for the daemon that did not start would hold for nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import pytest

from pytest_nsisolate import Isolate, IsolateKeywords, Pid1View
from pytest_nsisolate.view import Process
from pytest_nsisolate.view.assertions.process import Which
from tests.support import NEEDS_NAMESPACES, inner_environment, write_files
from tests.view.tools import owned

pytestmark = NEEDS_NAMESPACES

#: Every shape of a world: the test is PID 1, behind an init, in the runner's PID namespace.
WORLDS = pytest.mark.parametrize(
    "world",
    [
        pytest.param(keywords, id=name, marks=pytest.mark.isolated(**keywords))
        for name, keywords in {
            "pid1": {},
            "init": {"init": True},
            "shared": {"uts": True},
            "shared-init": {"uts": True, "init": True},
        }.items()
    ],
)

#: The same for a call by ``isolate``.
CALLS = pytest.mark.parametrize(
    "call", [{}, {"init": True}, {"uts": True}, {"uts": True, "init": True}], ids=str
)


def anyone(process: Process) -> bool:
    """The condition that everybody meets."""
    return True


def own_ways() -> list[Which]:
    """All that the test's own process may be called, and that condition."""
    command = Path("/proc/self/cmdline").read_bytes().split(b"\0")[0]
    return [
        Path("/proc/self/comm").read_text().strip(),
        os.path.basename(os.fsdecode(command)),
        anyone,
    ]


def find_nothing(pid1: Pid1View) -> None:
    """Nothing was started here, and every assertion says so; a number still means the test."""
    ways: list[Callable[[Any], object]] = [
        pid1.assert_process,
        pid1.assert_daemon,
        pid1.assert_dies,
        pid1.assert_survives,
        lambda which: pid1.assert_dies(which, 0, within=0.01),
    ]
    for which in own_ways():
        pid1.assert_no_process(which)
        for assertion in ways:
            with pytest.raises(AssertionError, match=r"a number means them: pid1\.pid"):
                assertion(which)
    everybody = pid1.processes
    (own,) = (process for process in everybody if process.pid == os.getpid())
    assert own == pid1.assert_process(os.getpid()) == pid1.assert_process(own)
    pid1.assert_survives(own, 0, within=0)


@WORLDS
class TestWhatIsThereAnyway:
    def test_the_test_and_its_init(self, pid1: Pid1View, world: dict[str, bool]) -> None:
        """In the list they are, all the same."""
        find_nothing(pid1)
        assert len(pid1.processes) == (2 if "init" in world else 1)

    @CALLS
    def test_the_function_of_a_call(
        self, pid1: Pid1View, isolate: Isolate, world: dict[str, bool], call: IsolateKeywords
    ) -> None:
        """It is the test's own process there; its caller is none that it has started either."""
        isolate.using(**call)(find_nothing, pid1)

    def test_a_box(self, pid1: Pid1View, isolate: Isolate, world: dict[str, bool]) -> None:
        """What holds it open is nobody's, inside and outside."""
        with isolate.open() as box:
            find_nothing(pid1)
            box.run(find_nothing, pid1)
            for assertion in (lambda: pid1.assert_process("nginx"), pid1.assert_no_leftovers):
                with pytest.raises(AssertionError) as caught:
                    assertion()
                assert "(supervisor of a call)" in str(caught.value)
                assert "(PID 1 of a box)" in str(caught.value)

    @CALLS
    def test_beside_a_function_that_is_at_work(
        self, pid1: Pid1View, isolate: Isolate, world: dict[str, bool], call: IsolateKeywords
    ) -> None:
        """The test has started that, and nothing else that is there for it."""
        task = isolate.using(**call).start(time.sleep, 60)
        found = pid1.assert_process(anyone, count=1)
        assert task.pid in (found.pid, found.ppid)
        task.kill()
        find_nothing(pid1)


@WORLDS
class TestCopies:
    def test_a_copy_was_started_by_the_test(self, pid1: Pid1View, world: dict[str, bool]) -> None:
        """It has the test's names, and is meant by them."""
        copy = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        copy.start()
        for which in own_ways():
            assert pid1.assert_process(which, count=1).pid == copy.pid
        assert pid1.assert_dies(anyone) == -signal.SIGTERM
        copy.join()

    def test_helpers_of_multiprocessing(self, pid1: Pid1View, world: dict[str, bool]) -> None:
        """A piece of shared memory has it start one, which has the interpreter's name too."""
        memory = SharedMemory(create=True, size=1)
        try:
            for which in own_ways():
                pid1.assert_no_process(which)
                with pytest.raises(AssertionError, match="or a helper of multiprocessing"):
                    pid1.assert_process(which)
            (helper,) = (p for p in pid1.processes if p.is_infrastructure)
            assert pid1.assert_process(helper.pid) == helper
        finally:
            memory.close()
            memory.unlink()

    def test_a_copy_finds_neither_itself_nor_the_test(
        self, pid1: Pid1View, world: dict[str, bool]
    ) -> None:
        """As the test does not."""
        copy = multiprocessing.get_context("fork").Process(target=find_nothing, args=(pid1,))
        copy.start()
        copy.join()
        assert copy.exitcode == 0


@pytest.mark.isolated(uts=True)
def test_a_call_sees_its_own_processes(pid1: Pid1View, isolate: Isolate) -> None:
    """Where it has a PID namespace, and its test has none that would have told what is its own."""

    def start() -> None:
        with owned("sleep", "60") as process:
            assert pid1.assert_process("sleep").pid == process.pid
            with pytest.raises(AssertionError, match="there is a process named 'sleep'"):
                pid1.assert_no_process("sleep")

    isolate.using(pid=True)(start)


@pytest.mark.isolated
def test_a_wrong_name_is_still_refused(pid1: Pid1View) -> None:
    """Where nobody is there who could be meant."""
    with pytest.raises(ValueError, match="no name but a path"):
        pid1.assert_no_process(sys.executable)


#: Looks by every name that pytest itself may have.
NAMED = """
    import os, sys
    import pytest

    @pytest.mark.parametrize("name", ["python", "python3", "pytest", "renamed", "sh"])
    @pytest.mark.isolated
    def test_it(pid1, name):
        pid1.assert_no_process(name)
        pid1.assert_no_process(os.path.basename(sys.executable))
        with open("/proc/self/comm") as own:
            pid1.assert_no_process(own.read().strip())
"""

SCRIPT = f"""\
#!{sys.executable}
import sys
import pytest
sys.exit(pytest.main())
"""


@pytest.mark.parametrize(
    "command",
    [
        ("pytest",),
        (sys.executable, "-m", "pytest"),
        ("renamed",),
        (sys.executable, "-m", "pytest", "-p", "xdist", "-n", "2"),
        (sys.executable, "-m", "pytest", "--nsisolate=all"),
        ("renamed", "--nsisolate=all", "--nsisolate-namespaces=uts"),
    ],
    ids=" ".join,
)
def test_however_pytest_was_started(tmp_path: Path, command: tuple[str, ...]) -> None:
    """As a script of any name, as a module, as a worker of xdist; marked, and with all."""
    source = NAMED if "--nsisolate=all" not in command else NAMED.replace("@pytest.mark.iso", "#")
    write_files(tmp_path, {"test_it.py": source})
    for name in ("pytest", "renamed"):
        (tmp_path / name).write_text(SCRIPT)
        (tmp_path / name).chmod(0o755)
    program = command[0] if os.path.isabs(command[0]) else str(tmp_path / command[0])
    done = subprocess.run(
        [program, *command[1:], "-p", "nsisolate", "-p", "no:cacheprovider", "-q"],
        cwd=tmp_path,
        env=inner_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "5 passed" in done.stdout, done.stdout + done.stderr
