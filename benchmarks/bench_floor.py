# SPDX-License-Identifier: MIT
"""The floor: what a process per test costs when nothing is done for it.

One bare ``os.fork`` per test, the test's own protocol in the child, the exit, and the runner's
wait for it. No namespaces, no reports sent, no output kept, no fixtures protected: no plugin that
runs a test in a forked child of the same pytest can cost less. Loaded with ``-p bench_floor``.
"""

from __future__ import annotations

import os
import warnings

import pytest
from _pytest.runner import runtestprotocol


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Run this item in a forked child and wait; a child that fails ends the session."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        status = 1
        try:
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
            status = 0 if all(report.passed for report in reports) else 1
        finally:
            os._exit(status)
    _, wait_status = os.waitpid(pid, 0)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    if wait_status:
        pytest.exit(f"floor: {item.nodeid} failed in its child", returncode=1)
    return True
