# SPDX-License-Identifier: MIT
"""pytest-nsisolate: run a test as PID 1 of fresh Linux namespaces.

The hooks are in :mod:`pytest_nsisolate.plugin`, which pytest loads by its entry point
``nsisolate`` (``pytest -p nsisolate``). Importing this package works on every platform; only
running an isolated test needs Linux.
"""

from __future__ import annotations

import pytest

# ``-p nsisolate`` with autoload off marks the name "nsisolate", not this package's modules.
pytest.register_assert_rewrite("pytest_nsisolate.view")

from pytest_nsisolate.errors import IsolatedCrash, NsisolateError, StepError  # noqa: E402
from pytest_nsisolate.marker import TimeOffsets  # noqa: E402
from pytest_nsisolate.request import IsolationRequest  # noqa: E402
from pytest_nsisolate.view import Pid1View  # noqa: E402

__all__ = [
    "IsolatedCrash",
    "IsolationRequest",
    "NsisolateError",
    "Pid1View",
    "StepError",
    "TimeOffsets",
]

__version__ = "0.1.0"
