# SPDX-License-Identifier: MIT
"""What pytest notices beside a test: errors of threads, and those that nobody could raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_nsisolate.integrations.pytest.private import (
    collect_thread_exception,
    collect_unraisable,
    thread_exceptions,
    unraisable_exceptions,
)


def forget_collected_errors(config: pytest.Config) -> None:
    """In a copy: what was noticed before, and is still to be told, is told by the original."""
    for key in _NOTICED:
        noticed: Any = config.stash.get(key, None)
        if noticed is not None:
            noticed.clear()


def raise_collected_errors(config: pytest.Config) -> None:
    """Warn now of exceptions that nobody could raise: of threads, and of ``__del__``.

    Public neighbour: the hooks round each phase, of which there is none in a call by ``isolate``.
    """
    for key, collect in _NOTICED.items():
        if config.stash.get(key, None):
            collect(config)


_NOTICED: dict[pytest.StashKey[Any], Callable[[pytest.Config], None]] = {
    thread_exceptions: collect_thread_exception,
    unraisable_exceptions: collect_unraisable,
}
