# SPDX-License-Identifier: MIT
"""A process that does not go away, because PID 1 is a test that does not wait for orphans.

Fact: a process that ends without a living parent is a zombie until PID 1 has waited for it, so a
test that stops a daemon and looks for its number finds it for ever. The kernel does not tell whose
child it was before, and a test's own forgotten child has nothing to do with isolation.

Consequence: it counts if it is known to be inherited (``pid1.orphans``). A test that has not called
fork(2) itself has only children of :mod:`subprocess` and :mod:`multiprocessing`, which know their
numbers: then every other one counts too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Final

import pytest

from pytest_nsisolate.kernel.originals import gc, os, subprocess
from pytest_nsisolate.view.postmortem.refusals import attribute
from pytest_nsisolate.view.readings import Readings

#: Errors by which a test says that something has not come about; a "stop" that waits fails too.
_OF_WAITING: Final = (
    AssertionError,
    TimeoutError,
    pytest.fail.Exception,
    subprocess.CalledProcessError,
)
_MOST_NAMED: Final = 3

#: The machinery's, and the suite's, which it is a subclass of.
_POPEN: Final = subprocess.Popen.__mro__[:2]


def hint(view: Readings, errors: Iterable[BaseException], *, forked: bool) -> list[str]:
    """The line, where an error may come of waiting for such a process.

    :param forked: the test itself has called fork(2).
    """
    errors = list(errors)
    # Assertions of the view say so themselves.
    if not any(map(_may_have_waited, errors)) or any(map(_says_so, errors)):
        return []
    if view._is_alone:
        return []
    ended = {process.pid: process for process in view.zombies if process.ppid == os.getpid() == 1}
    if not ended:
        return []
    inherited = {process.pid for process in view.orphans}
    if not forked:
        inherited |= ended.keys() - _started_here()
    told = [f"{pid} ({process.name})" for pid, process in ended.items() if pid in inherited]
    return [line(told)] if told else []


def line(processes: list[str]) -> str:
    """
    :param processes: what each is called.
    """
    names = ", ".join(processes[:_MOST_NAMED]) + (", ..." if len(processes) > _MOST_NAMED else "")
    return (
        "hint: an orphan that has ended is a zombie until PID 1, which is this test, waits for it: "
        f"{names}. With init=True an init does so"
    )


def _may_have_waited(error: BaseException) -> bool:
    kind = type(error)
    return issubclass(kind, _OF_WAITING) or "timeout" in kind.__name__.lower()


def _says_so(error: BaseException) -> bool:
    try:
        return "init=True" in str(error)
    except Exception:
        return False


def _started_here() -> set[int]:
    found = {
        attribute(made, "pid")
        for made in gc.get_referrers(*_POPEN)
        if issubclass(type(made), _POPEN)
    }
    multiprocessing = sys.modules.get("multiprocessing.process")
    children: Any = getattr(multiprocessing, "_children", ())
    return found | {attribute(attribute(child, "_popen"), "pid") for child in children}
