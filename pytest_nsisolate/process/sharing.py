# SPDX-License-Identifier: MIT
"""What the children of one launcher have in common: a few descriptors, and a watchdog.

Made at the first launch, with all that no child is to import or look up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.kernel.originals import os

if TYPE_CHECKING:
    from pytest_nsisolate.process.channel import Shared
    from pytest_nsisolate.process.watchdog import Watchdog

#: Where watchdogs die, no other is started: each may have cost a test.
_MOST_LOST: Final = 2


class Sharing:
    """Makes and keeps what all children inherit.

    :param foreign: gives descriptors that no child may have; asked once, at the first launch.
    """

    def __init__(self, foreign: Callable[[], tuple[int, ...]]) -> None:
        self._foreign = foreign
        self._shared: Shared | None = None
        self._watchdog: Watchdog | None = None
        self._watchdogs_lost = 0

    def preload(self) -> None:
        """Import and look up what no child is to import or look up.

        With what explains a refusal: where no descriptor is left, no import works any more.

        :raises StepError: ``import prctl``.
        """
        from pytest_nsisolate import kernel
        from pytest_nsisolate.host import remedies  # noqa: F401
        from pytest_nsisolate.process import host_check, launch  # noqa: F401

        kernel.preload()

    def get(self, *, watchdog: bool = False) -> Shared:
        """Descriptors that all children inherit; made, with all preloading, at the first use.

        :param watchdog: whether one may be started, for this child and those that come.
        :raises StepError: when there is no descriptor left, or no pidfd on this kernel.
        """
        from pytest_nsisolate.process import launch
        from pytest_nsisolate.process.channel import Shared

        if self._shared is None:
            self.preload()
            foreign = self._foreign()
            with failing("pidfd_open", None):
                own = os.pidfd_open(os.getpid())
            try:
                with failing("open /dev/null", None):
                    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            except StepError:
                os.close(own)
                raise
            self._shared = Shared(null, own, foreign)
        if self._watchdog is not None and not self._watchdog.is_alive():
            self.dismiss_watchdog()
            self._watchdogs_lost += 1
        few = self._watchdogs_lost < _MOST_LOST
        if watchdog and self._watchdog is None and few and launch.has_one_task():
            self._start_watchdog()
        return self._shared

    def _start_watchdog(self) -> None:
        from pytest_nsisolate.process import watchdog

        assert self._shared is not None
        self._watchdog = new = watchdog.spawn(self._shared.runner_pidfd)
        if new is not None:
            foreign = (*self._shared.foreign, new.pidfd)
            self._shared = replace(self._shared, watchdog=new.socket, foreign=foreign)

    def dismiss_watchdog(self) -> None:
        """End it, if there is one; another may be started."""
        if self._watchdog is not None:
            before, self._watchdog = self._watchdog, None
            before.dismiss()
            assert self._shared is not None
            foreign = tuple(fd for fd in self._shared.foreign if fd != before.pidfd)
            self._shared = replace(self._shared, watchdog=None, foreign=foreign)

    def close(self) -> None:
        """Give everything back."""
        self.dismiss_watchdog()
        if self._shared is not None:
            os.close(self._shared.null)
            os.close(self._shared.runner_pidfd)
            self._shared = None
