# SPDX-License-Identifier: MIT
"""The child of an item whose turn in the runner is still to come (``--nsisolate-jobs``).

Fact: an ordinary child is cloned in the middle of its item's set-up phase, when every set-up hook
has begun. Here the runner is between two phases of another item.

Consequence: this child goes through the item's protocol from its beginning, with every hook. It has
begun, and tells so, when it has come to the item's own ``setup``: from there on it is a child like
any other. What its hooks write until then stands in its report; what they warn of is not sent,
because they run in the runner too, when the item's turn comes.

A child that does not get there says nothing, and ends: the runner comes to see for itself. So a
hook that skips, or that needs what only the runner knows (the results of earlier tests), decides in
the runner alone.
"""

from __future__ import annotations

from typing import NoReturn

import pytest

from pytest_nsisolate.child import fixtures
from pytest_nsisolate.child.main import Child
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.originals import of_the_suite, posix
from pytest_nsisolate.wire.frames import FrameWriter, Kind

#: Exit status of a child that leaves the decision to the runner; nothing reads it.
EXIT_WITHDRAWN = 0


class AheadChild(Child):
    """A child that goes through its item's protocol by itself; see the module."""

    #: Made in the runner: those of the run, without what the current item has changed.
    warning_filters: list[object]
    #: The fixtures that the child sets up anew.
    inside: frozenset[str]

    _reached = False

    def run(self, writer: FrameWriter) -> NoReturn:
        """Everything from the item's first hook to the end of this process."""
        try:
            self.outgoing.writer = writer
            getattr(of_the_suite("warnings"), "filters")[:] = self.warning_filters  # noqa: B009
            self.settle_in(writer)
            item = self._item
            internals.begin_stack_anew(item)
            item.ihook.pytest_runtest_protocol(item=item, nextitem=self._nextitem)
        except BaseException as error:
            self.barrier(error)
        finally:
            posix._exit(EXIT_WITHDRAWN)

    def run_phases(self) -> NoReturn:
        """Inside of every wrapper of the protocol."""
        try:
            internals.call_and_report(self._item, "setup", log=False)
        except BaseException as error:
            self.barrier(error)
        self.barrier(None)

    def begin(self) -> None:
        """Nothing yet: the runner, where the same hooks run, may decide otherwise."""

    def begin_own_setup(self) -> None:
        """Every set-up hook and every collector has had its turn: the item's own ``setup``."""
        self.copies.leave_if_stray()
        self._reached = True
        self._own_finalizers = fixtures.OwnFinalizers(self._item, self.inside)
        self.outgoing.take_stock()
        super().begin()

    def barrier(self, error: BaseException | None) -> NoReturn:
        self._withdraw_if_unreached()
        super().barrier(error)

    def end_phase(self, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        self._withdraw_if_unreached()
        super().end_phase(call, report)

    def _withdraw_if_unreached(self) -> None:
        self.copies.leave_if_stray()
        if not self._reached:
            posix._exit(EXIT_WITHDRAWN)

    def _tell(self, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        times = {"start": call.start, "stop": call.stop, "seconds": call.duration}
        self.outgoing.send(Kind.TIMES, {name: float(value) for name, value in times.items()})
        super()._tell(call, report)
