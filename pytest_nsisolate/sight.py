# SPDX-License-Identifier: MIT
"""From a run to the view of one child: what only the runner knew goes with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_nsisolate.run import Run

if TYPE_CHECKING:
    from pytest_nsisolate.request import IsolationRequest
    from pytest_nsisolate.view import Pid1View


def make_view(request: IsolationRequest, run: Run) -> Pid1View:
    """In a child: its world, seen with what only the runner knew.

    :param request: what the test asked for.
    """
    from pytest_nsisolate.view import Origin, Pid1View
    from pytest_nsisolate.view.processes import parent_of

    reaper = usher = None
    if "pid" in request.namespaces:
        reaper = 1 if request.init else None
    else:
        usher = os.getppid()
        if request.init:
            reaper, usher = usher, parent_of(usher)
    return Pid1View(Origin(run.home, request.namespaces, reaper, usher))


def prepare(run: Run) -> None:
    """In the runner, before the first clone: what the tests of this run will want to look at."""
    from pytest_nsisolate.kernel import namespaces

    run.home = namespaces.identities()
    if any("pid1" in getattr(item, "fixturenames", ()) for item in run.requests):
        from pytest_nsisolate import view

        view.preload()
