# SPDX-License-Identifier: MIT
"""What all tests share."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Final

import pytest

HERE: Final = Path(__file__).parent

#: Modules, and folders of them, that are about the kernel, processes, or programs of ours: with a
#: second release of pytest they would say the same once more.
ANY_PYTEST: Final = (
    *("cli", "console", "host", "kernel", "view", "test_benchmarks.py", "test_diagnosis.py"),
    *("test_examples.py", "test_launch.py", "test_leftovers.py"),
    *("test_parity_tool.py", "test_init.py", "test_supervise.py"),
    *("test_tagged.py", "test_wire.py", "test_world_rootless.py", "test_coverage_lost.py"),
    *("test_ci_recipes.py", "test_remedies.py", "test_packaging.py", "test_workflows.py"),
    *("test_faults.py", "test_scenarios.py", "test_nasty.py"),
    *("test_isolate.py", "test_isolate_runs.py", "test_isolate_values.py", "test_limits.py"),
    *("test_caps.py", "test_escapes.py", "test_container_tools.py"),
)


def pytest_configure(config: pytest.Config) -> None:
    # An ordinary user of Debian does not find chroot, capsh and others without.
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    # A job in the background of a shell script ignores Ctrl-C, and so would all that it starts.
    for number in (signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            default = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if default else signal.SIG_DFL)
    # Tests here import the suites of tests/inner to read these marks.
    config.addinivalue_line("markers", "expect(result, *texts): of a test in tests/inner")
    config.addinivalue_line("markers", "on_the_host: about a test that is not isolated")
    config.addinivalue_line("markers", "any_pytest: whatever the release of pytest is")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """``--nsisolate=all`` is for every test but those that say how it is without isolation."""
    folders = tuple(HERE / name for name in ANY_PYTEST)
    if sys.version_info >= (3, 15):
        # Tests fork beside the threads of pytest-xdist, and `-W error` would have that raise in the
        # parent, with the child there already. Only a mark comes after the command line.
        harmless = "ignore:This process .* is multi-threaded:DeprecationWarning"
        for item in items:
            item.add_marker(pytest.mark.filterwarnings(harmless))
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in folders):
            item.add_marker("any_pytest")
    if config.getoption("--nsisolate") == "all":
        for item in items:
            if item.get_closest_marker("on_the_host"):
                item.add_marker(pytest.mark.isolated(False))
