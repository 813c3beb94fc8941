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
    *("cli", "hostile", "host", "isolate", "kernel", "process", "terminal", "testbed", "view"),
    *("wire/test_frames.py", "wire/test_tagged_json.py", "request/test_grants.py"),
    *("child/test_escapes.py", "child/test_leftovers.py", "child/test_world.py"),
    *("child/test_world_inherited.py", "child/test_world_rootless.py", "child/test_world_runs.py"),
    *("request/test_files.py", "runner/test_kept_files.py", "test_layers.py", "test_links.py"),
    *("integrations/coverage/test_lost.py", "parity/test_tool.py", "parity/test_scenarios.py"),
    *("child/test_ending.py", "child/test_leaks.py", "child/test_strays.py"),
    *("child/test_terminal.py", "integrations/test_debuggers.py", "wire/test_values.py"),
    *("runner/test_jobs.py", "runner/test_jobs_together.py", "runner/test_elsewhere.py"),
    *("runner/test_sightings.py", "runner/test_stress.py", "runner/test_trace.py"),
    *("integrations/plugins/test_helpers.py", "wire/test_steps.py"),
    *("integrations/coverage/test_coverage.py", "integrations/coverage/test_settings.py"),
    *("integrations/plugins/test_applications.py", "integrations/plugins/test_scaling.py"),
    "request/test_resolve.py",
    *("test_benchmarks.py", "test_container_tools.py", "test_docs.py", "test_examples.py"),
    *("test_packaging.py", "test_workflows.py", "../examples"),
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
    folders = tuple((HERE / name).resolve() for name in ANY_PYTEST)
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
