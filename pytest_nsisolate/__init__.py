# SPDX-License-Identifier: MIT
"""pytest-nsisolate: run a test as PID 1 of fresh Linux namespaces.

The hooks are in :mod:`pytest_nsisolate.plugin`, which pytest loads by its entry point
``nsisolate`` (``pytest -p nsisolate``). Importing this package works on every platform; only
running an isolated test needs Linux.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import pytest

# ``-p nsisolate`` with autoload off marks the name "nsisolate", not this package's modules.
pytest.register_assert_rewrite("pytest_nsisolate.view")

from pytest_nsisolate.errors import (  # noqa: E402
    FaultRefusal,
    IsolatedCrash,
    IsolatedError,
    IsolatedExit,
    IsolatedLoss,
    IsolatedRefusal,
    IsolatedSignal,
    IsolatedTimeout,
    NotAwaitedError,
    NotPlainError,
    NotReadyError,
    NsisolateError,
    NsisolateLeftoversWarning,
    NsisolateOverrunWarning,
    StepError,
    TestbedError,
)
from pytest_nsisolate.request.model import (  # noqa: E402
    IsolationRequest,
    TimeOffsets,
)

__all__ = [
    "Box",
    "Capture",
    "Difference",
    "Fault",
    "FaultRefusal",
    "Host",
    "Isolate",
    "IsolateKeywords",
    "IsolatedCrash",
    "IsolatedError",
    "IsolatedExit",
    "IsolatedLoss",
    "IsolatedRefusal",
    "IsolatedSignal",
    "IsolatedTimeout",
    "IsolationRequest",
    "Loopback",
    "Network",
    "NotAwaitedError",
    "NotPlainError",
    "NotReadyError",
    "NsisolateError",
    "NsisolateLeftoversWarning",
    "NsisolateOverrunWarning",
    "Packet",
    "Pid1View",
    "Program",
    "Router",
    "Snapshot",
    "StepError",
    "Task",
    "Terminal",
    "Testbed",
    "TestbedError",
    "TimeOffsets",
    "Wire",
]

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pytest_nsisolate.isolate.box import Box
    from pytest_nsisolate.isolate.fixture import Isolate, IsolateKeywords
    from pytest_nsisolate.isolate.task import Task
    from pytest_nsisolate.testbed.bed import Testbed
    from pytest_nsisolate.testbed.capture import Capture
    from pytest_nsisolate.testbed.host import Host, Router
    from pytest_nsisolate.testbed.loopback import Loopback
    from pytest_nsisolate.testbed.network import Network
    from pytest_nsisolate.testbed.packets import Packet
    from pytest_nsisolate.testbed.program import Program
    from pytest_nsisolate.testbed.wire import Wire
    from pytest_nsisolate.view import Difference, Fault, Pid1View, Snapshot
    from pytest_nsisolate.view.terminal.terminal import Terminal

_IN_VIEW = frozenset({"Difference", "Fault", "Pid1View", "Snapshot"})
_IN_ISOLATE = {"Box": "box", "Isolate": "fixture", "IsolateKeywords": "fixture", "Task": "task"}
_IN_TESTBED = {
    "Capture": "capture",
    "Host": "host",
    "Loopback": "loopback",
    "Network": "network",
    "Packet": "packets",
    "Program": "program",
    "Router": "host",
    "Testbed": "bed",
    "Wire": "wire",
}


def __getattr__(name: str) -> object:
    if sys.platform != "linux" and (name in _IN_VIEW or name in _IN_ISOLATE):
        # Their modules do not import everywhere; a test's annotations must be readable there too.
        return globals().setdefault(name, type(name, (), {"__module__": __name__}))
    # Only a test that looks at its world pays for the means to do so.
    if name in _IN_VIEW:
        from pytest_nsisolate import view

        return getattr(view, name)
    if name in _IN_ISOLATE:
        # Likewise the fixture's types, for annotations.
        return getattr(importlib.import_module(f"{__name__}.isolate.{_IN_ISOLATE[name]}"), name)
    if name in _IN_TESTBED:
        return getattr(importlib.import_module(f"{__name__}.testbed.{_IN_TESTBED[name]}"), name)
    if name == "Terminal":
        return importlib.import_module(f"{__name__}.view.terminal.terminal").Terminal
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
