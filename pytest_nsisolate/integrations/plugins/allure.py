# SPDX-License-Identifier: MIT
"""allure-pytest: what a test adds to its result, by steps, attachments, titles, labels, links.

Fact: a result is an object in memory, filled by hooks of every phase and written when the test is
over. What is attached, and the fixtures, are files as soon as they are there.

Consequence: the child's result takes the place of the runner's. Where nothing arrives, because the
test has died, the runner fills in what does not depend on the test's process: labels and links.

Fact: the runner makes a group for each fixture that the test may use and keeps it by the fixture's
identity. Those of the child's fixtures are never ended there, and the next test would add to them.

Consequence: they are dropped after each test.

What still fails: the steps of a test that has died, and those of a function that ``isolate`` runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import attr
import pytest
from allure_commons import model2

from pytest_nsisolate.kernel.originals import os

_KEY: Final = "allure"

#: What the fields of a result are made of, if not of plain values.
_PARTS: Final[dict[str, Any]] = {
    "steps": model2.TestStepResult,
    "attachments": model2.Attachment,
    "parameters": model2.Parameter,
    "labels": model2.Label,
    "links": model2.Link,
    "statusDetails": model2.StatusDetails,
}


class Adapter:
    """Hooks on both sides of the clone."""

    def __init__(self) -> None:
        self._item: pytest.Item | None = None
        self._carried: Any = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._item, self._carried = item, None

    def pytest_nsisolate_carry(self, item: pytest.Item) -> dict[str, object] | None:
        result = _result(_listener(item.config), item)
        return None if result is None else {_KEY: _plain(attr.asdict(result))}

    def pytest_nsisolate_receive(self, data: Mapping[str, object]) -> None:
        if _KEY in data:
            self._carried = _build(model2.TestResult, data[_KEY])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        # The listener is a wrapper, which writes the result after this.
        item, self._item = self._item, None
        if item is None or item.nodeid != nodeid:
            return
        listener = _listener(item.config)
        result = _result(listener, item)
        if result is None:
            return
        if self._carried is not None:
            _merge(self._carried, result, item.config.option.allure_report_dir)
        elif result.historyId is None:
            for _ in listener.pytest_runtest_teardown(item):
                pass
        _drop_groups(listener)


def _listener(config: pytest.Config) -> Any:
    """Only with ``--alluredir``; else None."""
    return config.pluginmanager.get_plugin("allure_listener")


def _result(listener: Any, item: pytest.Item) -> Any:
    if listener is None:
        return None
    uuid = listener._cache.get(item.nodeid)
    return uuid and listener.allure_logger.get_test(uuid)


def _merge(carried: Any, result: Any, folder: str) -> None:
    """Put the child's result in the place of the runner's, which knows better how it has ended."""
    if carried.status != result.status:
        carried.status, carried.statusDetails = result.status, result.statusDetails
    carried.uuid = result.uuid
    known = {attachment.source for attachment in carried.attachments}
    for attachment in result.attachments:
        if attachment.source not in known:  # what was captured, once more
            with suppress(OSError):
                os.unlink(os.path.join(folder, attachment.source))
    for field in attr.fields(model2.TestResult):
        setattr(result, field.name, getattr(carried, field.name))


def _drop_groups(listener: Any) -> None:
    """Of the fixtures that have not been set up here."""
    groups, known = listener.allure_logger._items, listener._cache._items
    for uuid in list(groups):
        group = groups[uuid]
        if isinstance(group, model2.TestResultContainer) and not group.befores:
            groups.pop(uuid)
    for fixture in [one for one, uuid in known.items() if groups.get(uuid) is None]:
        del known[fixture]


def _plain(value: object) -> object:
    """As it would be in the file: the enumerations are texts."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)


def _build(kind: Any, data: Any) -> Any:
    """An object of the model, of nothing but what such a one is made of."""
    fields = {field.name for field in attr.fields(kind)}
    if not isinstance(data, dict) or not data.keys() <= fields:
        raise TypeError(f"a {kind.__name__} of allure has the wrong shape")
    return kind(**{name: _part(_PARTS.get(name), value) for name, value in data.items()})


def _part(kind: Any, value: Any) -> Any:
    if isinstance(value, list):
        return [_part(kind, one) for one in value]
    if value is None or (kind is None and isinstance(value, str | bool | int | float)):
        return value
    return _build(kind, value)
