# SPDX-License-Identifier: MIT
"""syrupy: which snapshots a test has used, and what it wants to have written.

Fact: it decides at the end of the session which snapshots no test has used, and removes them under
``--snapshot-update``; new ones are written only then.

Consequence: the child writes its own, and the runner hears of every comparison.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

import pytest
from syrupy.assertion import AssertionResult, SnapshotAssertion
from syrupy.extensions.base import AbstractSyrupyExtension
from syrupy.location import PyTestLocation

_KEY: Final = "syrupy"
_SAID: Final = {
    "snapshot_location": str,
    "snapshot_name": str,
    "created": bool,
    "updated": bool,
    "success": bool,
}


class Adapter:
    """Hooks on both sides of the clone."""

    def pytest_nsisolate_carry(self, item: pytest.Item) -> dict[str, object] | None:
        session = _session(item)
        made = [a for a in session._assertions if a.test_location.item is item]
        if not made:
            return None
        _write(session, item)
        return {
            _KEY: [_pack(assertion) for assertion in made],
            f"{_KEY}-written": sorted(getattr(session, "_written_snapshot_locations", ())),
        }

    def pytest_nsisolate_receive(self, item: pytest.Item, data: Mapping[str, object]) -> None:
        packed: Any = data.get(_KEY, ())
        for entry in packed:
            _unpack(item, entry)
        written: Any = data.get(f"{_KEY}-written", ())
        if written:
            # For the lock files beside them, which go at the end of the session.
            _session(item)._written_snapshot_locations.update(map(str, written))


def _session(item: pytest.Item) -> Any:
    return item.config._syrupy  # type: ignore[attr-defined]


def _write(session: Any, item: pytest.Item) -> None:
    """Write what this test has queued, and leave to the runner what tests before it have."""
    for writes in session._queued_snapshot_writes.values():
        for key in [key for key in writes if key[0].item is not item]:
            del writes[key]
    session.flush_snapshot_write_queue()


def _pack(assertion: Any) -> dict[str, object]:
    kind = type(assertion.extension)
    results = [
        [getattr(result, name) for name in _SAID] for result in assertion.executions.values()
    ]
    return {"module": kind.__module__, "class": kind.__qualname__, "results": results}


def _unpack(item: pytest.Item, packed: dict[str, Any]) -> None:
    """Make the same assertion here; the session takes note of it by itself."""
    location = PyTestLocation(item)
    assertion = SnapshotAssertion(
        session=_session(item),
        extension_class=_find_class(str(packed["module"]), str(packed["class"])),
        test_location=location,
        update_snapshots=item.config.option.update_snapshots,
    )
    for number, values in enumerate(packed["results"]):
        if [type(value) for value in values] != list(_SAID.values()):
            raise TypeError("the result of a comparison has the wrong shape")
        assertion._execution_results[number] = AssertionResult(
            **dict(zip(_SAID, values, strict=True)),
            asserted_data=None,
            recalled_data=None,
            exception=None,
            test_location=location,
        )


def _find_class(module: str, name: str) -> type[AbstractSyrupyExtension]:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and issubclass(found, AbstractSyrupyExtension):
        return found
    raise TypeError(f"the snapshot extension {module}.{name} is not known outside of the test")
