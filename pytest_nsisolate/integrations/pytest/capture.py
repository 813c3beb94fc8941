# SPDX-License-Identifier: MIT
"""pytest's capture and log handlers."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest


def global_captures(config: pytest.Config) -> list[Any]:
    """The capture objects of standard output and error (``FDCapture``, ``SysCapture``), if any."""
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    capturing = getattr(manager, "_global_capturing", None)
    if capturing is None:
        return []
    return [capture for capture in (capturing.out, capturing.err) if capture is not None]


def standard_input(config: pytest.Config) -> int:
    """The descriptor of standard input as it is without capture."""
    return standard_streams(config)[0]


def standard_streams(config: pytest.Config) -> list[int]:
    """The descriptors of standard input, output and error as they are without capture."""
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    capturing = getattr(manager, "_global_capturing", None)
    captures = (getattr(capturing, name, None) for name in ("in_", "out", "err"))
    saved = (getattr(capture, "targetfd_save", None) for capture in captures)
    return [fd if isinstance(fd, int) else number for number, fd in enumerate(saved)]


def capture_disabled(config: pytest.Config) -> AbstractContextManager[None]:
    """``capsys.disabled()`` for whoever has no fixture at hand."""
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    if manager is None:
        return nullcontext()
    disabled: AbstractContextManager[None] = manager.global_and_fixture_disabled()
    return disabled


def captured_again(item: pytest.Item, when: str) -> AbstractContextManager[None]:
    """Capture once more for a phase of the item; what comes is a section of its report.

    Public neighbour: the hooks of the phases, which are over.
    """
    manager: Any = item.config.pluginmanager.getplugin("capturemanager")
    if manager is None:
        return nullcontext()
    capture: AbstractContextManager[None] = manager.item_capture(when, item)
    return capture


def report_log_handler(config: pytest.Config) -> logging.Handler | None:
    """The handler whose stream becomes the "Captured log" section."""
    plugin: Any = config.pluginmanager.getplugin("logging-plugin")
    handler: logging.Handler | None = getattr(plugin, "report_handler", None)
    return handler
