# SPDX-License-Identifier: MIT
"""A helper that cannot be started: the test that asks for it fails, and the next one passes."""

from __future__ import annotations

from typing import Final

import pytest

from pytest_nsisolate.kernel import seccomp, syscall_numbers
from tests.inner_runs import SIDES, Side, run_batch
from tests.support import NEEDS_NAMESPACES, needs

pytestmark = [
    NEEDS_NAMESPACES,
    needs(bool(syscall_numbers.numbers()) and seccomp.refusal() is None, "needs faults on demand"),
]

#: In the runner, the calls that start a helper fail for the test whose name has theirs.
CONFTEST: Final = """
import errno
import os
import sys

import pytest

from pytest_nsisolate.kernel import originals, syscalls
from pytest_nsisolate.process import helper_program, helpers

def failing(name, what):
    whole = getattr(what, name)
    def call(*arguments, **keywords):
        frame = sys._getframe(1)
        while frame is not None:  # a watchdog is started by the same calls
            if frame.f_globals["__name__"] == helpers.__name__:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            frame = frame.f_back
        return whole(*arguments, **keywords)
    return call

PLACES = {
    "pidfd_open": helpers.os,
    "pidfd_getfd": syscalls,
    "posix_spawn": helper_program.os,
    "fcntl": helper_program.fcntl,
}

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    with pytest.MonkeyPatch.context() as patch:
        for name, what in PLACES.items():
            if item.name.endswith(f"-{name}]"):
                patch.setattr(what, name, failing(name, what))
        return (yield)
"""

SUITE: Final = """
import pytest

CALLS = ["pidfd_open", "pidfd_getfd", "posix_spawn", "fcntl", "nothing"]
ASKS = {"reach": {"reach": 9}, "tty": {"tty": True}, "faults": {}}

@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize((), [
    pytest.param(marks=pytest.mark.isolated(**keywords), id=name)
    for name, keywords in ASKS.items()
])
def test_it(call, pid1, request):
    with pid1.fail("chdir", "EIO", unused="ok"):
        pass
"""

#: What the call that fails is part of.
STEPS: Final = {
    "pidfd_open": "pidfd_open",
    "pidfd_getfd": "pidfd_getfd",
    "posix_spawn": "start the ",
    "fcntl": "start the ",
}
NAMES: Final = {"reach": "forwarder", "tty": "terminal reader", "faults": "fault supervisor"}


@pytest.mark.parametrize("side", SIDES)
def test_every_call_that_starts_one(side: Side) -> None:
    """The step, its errno, a cause and a remedy; nothing is left, and others are not touched."""
    result = run_batch({"conftest.py": CONFTEST, "test_it.py": SUITE}, side, clean=False, gone=True)
    passed = {name for name in result.passed() if "nothing" in name}
    assert len(passed) == len(NAMES), result.text
    assert result.passed() == passed
    for asked, helper in NAMES.items():
        for call, step in STEPS.items():
            said = result.failure(f"test_it[{asked}-{call}]")
            whole = f"{step}{helper}" if step.endswith(" ") else step
            assert f"{helper} refused: {whole}: EMFILE" in said
            assert "cause: " in said
            assert "remedy: " in said
