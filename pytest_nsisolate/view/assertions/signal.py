# SPDX-License-Identifier: MIT
"""Assertions on what a signal does to a process."""

from __future__ import annotations

from typing import Final

from pytest_nsisolate.kernel.originals import signal as signals
from pytest_nsisolate.kernel.signals import signal_name
from pytest_nsisolate.view.assertions import waiting
from pytest_nsisolate.view.assertions.failures import failure
from pytest_nsisolate.view.assertions.process import ProcessAssertions, Which
from pytest_nsisolate.view.identity import read_status
from pytest_nsisolate.view.processes import Process

#: What /proc/PID/status says of a signal, and what that means.
_MASKS: Final = (("SigBlk", "blocks"), ("SigIgn", "ignores"), ("SigCgt", "has a handler for"))


class SignalAssertions(ProcessAssertions):
    """Assertions on a process that gets a signal."""

    __slots__ = ()

    def assert_dies(
        self, which: Which, signal: int = signals.SIGTERM, *, within: float = 5.0
    ) -> int | None:
        """A process ends when it gets a signal.

        You can still wait for a child of the test's afterwards.

        :param which: as for :meth:`assert_process`.
        :param signal: what to send; 0 sends nothing, and waits until the process ends by itself,
            which it may have done already.
        :param within: seconds; ``math.inf`` is no bound.
        :returns: for a child of the test's, what ``Popen.returncode`` will be; else None.
        """
        __tracebackhide__ = True
        if not signal:
            ended, code = self._ended(which)
            if ended:
                return code
        process = self.assert_process(which)
        with waiting.pidfd(process.pid) as descriptor:
            _send(descriptor, signal)
            if waiting.ends(descriptor, within):
                return waiting.result_of(descriptor)
            what = f"of {signal_name(signal)}" if signal else "by itself"
            raise failure(
                f"{process} did not die {what}",
                expected=f"its end within {within:g} s",
                seen="it is alive",
                rows=[p for p in self.processes if p.pid == process.pid],
                labels=self._labels,
                hint=self._why_alive(process, signal),
            )

    def assert_survives(
        self, which: Which, signal: int = signals.SIGTERM, *, within: float = 0.5
    ) -> None:
        """A process gets a signal, and is still alive after some time.

        :param which: as for :meth:`assert_process`.
        :param signal: what to send; 0 sends nothing.
        :param within: seconds to watch it; an earlier end fails at once.
        """
        __tracebackhide__ = True
        process = self.assert_process(which)
        with waiting.pidfd(process.pid) as descriptor:
            _send(descriptor, signal)
            if not waiting.ends(descriptor, within):
                return
            code = waiting.result_of(descriptor)
            how = "ended; only its parent is told how"
            if code is not None:
                how = f"killed by {signal_name(-code)}" if code < 0 else f"exit status {code}"
            raise failure(
                f"{process} did not survive {signal_name(signal) if signal else ''}".rstrip(),
                expected=f"alive after {within:g} s",
                seen=how,
            )

    def _ended(self, which: Which) -> tuple[bool, int | None]:
        """Whether one that was there has ended already, and how, as far as is known."""
        meant = self._meant(self.processes, which)
        if meant:
            if not all(process.is_zombie for process in meant):
                return False, None
            try:
                with waiting.pidfd(meant[-1].pid) as descriptor:
                    return waiting.ends(descriptor, 0), waiting.result_of(descriptor)
            except ProcessLookupError:  # waited for meanwhile
                return True, None
        # Popen and multiprocessing know it of those that they have waited for.
        for name in ("returncode", "exitcode"):
            code = getattr(which, name, None)
            if isinstance(code, int):
                return True, code
        return isinstance(which, Process), None

    def _why_alive(self, process: Process, signal: int) -> str | None:
        if process.pid == 1 and "pid" in self.isolated:
            return "PID 1 gets no signal from inside that it has no handler for"
        try:
            status = read_status(process.pid)
        except OSError:
            return None
        words = [
            word
            for field, word in _MASKS
            if signal and int(status.get(field, "0"), 16) >> (signal - 1) & 1
        ]
        if status.get("State", "").startswith("T") and signal not in (0, signals.SIGKILL):
            words.append("is stopped, and does not see")
        return f"it {' and '.join(words)} {signal_name(signal)}" if words else None


def _send(descriptor: int, signal: int) -> None:
    if signal:
        signals.pidfd_send_signal(descriptor, signal)
