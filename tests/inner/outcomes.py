# SPDX-License-Identifier: MIT
"""Every way in which an isolated test can end, each with what the runner must make of it."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.isolated

expect = pytest.mark.expect


def crash() -> None:
    """A read through a null pointer: a real fault, which PID 1 dies of as well."""
    ctypes.string_at(0)


def execute(code: bytes) -> None:
    """Run machine code."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    ctypes.CFUNCTYPE(None)(address)()


# Ordinary ends -----------------------------------------------------------------------------------


@expect("passed")
def test_pass() -> None:
    assert os.getpid() == 1


@expect("call failed", "assert 1 == 2")
def test_fail() -> None:
    assert os.getpid() == 2


@pytest.fixture
def broken_setup() -> None:
    raise LookupError("in set-up")


@expect("setup failed", "LookupError: in set-up")
def test_error_in_setup(broken_setup: None) -> None:
    raise AssertionError("never reached")


@pytest.fixture
def broken_teardown() -> Iterator[None]:
    yield
    raise LookupError("in teardown")


@expect("teardown failed", "LookupError: in teardown")
def test_error_in_teardown(broken_teardown: None) -> None:
    pass


@expect("call failed, teardown failed", "ValueError: the test", "LookupError: in teardown")
def test_error_in_both(broken_teardown: None) -> None:
    raise ValueError("the test")


@expect("setup skipped", "by mark")
@pytest.mark.skip(reason="by mark")
def test_skip_mark() -> None:
    raise AssertionError("never reached")


@expect("call skipped", "from inside")
def test_skip_inside() -> None:
    pytest.skip("from inside")


@pytest.fixture
def skipping() -> None:
    pytest.skip("from set-up")


@expect("setup skipped", "from set-up")
def test_skip_in_setup(skipping: None) -> None:
    pass


# Expected failures -------------------------------------------------------------------------------


@expect("call xfailed", "a reason")
@pytest.mark.xfail(reason="a reason")
def test_xfail() -> None:
    raise AssertionError


@expect("call xfailed", "by call")
def test_xfail_by_call() -> None:
    pytest.xfail("by call")


@expect("call xpassed")
@pytest.mark.xfail
def test_xpass() -> None:
    pass


@expect("call failed", "[XPASS(strict)]")
@pytest.mark.xfail(strict=True)
def test_xpass_strict() -> None:
    pass


@expect("call xfailed")
@pytest.mark.xfail(raises=LookupError)
def test_xfail_raises() -> None:
    raise KeyError


@expect("call failed", "ValueError: another")
@pytest.mark.xfail(raises=LookupError)
def test_xfail_raises_another() -> None:
    raise ValueError("another")


@expect("call failed", "assert False")
@pytest.mark.xfail(False, reason="condition")
def test_xfail_condition_false() -> None:
    raise AssertionError("assert False")


@expect("call xfailed", "killed by SIGSEGV", "known to crash")
@pytest.mark.xfail(reason="known to crash")
def test_xfail_crash() -> None:
    crash()


@expect("call xfailed", "killed by SIGSEGV")
@pytest.mark.xfail(strict=True)
def test_xfail_strict_crash() -> None:
    crash()


@expect("call failed", "killed by SIGSEGV")
@pytest.mark.xfail(raises=OSError)
def test_xfail_raises_crash() -> None:
    crash()


@expect("call failed", "killed by SIGSEGV")
@pytest.mark.xfail(raises=Exception, strict=True)
def test_xfail_raises_anything_crash() -> None:
    crash()


@expect("call failed", "killed by SIGSEGV")
@pytest.mark.xfail(False, reason="condition")
def test_xfail_condition_false_crash() -> None:
    crash()


@expect("call xfailed", "exit status 3")
@pytest.mark.xfail(True, reason="condition")
def test_xfail_exit() -> None:
    os._exit(3)


@expect("call failed", "exit status 3")
@pytest.mark.xfail(raises=SystemExit)
def test_xfail_raises_exit() -> None:
    os._exit(3)


@expect("call xfailed", "timed out after 0.4 s")
@pytest.mark.xfail
@pytest.mark.isolated(timeout=0.4)
def test_xfail_timeout() -> None:
    signal.pause()


@expect("call failed", "timed out after 0.4 s")
@pytest.mark.xfail(raises=TimeoutError)
@pytest.mark.isolated(timeout=0.4)
def test_xfail_raises_timeout() -> None:
    signal.pause()


# Faults ------------------------------------------------------------------------------------------


@expect("call failed", "crashed in call: killed by SIGSEGV", "Segmentation fault", "in crash")
def test_segv() -> None:
    crash()


@expect("call failed", "killed by SIGBUS", "Fatal Python error: Bus error")
def test_bus() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(mmap.PAGESIZE)
        memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        file.truncate(0)
        memory[0]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code")
@expect("call failed", "killed by SIGFPE", "Fatal Python error: Floating")
def test_fpe() -> None:
    execute(b"\x31\xc0\x31\xd2\x31\xc9\xf7\xf1\xc3")  # divide 0 by 0


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code")
@expect("call failed", "killed by SIGILL", "Fatal Python error: Illegal instruction")
def test_ill() -> None:
    execute(b"\x0f\x0b")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code")
@expect("call failed", "killed by SIGSEGV", "Fatal Python error: Segmentation fault", "execute")
def test_stack_overflow() -> None:
    execute(b"\xe8\xfb\xff\xff\xff")  # call itself


@pytest.fixture
def crashing_setup() -> None:
    crash()


@expect("setup failed", "crashed in setup: killed by SIGSEGV")
def test_crash_in_setup(crashing_setup: None) -> None:
    pass


@pytest.fixture
def crashing_teardown() -> Iterator[None]:
    yield
    crash()


@expect("teardown failed", "crashed in teardown: killed by SIGSEGV")
def test_crash_in_teardown(crashing_teardown: None) -> None:
    pass


# Exits -------------------------------------------------------------------------------------------


@expect("call failed", "ended in call: exit status 0 before it was finished")
def test_exit_0() -> None:
    os._exit(0)


@expect("call failed", "ended in call: exit status 7 before it was finished")
def test_exit_7() -> None:
    os._exit(7)


@expect("call failed", "exit status 255")
def test_exit_255() -> None:
    os._exit(-1)


@expect("call failed", "exit status 0 before it was finished")
def test_exec() -> None:
    os.execv("/bin/true", ["true"])


@pytest.fixture
def exiting_setup() -> None:
    os._exit(0)


@expect("setup failed", "ended in setup: exit status 0")
def test_exit_in_setup(exiting_setup: None) -> None:
    pass


@pytest.fixture
def exiting_teardown() -> Iterator[None]:
    yield
    os._exit(0)


@expect("teardown failed", "ended in teardown: exit status 0")
def test_exit_in_teardown(exiting_teardown: None) -> None:
    pass


@expect("call failed", "SystemExit: 0")
def test_sys_exit_0() -> None:
    sys.exit(0)


@expect("call failed", "SystemExit: a text")
def test_sys_exit_text() -> None:
    sys.exit("a text")


@expect("call failed", "exit status 0 before it was finished")
def test_exit_by_libc() -> None:
    ctypes.CDLL(None)._exit(0)


# Signals of PID 1 to itself ----------------------------------------------------------------------


@expect("call failed", "killed by SIGSEGV (abort() as PID 1", "Fatal Python error: Aborted")
def test_abort() -> None:
    os.abort()


@expect("call failed", "had a fatal error in call, and went on", "Fatal Python error: Aborted")
def test_sigabrt_to_itself() -> None:
    os.kill(os.getpid(), signal.SIGABRT)


@expect("call failed", "had a fatal error in call, and went on", "Segmentation fault")
def test_sigsegv_to_itself() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.fixture
def aborting_setup() -> None:
    os.kill(os.getpid(), signal.SIGABRT)


@expect("setup failed", "had a fatal error in setup, and went on")
def test_sigabrt_in_setup(aborting_setup: None) -> None:
    pass


@pytest.fixture
def aborting_teardown() -> Iterator[None]:
    yield
    os.kill(os.getpid(), signal.SIGABRT)


@expect("teardown failed", "had a fatal error in teardown, and went on")
def test_sigabrt_in_teardown(aborting_teardown: None) -> None:
    pass


@expect("passed")
def test_sigkill_to_itself_is_dropped_by_the_kernel() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGTERM)


@expect("passed")
def test_a_crash_of_a_child_is_the_tests_own_business() -> None:
    code = "import ctypes; ctypes.string_at(0)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGSEGV


@expect("passed")
@pytest.mark.isolated(False)
def test_the_runner_is_well() -> None:
    assert os.getppid() != 0
