# SPDX-License-Identifier: MIT
"""The mount plans of one run.

Fact: a plan depends on the runner's own mounts, and a fixture may change those between two tests;
but reading ``/proc/self/mountinfo`` for each test touches pages that the last clone has made
expensive.

Consequence: a plan is kept until ``poll`` on an open mountinfo says that something was mounted or
unmounted (proc(5)), or until one of the paths that must stay reachable is another.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel import mounts
from pytest_nsisolate.kernel.originals import os, select


class MountPlans:
    """Plans by what is asked for; see the module.

    :raises StepError: without a ``/proc``.
    """

    def __init__(self) -> None:
        self._plans: dict[tuple[object, ...], mounts.MountPlan] = {}
        try:
            self.watched = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StepError("read mountinfo", "mount", error.errno or 0) from error
        self._poller = select.poll()
        self._poller.register(self.watched, select.POLLPRI | select.POLLERR)

    def plan(
        self, config: pytest.Config, wanted: frozenset[str], devices: tuple[str, ...] | None
    ) -> mounts.MountPlan:
        """The plan for these namespaces, as things stand now.

        :param devices: what a minimal ``/dev`` has besides; None: the host's ``/dev``.
        :raises StepError: when the mounts cannot be read.
        """
        if self._poller.poll(0):
            self._plans.clear()
        key = (wanted, devices, current_directory(), internals.base_temp(config), *sys.path)
        if key not in self._plans:
            self._plans[key] = mounts.plan_mounts(
                own=wanted, in_use=_in_use(config), more_devices=devices
            )
        return self._plans[key]

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.watched)


def _in_use(config: pytest.Config) -> Iterator[str]:
    """What the test, the runner or another plugin needs, wherever it lies."""
    yield str(config.rootpath)
    yield current_directory()
    yield sys.prefix
    yield sys.base_prefix
    yield from (path for path in sys.path if path)
    base = internals.base_temp(config)
    if base is not None:
        yield base
    yield from internals.files_in_use(config)
    # A data file directly in /dev/shm cannot keep that directory; the runner writes it anyway.
    data_file = os.path.join(current_directory(), os.environ.get("COVERAGE_FILE", "x"))
    data = os.path.dirname(os.path.normpath(data_file))
    if data != "/dev/shm":  # noqa: S108
        yield data


def current_directory() -> str:
    """Where the runner stands; ``/`` if that has been removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"
