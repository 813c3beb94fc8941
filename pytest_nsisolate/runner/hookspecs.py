# SPDX-License-Identifier: MIT
"""The hooks that pytest-nsisolate adds (pluggy)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_nsisolate.request.model import IsolationRequest
    from pytest_nsisolate.view import Pid1View


@pytest.hookspec(firstresult=True)
def pytest_nsisolate_configure(
    item: pytest.Item, request: IsolationRequest
) -> IsolationRequest | None:
    """Change what is asked for one test, in the runner, just before the clone.

    Stops at the first result that is not None.

    :param item: the test that is about to be isolated.
    :param request: what its markers and the options ask for.
    :returns: the request to use instead, or None. Make it by
        :meth:`request.replace <pytest_nsisolate.IsolationRequest.replace>`.

    Use in conftest plugins: called for every isolated test at or below the conftest's directory.
    """


@pytest.hookspec
def pytest_nsisolate_ready(item: pytest.Item, pid1: Pid1View) -> None:
    """The child has entered its namespaces; no fixture of the test has run yet.

    Called in the child. An exception fails the set-up of the test, like one in a fixture.

    :param item: the test.
    :param pid1: the world as the child sees it.

    Use in conftest plugins: called for every isolated test at or below the conftest's directory.
    """


@pytest.hookspec
def pytest_nsisolate_carry(item: pytest.Item) -> Mapping[str, object] | None:
    """What a plugin has gathered in memory during this test and needs in the runner.

    Called in the child, after tear-down; memory ends with the child. The results of all
    implementations become one mapping, so begin each key with the name of your plugin.

    :param item: the test.
    :returns: key to value, or None. Numbers, strings, bytes, lists, tuples, sets and dicts arrive
        as they are; any other object as its type's name, its ``str`` and its ``repr``.

    Use in conftest plugins: called for every isolated test at or below the conftest's directory.
    """


@pytest.hookspec
def pytest_nsisolate_receive(item: pytest.Item, data: Mapping[str, object]) -> None:
    """The other half of :func:`pytest_nsisolate_carry`, in the runner, if anything was carried.

    An exception fails the test. Check what arrives: the child may have been taken over.

    :param item: the test.
    :param data: what all implementations have returned in the child.

    Use in conftest plugins: called for every isolated test at or below the conftest's directory.
    """
