# SPDX-License-Identifier: MIT
"""Makes the view of one child, with what only the runner knew."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_nsisolate.kernel.originals import os

if TYPE_CHECKING:
    from pytest_nsisolate.child.outgoing import Outgoing
    from pytest_nsisolate.request.model import IsolationRequest
    from pytest_nsisolate.testbed.loopback import Loopback
    from pytest_nsisolate.view import Pid1View
    from pytest_nsisolate.view.readings import Origin, Readings


def make_origin(
    request: IsolationRequest,
    home: Mapping[str, int],
    helpers: Callable[[], Mapping[int, str]] = dict,
    outgoing: Outgoing | None = None,
    settled: frozenset[int] = frozenset(),
) -> Origin:
    """In a child: where it comes from.

    :param request: what the test asked for.
    :param home: the runner's namespaces.
    :param helpers: see :meth:`~pytest_nsisolate.runner.run.Run.helpers`.
    :param outgoing: the way to the runner, for faults.
    :param settled: see :class:`~pytest_nsisolate.view.Origin`.
    """
    from pytest_nsisolate.view.processes import parent_of
    from pytest_nsisolate.view.readings import Origin

    init = supervisor = faults = None
    if "pid" in request.namespaces:
        init = 1 if request.init else None
    else:
        supervisor = os.getppid()
        if request.init:
            init, supervisor = supervisor, parent_of(supervisor)
    if outgoing is not None:
        from pytest_nsisolate.view.fault_engine import engine_of

        faults = engine_of(outgoing)
    return Origin(home, request.namespaces, init, supervisor, helpers, faults, settled)


def make_view(
    request: IsolationRequest,
    home: Mapping[str, int],
    helpers: Callable[[], Mapping[int, str]] = dict,
    outgoing: Outgoing | None = None,
    settled: frozenset[int] = frozenset(),
    loopback: Callable[[], Loopback] | None = None,
) -> Pid1View:
    """In a child: the view of its world, with what only the runner knew (:func:`make_origin`)."""
    from pytest_nsisolate.view.pid1 import Pid1View

    origin = make_origin(request, home, helpers, outgoing, settled)
    return Pid1View(replace(origin, loopback=loopback))


def make_readings(request: IsolationRequest, home: Mapping[str, int]) -> Readings:
    """As :func:`make_view`, without assertions, which take a child longer to import than to use."""
    from pytest_nsisolate.view.readings import Readings

    return Readings(make_origin(request, home))


def prepare(items: Iterable[pytest.Item]) -> dict[str, int]:
    """In the runner, before the first clone: what the tests of this run will want to look at.

    :param items: those that will be isolated.
    :returns: the runner's namespaces.
    """
    from pytest_nsisolate.kernel import namespaces

    asked = {name for item in items for name in getattr(item, "fixturenames", ())}
    if not asked.isdisjoint(("pid1", "testbed", "module_testbed")):
        from pytest_nsisolate.view import pid1

        pid1.preload()
        importlib.import_module("pytest_nsisolate.testbed.loopback")
    if "testbed" in asked:
        importlib.import_module("pytest_nsisolate.testbed.fixture")
    if "module_testbed" in asked:
        importlib.import_module("pytest_nsisolate.testbed.shared")
    if "terminal" in asked:
        from pytest_nsisolate.view.terminal import terminal

        terminal.preload()
    return namespaces.identities()
