# SPDX-License-Identifier: MIT
"""What a run has set up round its tests: the fault handler, directories, files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_nsisolate.integrations.pytest.private import fault_handler_stderr_fd_key


def fault_handler_descriptor(config: pytest.Config) -> int | None:
    """Where pytest's faulthandler plugin writes; None when it is off."""
    return config.stash.get(fault_handler_stderr_fd_key, None)


def fault_timeout(config: pytest.Config) -> float:
    """``faulthandler_timeout`` in seconds, 0 for none."""
    try:
        return float(config.getini("faulthandler_timeout") or 0)
    except (KeyError, ValueError):
        return 0.0


def exits_on_fault_timeout(config: pytest.Config) -> bool:
    """``faulthandler_exit_on_timeout`` (pytest 9.0)."""
    try:
        return bool(config.getini("faulthandler_exit_on_timeout"))
    except (KeyError, ValueError):
        return False


def create_base_temp(config: pytest.Config) -> None:
    """Create the base temporary directory now, so that every child shares it.

    Public neighbour: the ``tmp_path_factory`` fixture, which needs a request.
    """
    factory = getattr(config, "_tmp_path_factory", None)
    if factory is not None:
        factory.getbasetemp()


def base_temp(config: pytest.Config) -> str | None:
    """Where it is, if it has been created."""
    factory = getattr(config, "_tmp_path_factory", None)
    return None if factory is None or factory._basetemp is None else str(factory._basetemp)


def files_in_use(config: pytest.Config) -> Iterator[str]:
    """Directories that pytest's own plugins write to: the cache's, the log file's."""
    cache = getattr(config, "cache", None)
    if cache is not None:
        yield str(cache._cachedir)
    plugin: Any = config.pluginmanager.getplugin("logging-plugin")
    handler = getattr(plugin, "log_file_handler", None)
    if handler is not None:
        yield str(Path(handler.baseFilename).parent)
