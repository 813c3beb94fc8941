# SPDX-License-Identifier: MIT
"""Which process this is, and what it needs to isolate calls.

Fact: the fixture ``isolate`` is one object, and every fork has a copy of it: an isolated test, a
function that ``isolate`` runs, a process that one of these forks. Numbers do not tell them apart:
runner and child may both be 1.

Consequence: an at-fork hook does. Each process makes its own state when it calls for the first
time; what it has inherited belongs to somebody else, and a lock perhaps to a thread that is not
there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_nsisolate.kernel.originals import os, threading

if TYPE_CHECKING:
    from pytest_nsisolate.isolate.unawaited import Unawaited
    from pytest_nsisolate.runner.run import Run

_here: list[object] = [object()]

#: Held while the state of this process is made.
_making = [threading.RLock()]


def here() -> object:
    """This very process: another object in every copy of it."""
    return _here[0]


def _after_fork() -> None:
    _here[0] = object()
    _making[0] = threading.RLock()


if hasattr(os, "register_at_fork"):  # nowhere else anything can be isolated
    os.register_at_fork(after_in_child=_after_fork)


class PerProcess:
    """What calls of one session have in common, in the process that looks.

    :param run: the runner's own; None where the runner is somewhere else.
    """

    def __init__(self, config: pytest.Config, run: Run, unawaited: Unawaited) -> None:
        self.config = config
        self.unawaited = unawaited
        self.calls = 0
        self._settings = run.settings
        self._run = run
        self._of = here() if run.in_child is None else None

    @property
    def run(self) -> Run:
        """The state that launches need; made anew in each process."""
        with _making[0]:
            if self._of is not here():
                from pytest_nsisolate.runner.run import Run

                self._run = Run(self._settings)
                self._of = here()
                self.unawaited.forget()
            return self._run

    def helpers(self) -> dict[int, str]:
        """Processes that this one's calls keep beside their functions, and what to call them."""
        if self._of is not here():  # it has not called yet
            return {}
        return {pid: name for task in [*self._run.tasks] for pid, name in task.helpers().items()}
