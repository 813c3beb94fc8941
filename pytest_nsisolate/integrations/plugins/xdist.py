# SPDX-License-Identifier: MIT
"""pytest-xdist: what a report of an isolated test holds, as execnet takes it.

Fact: a worker sends each report to the controller through execnet, which takes a few types, by
their exact class, whole numbers of 32 bits below zero, and text that is UTF-8. Anything else in a
property, or in an attribute that a hook has added, is an INTERNALERROR and the end of the run.

Consequence: in a worker, what it would refuse becomes its text. So a property that ends the run
un-isolated arrives here, and a path, an object or such a number is what ``str()`` makes of it.

What still fails: reports of tests that are not isolated; there is nothing of ours between them and
execnet.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

import pytest

from pytest_nsisolate.runner.run import RUN
from pytest_nsisolate.wire import tagged_json

#: Containers inside containers; deeper ones are text.
_MAX_DEPTH: Final = 100

_SMALLEST_INT: Final = -(2**31)

#: A longer int has more digits than ``str()`` writes in every Python.
_MAX_BITS: Final = 2000

_AS_IT_IS: Final = (type(None), bool, float, complex, bytes)


class Adapter:
    """In a worker, the outermost of all that make a report serializable."""

    def __init__(self) -> None:
        self._isolated: frozenset[str] = frozenset()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_report_to_serializable(
        self, config: pytest.Config, report: pytest.TestReport | pytest.CollectReport
    ) -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
        data = yield
        if data is None or not hasattr(config, "workerinput"):
            return data
        run = config.stash[RUN]
        self._isolated = self._isolated or frozenset(item.nodeid for item in run.requests)
        if run.in_child is not None or report.nodeid not in self._isolated:
            return data
        return {name: taken(value) for name, value in data.items()}


def taken(value: object, depth: int = 0) -> Any:
    """The same value, as far as execnet takes it, and the text of what it does not take."""
    kind: Any = type(value)
    found: Any = value
    if kind in _AS_IT_IS:
        return found
    if kind is str:
        return _text(found)
    if kind is int and found >= _SMALLEST_INT and found.bit_length() <= _MAX_BITS:
        return found
    if depth < _MAX_DEPTH:
        if kind in (list, tuple, set, frozenset):
            return kind(taken(item, depth + 1) for item in found)
        if kind is dict:
            return {taken(k, depth + 1): taken(v, depth + 1) for k, v in found.items()}
    return _text(found.text if kind is tagged_json.Opaque else tagged_json.opaque(value).text)


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
    return text
