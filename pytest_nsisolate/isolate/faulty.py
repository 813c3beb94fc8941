# SPDX-License-Identifier: MIT
"""Faults on demand for the processes of a box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

if TYPE_CHECKING:
    from pytest_nsisolate.view.faults import Fault, FaultKeywords, Injector


class Faulty:
    """What is in a box: a box itself, a host of a testbed."""

    def fail(
        self, call: str | Sequence[str], error: int | str, **which: Unpack[FaultKeywords]
    ) -> Fault:
        """Let system calls fail that processes in here make; as ``pid1.fail``, in isolated tests.

        It reaches what is started after the first fault of the test.
        """
        __tracebackhide__ = True
        return self._injector().fail(call, error, **which)

    def delay(
        self, call: str | Sequence[str], seconds: float, **which: Unpack[FaultKeywords]
    ) -> Fault:
        """Hold system calls up that processes in here make; as ``pid1.delay``, likewise."""
        __tracebackhide__ = True
        return self._injector().delay(call, seconds, **which)

    def _injector(self) -> Injector:
        raise NotImplementedError
