# SPDX-License-Identifier: MIT
"""pytest-memray: which tests it has measured, which it keeps in memory, and in a file for each.

Fact: it writes the files for workers of pytest-xdist, and reads them where it remembers no test.

Consequence: at the end it is made to forget, and finds the isolated tests among the others.
"""

from __future__ import annotations

import pytest


class Adapter:
    """Its markers are judged in the test's process, and need nothing."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, config: pytest.Config) -> None:
        manager = config.pluginmanager.get_plugin("memray_manager")
        if manager is not None:
            manager.results.clear()
