# SPDX-License-Identifier: MIT
"""vscode_pytest, the plugin of VS Code's test explorer: it tells each result by a named pipe.

Fact: it opens the pipe when it tells the first result, and takes results from reports of the call
phase and from ``pytest_exception_interact``, which is called in an isolated test's own process. A
child that opens the pipe is the only one that writes to it, and closes it by ending: for VS Code
the run is over then, and a runner that opens it later waits for a reader.

Consequence: only the runner tells. What a child has raised in its set-up, of which no report that
the plugin listens to speaks, is told there with a stand-in for the exception.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Any

import pytest

from pytest_nsisolate.runner.run import RUN


class Adapter:
    """Stands between pytest and the plugin's hook, on both sides of the clone."""

    def pytest_plugin_registered(self, plugin: object, manager: pytest.PytestPluginManager) -> None:
        if plugin is self:
            for found in manager.hook.pytest_exception_interact.get_hookimpls():
                if found.plugin is sys.modules["vscode_pytest"]:
                    found.function = _in_runner(found.function)  # type: ignore[misc]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        isolated = item in item.config.stash[RUN].requests
        if isolated and call.when == "setup" and call.excinfo is not None and report.failed:
            # Once more, where pytest calls it itself: the plugin tells of each test once.
            _in_runner(sys.modules["vscode_pytest"].pytest_exception_interact)(item, call, report)
        return report


def _in_runner(hook: Any) -> Any:
    def pytest_exception_interact(node: pytest.Item, call: Any, report: Any) -> None:
        if node.config.stash[RUN].in_child is None:
            hook(node, call, report)

    return pytest_exception_interact
