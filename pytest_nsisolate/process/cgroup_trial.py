# SPDX-License-Identifier: MIT
"""Whether this runner may bound what a test uses by cgroups: one is made, joined and removed.

Fact: who may make a cgroup and put a process into it is decided by the owner of the directory, by
a read-only mount, and by the common ancestor of the old and the new one (cgroups(7)); no file says
it.
What we do: what ``limits=`` does (:mod:`pytest_nsisolate.kernel.cgroups`), with a throw-away child.
"""

from __future__ import annotations

from errno import ENODEV, errorcode

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.kernel import cgroups
from pytest_nsisolate.kernel.originals import os, posix
from pytest_nsisolate.process.launch import fork


def attempt_cgroups() -> tuple[tuple[cgroups.Place, ...], StepError | None]:
    """Make, join and remove a cgroup for each controller.

    :returns: the places where that worked, and the first refusal of the others.
    """
    usable: list[cgroups.Place] = []
    refusal: StepError | None = None
    for controller in cgroups.CONTROLLERS:
        for place in cgroups.places(controller):
            try:
                _try(place)
            except StepError as error:
                refusal = refusal or error
            else:
                usable.append(place)
                break
    if not usable and refusal is None:
        refusal = StepError("find a cgroup", None, ENODEV)
    return tuple(usable), refusal


def _try(place: cgroups.Place) -> None:
    group = cgroups.make(place, 0)
    try:
        assert group.door is not None
        _join(group.door)
    finally:
        group.remove()


def _join(door: int) -> None:
    """A child moves itself; its exit status is the error number."""
    with failing("fork", None):
        pid = fork()
    if pid == 0:
        number = 255
        try:
            os.write(door, b"0")
            number = 0
        except OSError as error:
            number = error.errno or 255
        finally:
            posix._exit(number)
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:  # SIGCHLD is ignored: it has ended, and nobody knows how
        return
    number = os.waitstatus_to_exitcode(status)
    if number != 0:
        raise StepError("join the cgroup", None, number if number in errorcode else 0)
