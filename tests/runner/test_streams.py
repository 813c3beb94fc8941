# SPDX-License-Identifier: MIT
"""A test shares the runner's standard streams, and does not change them for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import NEEDS_NAMESPACES, run_source

SUITE = """
import os
import pytest

{mark}
def test_does_not_wait():
    for fd in os.listdir("/proc/self/fd"):
        try:
            os.set_blocking(int(fd), False)
        except OSError:
            pass  # the listing's own

def test_the_runner_waits(pytestconfig):
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        assert os.get_blocking(1) and os.get_blocking(2)
"""


@NEEDS_NAMESPACES
@pytest.mark.parametrize("options", [("-s",), ("--capture=sys",), ()], ids=["-s", "sys", "fd"])
def test_they_are_blocking_again(options: tuple[str, ...], tmp_path: Path) -> None:
    """A reporter that may not wait for its terminal ends the run with a BlockingIOError."""
    result = run_source(tmp_path, SUITE.format(mark="@pytest.mark.isolated"), *options)

    assert result.passed() == {"test_does_not_wait", "test_the_runner_waits"}, result.text


def test_without_isolation_they_are_not(tmp_path: Path) -> None:
    """The negative control."""
    result = run_source(tmp_path, SUITE.format(mark=""), "-s")

    assert result.phases("test_the_runner_waits")[1] == "call failed", result.text
