# SPDX-License-Identifier: MIT
"""What all tests share."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # Tests here import the suites of tests/inner to read these marks.
    config.addinivalue_line("markers", "expect(result, *texts): of a test in tests/inner")
    config.addinivalue_line("markers", "on_the_host: about a test that is not isolated")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """``--nsisolate=all`` is for every test but those that say how it is without isolation."""
    if config.getoption("--nsisolate") == "all":
        for item in items:
            if item.get_closest_marker("on_the_host"):
                item.add_marker(pytest.mark.isolated(False))
