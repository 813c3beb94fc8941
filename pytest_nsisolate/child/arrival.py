# SPDX-License-Identifier: MIT
"""What a child does first: it makes this copy of pytest its own.

Output goes to the child's files, the fault handler is armed, and what the fork has copied is put
right. Only then does any code of the test's run.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from pytest_nsisolate.child import inherited, output
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.originals import faulthandler, posix, random
from pytest_nsisolate.kernel.signals import stack_signal
from pytest_nsisolate.process import after_fork
from pytest_nsisolate.process.channel import Output
from pytest_nsisolate.process.outcome import EXIT_REFUSED
from pytest_nsisolate.wire.frames import Kind


class Arrival:
    """The first steps of one child.

    Made in the runner, just before the clone, where getting things ready costs no page; it
    changes nothing there.

    :param files: where output goes.
    """

    def __init__(self, item: pytest.Item, files: Output) -> None:
        self._item = item
        self._files = files
        self._redirection = output.Redirection(files, item.config)
        self._watchdog = _watchdog(item.config)
        self._silence = internals.Silence(item.config, self._is_kept)
        after_fork.wake_openssl()
        # A fork reseeds :mod:`random`; a suite that seeded it wants the same numbers here too.
        self._randomness = random.getstate()

    def settle_in(self, send: Callable[[Kind, dict[str, object]], None]) -> None:
        """What the kernel refuses is a refusal of the test, and the end of this process."""
        step = "redirect output"
        try:
            self._redirection.apply()
            step = "install the fault handler"
            faulthandler.enable(file=self._files.fault)
            faulthandler.register(stack_signal(), file=self._files.fault, all_threads=True)
            step = "start the thread of faulthandler_timeout"
            self._watch()
        except OSError as error:
            send(Kind.REFUSED, {"step": step, "errno": error.errno})
            posix._exit(EXIT_REFUSED)
        after_fork.end_twinship()
        after_fork.renew_thread_id()
        inherited.stay_visible()
        random.setstate(self._randomness)
        self._silence.fall()

    def _watch(self) -> None:
        """Start the thread of ``faulthandler_timeout``, which no fork takes along."""
        if self._watchdog is None:
            return
        timeout, descriptor, leave = self._watchdog
        try:
            faulthandler.dump_traceback_later(timeout, file=descriptor, exit=leave)
        except RuntimeError as error:
            # It has no error number; pthread_create(3) gives this one.
            raise OSError(errno.EAGAIN, str(error)) from error

    def _is_kept(self, plugin: object) -> bool:
        """Who hears of subtests in the child: the session (``-x``), live logs, and us."""
        kind = type(plugin)
        return (
            isinstance(plugin, pytest.Session)
            or kind.__name__ in {"LoggingPlugin", "OutermostHooks"}
            or internals.shows_subtests(self._item, plugin)
        )


def _watchdog(config: pytest.Config) -> tuple[float, int, bool] | None:
    """``faulthandler_timeout``: seconds, where to write, and whether to leave then."""
    descriptor = internals.fault_handler_descriptor(config)
    timeout = internals.fault_timeout(config)
    if timeout <= 0 or descriptor is None:
        return None
    return timeout, descriptor, internals.exits_on_fault_timeout(config)
