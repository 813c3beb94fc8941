# SPDX-License-Identifier: MIT
"""Loaded into inner runs (``-p watching``): what the runner holds before and after its tests.

The runner also takes a lock on the file named by ``ALIVE``, on a descriptor that every process it
forks inherits, whatever program that one becomes: the lock is free when all of them are dead.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "expect(result, *texts): what the outer test looks for")
    config.addinivalue_line("markers", "lost: the test does not live to tell its own output")
    lock = os.open(os.environ["ALIVE"], os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)  # one for each runner of a run
    os.set_inheritable(lock, True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish() -> None:
    _write("before")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(exitstatus: int) -> None:
    _write("after", exitstatus=int(exitstatus))


def _write(moment: str, **more: object) -> None:
    record: dict[str, Any] = {
        "record": moment,
        "pid": os.getpid(),
        "descriptors": {fd: _target(fd) for fd in os.listdir("/proc/self/fd")},
        "children": _children(),
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "handlers": {
            number: repr(signal.getsignal(number))
            for number in range(1, 32)
            if number not in (signal.SIGKILL, signal.SIGSTOP)
        },
        "namespaces": {name: _target(f"../ns/{name}") for name in os.listdir("/proc/self/ns")},
        **more,
    }
    # The listing's own descriptor is gone by now; where the first three lead is up to capture.
    record["descriptors"] = {
        fd: target for fd, target in record["descriptors"].items() if target and int(fd) > 2
    }
    with open(os.environ["RECORDING"], "a", encoding="ascii") as file:
        file.write(json.dumps(record) + "\n")


def _target(fd: str) -> str | None:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None


def _children() -> list[str]:
    found = []
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/children", encoding="ascii") as file:
            found += file.read().split()
    return found
