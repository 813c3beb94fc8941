# SPDX-License-Identifier: MIT
"""What all tests share."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # Tests here import the suites of tests/inner to read these marks.
    config.addinivalue_line("markers", "expect(result, *texts): of a test in tests/inner")
