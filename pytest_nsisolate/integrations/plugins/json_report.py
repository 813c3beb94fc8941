# SPDX-License-Identifier: MIT
"""pytest-json-report: its entry for each phase, which its own hooks begin in the test's process."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest


class Adapter:
    """The entry has to be there when the runner makes its copy of the report."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, object, object]:
        entries: dict[str, Any] | None = getattr(item, "_json_report_extra", None)
        if entries is not None:
            entries.setdefault(call.when, {})
        return (yield)
