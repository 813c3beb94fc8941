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

import os
import threading
from typing import TYPE_CHECKING

import pytest

from pytest_nsisolate.copies import here

if TYPE_CHECKING:
    from pytest_nsisolate.calls.custody import Custody
    from pytest_nsisolate.run import Run

#: Held while the state of this process is made.
_making = [threading.RLock()]


def _after_fork() -> None:
    _making[0] = threading.RLock()


if hasattr(os, "register_at_fork"):  # nowhere else anything can be isolated
    os.register_at_fork(after_in_child=_after_fork)


class Home:
    """What calls of one session have in common, in the process that looks.

    :param run: the runner's own; None where the runner is somewhere else.
    """

    def __init__(self, config: pytest.Config, run: Run, custody: Custody) -> None:
        self.config = config
        self.custody = custody
        self.calls = 0
        self._settings = run.settings
        self._run = run
        self._of = here() if run.child is None else None

    @property
    def run(self) -> Run:
        """The state that launches need; made anew in each process."""
        with _making[0]:
            if self._of is not here():
                from pytest_nsisolate.run import Run

                self._run = Run(self._settings, nested=True)
                self._of = here()
                self.custody.forget()
            return self._run
