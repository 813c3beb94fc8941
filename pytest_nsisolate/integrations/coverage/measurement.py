# SPDX-License-Identifier: MIT
"""What the two strategies have in common: when a child hands over, and what then crosses."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

from pytest_nsisolate.integrations.coverage.parts import Form, Part, decode
from pytest_nsisolate.kernel.originals import of_the_suite, signal, threading
from pytest_nsisolate.kernel.signals import coverage_signal


class Measurement(ABC):
    """The measurement of one process, and what its children add to it.

    One object for both sides: :meth:`prepare` runs in the runner before each clone,
    :meth:`settle_in` and what follows in the child's copy, :meth:`merge` in the runner.

    :param cov: the Coverage object that measures.
    """

    def __init__(self, cov: Any) -> None:
        self.cov = cov
        self._send: Callable[[dict[str, object]], None] | None = None
        self._lock = threading.RLock()
        self._taking = False
        self._final = False
        self._exit_of_others: Callable[[int], Any] = of_the_suite("os")._exit

    @abstractmethod
    def fits(self, cov: Any) -> bool:
        """Whether this is the measurement of that Coverage object, as it is now."""

    # In the runner ------------------------------------------------------------------------------

    @abstractmethod
    def prepare(self) -> None:
        """Just before a clone: do what would cost the child a page."""

    @contextlib.contextmanager
    def cloning(self) -> Generator[None]:
        """Round the clone, on both sides of it.

        ``[run] patch = fork`` has a hook that begins another measurement in each copy. Those of
        the supervisor and of the child are of no use (see :meth:`_enter`), and their own patches
        would multiply with each generation of processes.
        """
        config: Any = getattr(self.cov, "config", None)
        patches = getattr(config, "patch", None)
        if not isinstance(patches, list) or "fork" not in patches:
            yield
            return
        config.patch = []
        try:
            yield
        finally:
            config.patch = patches

    @property
    @abstractmethod
    def form(self) -> Form:
        """The form of the numbers."""

    def merge(self, data: dict[str, object]) -> None:
        """Add what a child has handed over.

        :raises BrokenStream: when it is nothing that a measurement could have given.
        """
        if "files" in data:
            self._add(decode(data, self.form))

    @abstractmethod
    def _add(self, part: Part) -> None: ...

    @abstractmethod
    def forget_context(self) -> None:
        """A child was lost in mid-test: its dynamic context ends with it."""

    # In the child -------------------------------------------------------------------------------

    def settle_in(self, send: Callable[[dict[str, object]], None]) -> None:
        """Measure for this child alone, from here on.

        :param send: takes the data of one frame to the runner.
        """
        self._send = send
        self._lock = threading.RLock()
        self._enter()
        self._exit_of_others = of_the_suite("os")._exit
        of_the_suite("os")._exit = self._leave_process
        with suppress(OSError, ValueError):
            signal.signal(coverage_signal(), lambda *_: self.hand_over(final=True))

    def hand_over(self, *, final: bool = False) -> None:
        """Send what was measured since the last time. Any thread may call.

        :param final: say that nothing is missing if this process ends now.
        """
        self._final |= final
        with self._lock:
            if self._taking:
                # A signal handler in mid-call: the call goes on, and says it.
                return
            self._taking = True
            try:
                for part in self._take():
                    for data in part.encoded():
                        self._tell(data)
                if self._final:
                    self._tell({"final": True})
                    self._final = False
            finally:
                self._taking = False

    def _tell(self, data: dict[str, object]) -> None:
        if self._send is not None:
            self._send(data)

    def leave(self) -> None:
        """In a process that the test has forked: it is measured as if there were no plugin."""
        if self._send is None:
            return
        self._send = None
        self._lock = threading.RLock()
        with suppress(OSError, ValueError):
            signal.signal(coverage_signal(), signal.SIG_DFL)
        self._exit()

    def _leave_process(self, status: int) -> None:
        """``os._exit`` in the child: un-isolated it would end the runner, and be seen."""
        leave = self._exit_of_others
        if self._send is not None:
            leave = self._last_exit()
            with suppress(Exception):
                self.hand_over(final=True)
        leave(status)

    def _last_exit(self) -> Callable[[int], Any]:
        """What ends the child when it has handed over."""
        return self._exit_of_others

    @abstractmethod
    def _enter(self) -> None:
        """Nothing of the runner's data is touched from here on."""

    @abstractmethod
    def _take(self) -> list[Part]:
        """What is new since the last call."""

    @abstractmethod
    def _exit(self) -> None:
        """Undo :meth:`_enter` in a process that the test has forked."""
