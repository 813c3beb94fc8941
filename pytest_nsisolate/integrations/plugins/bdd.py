# SPDX-License-Identifier: MIT
"""pytest-bdd: the steps of a scenario, which it keeps beside the report, by its identity."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

import pytest
from pytest_bdd.reporting import ReportContext
from pytest_bdd.reporting import test_report_context_registry as contexts

#: The attribute under which they cross with the report.
_SCENARIO: Final = "_nsisolate_scenario"


class Adapter:
    """Hooks on both sides of the clone."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        context = contexts.get(report)
        if context is not None:
            setattr(report, _SCENARIO, (context.scenario, context.name))
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        carried: tuple[Any, Any] = vars(report).pop(_SCENARIO, (None, None))
        scenario, name = carried
        if (type(scenario), type(name)) == (dict, str):
            contexts[report] = ReportContext(scenario=scenario, name=name)
