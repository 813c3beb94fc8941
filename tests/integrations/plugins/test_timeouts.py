# SPDX-License-Identifier: MIT
"""Budgets and watchdogs: pytest-timeout, faulthandler_timeout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integrations.plugins.installed import needs
from tests.support import (
    NEEDS_NAMESPACES,
    eventually,
    run_source,
)

pytestmark = [NEEDS_NAMESPACES, needs("pytest-timeout")]


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_the_mark_of_pytest_timeout_is_the_budget(tmp_path: Path, method: str) -> None:
    """The test is killed from outside, the run goes on, and no process is left."""
    result = run_source(
        tmp_path,
        """
        import pytest, time, subprocess
        @pytest.mark.isolated
        @pytest.mark.timeout(1)
        def test_slow():
            daemon = subprocess.Popen(["sleep", "600"], start_new_session=True)
            time.sleep(60)
        @pytest.mark.isolated
        @pytest.mark.timeout(30)
        def test_fast(): pass
        @pytest.mark.isolated(timeout=1)
        @pytest.mark.timeout(50)
        def test_both(): time.sleep(60)
        def test_plain(): pass
        """,
        *("-p", "timeout", f"--timeout-method={method}"),
    )
    assert result.returncode == 1, result.text
    assert result.summary == "2 failed, 2 passed", result.text
    assert "INTERNALERROR" not in result.text
    for name in ("test_slow", "test_both"):
        assert "timed out after 1 s in call" in result.failure(name)
    assert "sleep 600" in result.failure("test_slow")

    def left() -> list[str]:
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/cwd") == str(tmp_path):
                    found.append(pid)
            except OSError:
                pass
        return found

    assert eventually(lambda: not left())


def test_the_ini_of_pytest_timeout_is_the_budget_too(tmp_path: Path) -> None:
    """--timeout for the whole run counts for isolated tests, and for plain ones as ever."""
    result = run_source(
        tmp_path,
        """
        import pytest, time
        @pytest.mark.isolated
        def test_slow(): time.sleep(60)
        def test_plain(): time.sleep(60)
        """,
        *("-p", "timeout", "--timeout=1"),
    )
    assert result.summary == "2 failed", result.text
    assert "timed out after 1 s in call" in result.failure("test_slow")
    assert "Timeout" in result.failure("test_plain")


@needs("pytest-xdist")
def test_both_watchdogs_in_a_worker(tmp_path: Path) -> None:
    """faulthandler_timeout shows the child's stack, then the budget ends; the worker lives on."""
    result = run_source(
        tmp_path,
        """
        import pytest, time
        pytestmark = pytest.mark.isolated
        def wait_for_ever(): time.sleep(600)
        @pytest.mark.timeout(1.5)
        def test_slow(): wait_for_ever()
        def test_fast(): pass
        """,
        *("-p", "timeout", "-p", "xdist", "-n", "1", "-o", "faulthandler_timeout=0.5"),
    )
    assert result.summary == "1 failed, 1 passed", result.text
    assert "timed out after 1.5 s in call" in result.failure("test_slow")
    # Once by pytest's watchdog, once as the diagnosis of the timeout.
    assert result.text.count("in wait_for_ever") >= 2
    assert "node down" not in result.text
