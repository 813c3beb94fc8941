# SPDX-License-Identifier: MIT
"""Marks for tests that need another plugin (by the name of its distribution)."""

from __future__ import annotations

import importlib.metadata
import os

import pytest


def needs(*distributions: str) -> pytest.MarkDecorator:
    """Skip where one of them is not installed; under NSISOLATE_MUST_WORK=1 run, and fail."""
    missing = [name for name in distributions if not _is_installed(name)]
    must_work = os.environ.get("NSISOLATE_MUST_WORK") == "1"
    reason = f"not installed: {', '.join(missing)}"
    return pytest.mark.skipif(bool(missing) and not must_work, reason=reason)


def version(distribution: str) -> tuple[int, ...]:
    """Its version as numbers, () where it is not installed."""
    if not _is_installed(distribution):
        return ()
    text = importlib.metadata.version(distribution)
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
