# SPDX-License-Identifier: MIT
"""Faults on demand: system calls of the test, and of what it starts, that fail or take their time.

The test's side. A process outside answers the calls (:mod:`pytest_nsisolate.process.helpers`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, TypeAlias, TypedDict, Unpack

from pytest_nsisolate.kernel.originals import os
from pytest_nsisolate.request.wording import suggestion
from pytest_nsisolate.view.assertions.failures import failure
from pytest_nsisolate.view.fault_engine import Engine
from pytest_nsisolate.view.fault_requests import (
    MEANT,
    Chances,
    Filters,
    check_delay,
    check_errno,
    known_calls,
    place,
)
from pytest_nsisolate.view.readings import Readings

Unused: TypeAlias = Literal["fail", "ok"]

_NOT_ISOLATED: Final = (
    "faults are for an isolated test, in its own process: the filter stays with the process that"
    " gets it"
)


class FaultKeywords(TypedDict, total=False):
    """Which calls a fault is for, and how many of them it hits; for annotations of a dict of them.

    * ``path``: only calls with a path, or a descriptor of a file, that matches this pattern
      (``fnmatch``): as it was given, or whole, without ``.`` and ``..``.
    * ``address``: only with a socket address that matches: ``127.0.0.1:80``, ``[::1]:80``, the path
      of a Unix socket, ``@name`` of an abstract one. For connect, bind and sendto.
    * ``fd``: only with this descriptor.
    * ``args``: only with these values, by position from 0; a negative one as 64 bits.
    * ``process``: only of this process, by its number or what has ``pid``; or of programs whose
      name matches this pattern.
    * ``times``: so many calls are hit, and then none; without, all.
    * ``after``: so many calls that are meant go through first.
    * ``probability``: of each call that is meant, to be hit.
    * ``seed``: of these chances; a failure names the one that was used.
    * ``unused``: what follows if no call was hit: ``"fail"`` fails the test, ``"ok"`` nothing.
    """

    path: str | None
    address: str | None
    fd: int | None
    args: Mapping[int, int] | None
    process: int | str | Any
    times: int | None
    after: int
    probability: float
    seed: int | None
    unused: Unused


@dataclass(frozen=True, slots=True)
class FaultyCall:
    """One call that a fault was for.

    :param call: its name.
    :param about: the path, the descriptor's file or the address that it was for; may be empty.
    :param pid: the process that made it, by its number in the test's PID namespace.
    :param process: the name of its program, as ``/proc/PID/comm`` has it.
    """

    call: str
    about: str
    pid: int
    process: str

    def __str__(self) -> str:
        return f"{self.call}({self.about}) of {self.process} ({self.pid})"


class Fault:
    """What ``pid1.fail`` and ``pid1.delay`` return: a context manager, in force in its block."""

    def __init__(
        self,
        engine: Engine | None,
        request: dict[str, Any],
        described: str,
        unused: Unused,
        names: Sequence[str],
        where: str | None = None,
    ) -> None:
        self._engine = engine
        self._request = request
        self._described = described
        self._unused = unused
        self._names = names
        self._where = where
        #: The kernel gives the number of a namespace to the next one; not while this is open.
        self._pinned = -1
        self._key: int | None = None
        self._state: dict[str, Any] = {}

    @property
    def count(self) -> int:
        """So many calls were hit by now."""
        return int(self._look().get("count", 0))

    @property
    def calls(self) -> tuple[FaultyCall, ...]:
        """The first twenty of them."""
        return tuple(
            FaultyCall(call["call"], call["about"], call["pid"], call["name"])
            for call in self._look().get("calls", ())
        )

    def __enter__(self) -> Fault:
        __tracebackhide__ = True
        if self._key is not None:
            raise RuntimeError(f"{self!r} is in force already")
        if self._engine is None:
            raise RuntimeError(_NOT_ISOLATED)
        if self._where is not None:
            self._pinned = os.open(self._where, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if self._pinned >= 0 and os.fstat(self._pinned).st_ino != self._request["within"]:
                raise RuntimeError(f"{self!r}: the box that it is for is closed")
            self._key = self._engine.new_key()
            self._engine.add(self._key, self._request)
        except BaseException:
            # Of a signal handler, say, when it was in force already.
            if self._key is not None:
                self._engine.forget(self._key)
            self._key = None
            self._unpin()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        self._drop()
        if error is None and self._unused == "fail" and not self._state.get("count"):
            raise self._never_happened()

    def _drop(self) -> None:
        if self._key is not None and self._engine is not None:
            try:
                self._state = self._engine.drop(self._key) or self._state
            except BaseException:
                self._engine.forget(self._key)
                raise
            finally:
                self._key = None
                self._unpin()

    def _unpin(self) -> None:
        pinned, self._pinned = self._pinned, -1
        if pinned >= 0:
            os.close(pinned)

    def _look(self) -> dict[str, Any]:
        if self._key is not None and self._engine is not None:
            self._state = self._engine.count(self._key) or self._state
        return self._state

    def _never_happened(self) -> AssertionError:
        seen, matched = (int(self._state.get(name, 0)) for name in ("seen", "matched"))
        unreadable = int(self._state.get("unreadable", 0))
        names = " or ".join(self._names)
        hint = 'if that may be, say unused="ok"'
        if not seen:
            meant = [m for name in self._names for m in MEANT.get(name, ()) if m not in names]
            if meant:
                hint = f"a C library may call {' or '.join(meant)} instead; name both in a tuple"
            found = f"no call of {names}"
        elif unreadable:
            found = f"{seen} calls of {names}; of {unreadable} the arguments may not be looked at"
            hint = "a process that changed its ids hides its memory (prctl(2), PR_SET_DUMPABLE)"
        elif not matched:
            found = f"{seen} calls of {names}, none that was meant"
        else:
            found = f"{matched} of those calls, and none was hit"
        expected = "at least one call that it is for, before its block ended"
        return failure(f"{self!r} never happened", expected=expected, seen=found, hint=hint)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._described}>"


class Injector:
    """Makes faults for some of the processes that an engine's filter has.

    :param engine: None where there is none.
    :param scope: what the supervisor is to look at besides, see
        :class:`~pytest_nsisolate.process.fault_supervisor.faults.Fault`.
    """

    def __init__(
        self,
        engine: Engine | None,
        scope: Mapping[str, Any] | None = None,
        where: str | None = None,
    ) -> None:
        self._engine = engine
        self._scope = scope or {}
        self._where = where

    def fail(
        self, call: str | Sequence[str], error: int | str, **which: Unpack[FaultKeywords]
    ) -> Fault:
        """See :meth:`FaultInjection.fail`."""
        __tracebackhide__ = True
        number, symbol = check_errno(error)
        return self._fault(call, {"error": number}, f"with {symbol}", which)

    def delay(
        self, call: str | Sequence[str], seconds: float, **which: Unpack[FaultKeywords]
    ) -> Fault:
        """See :meth:`FaultInjection.delay`."""
        __tracebackhide__ = True
        action = {"delay": check_delay(seconds)}
        return self._fault(call, action, f"by {seconds:g} s", which)

    def _fault(
        self, call: str | Sequence[str], action: dict[str, Any], how: str, which: FaultKeywords
    ) -> Fault:
        __tracebackhide__ = True
        for name, value in which.items():
            if name not in FaultKeywords.__annotations__:
                guess = suggestion(name, FaultKeywords.__annotations__)
                raise TypeError(f"{name}={value!r}: unknown keyword, {guess}")
        said: dict[str, Any] = {**which}
        unused = said.pop("unused", "fail")
        if unused not in ("fail", "ok"):
            raise ValueError(f'unused is "fail" or "ok", not {unused!r}')
        chances = Chances(**{key: said.pop(key) for key in _CHANCES if key in said})
        known = known_calls(call)
        only, told = Filters(**said).resolve(known)
        rest, more = chances.resolve()
        calls = {str(number): place(name) for name, number in known.items()}
        request = {"calls": calls, **action, **only, **rest, **self._scope}
        described = " ".join([" or ".join(known), how, *told, *more])
        return Fault(self._engine, request, described, unused, tuple(known), self._where)


_CHANCES: Final = ("times", "after", "probability", "seed")


class FaultInjection(Readings):
    """Faults, as methods of ``pid1``."""

    __slots__ = ()

    def fail(
        self, call: str | Sequence[str], error: int | str, **which: Unpack[FaultKeywords]
    ) -> Fault:
        """Let system calls fail: of the test, and of all that it starts from the first fault on.

        :param call: its name, or names: ``"openat"``, ``("write", "pwrite64")`` (syscalls(2)).
        :param error: the errno, by number or by name (errno(3)).
        :param which: ``path=``, ``address=``, ``fd=``, ``args=``, ``process=``, ``times=``,
            ``after=``, ``probability=``, ``seed=``, ``unused=``: see ``FaultKeywords``.
        :returns: a context manager; it is in force in its block, which begins with a
            ``FaultRefusal`` where this host has no way to do it.
        """
        __tracebackhide__ = True
        return Injector(self._origin.faults).fail(call, error, **which)

    def delay(
        self, call: str | Sequence[str], seconds: float, **which: Unpack[FaultKeywords]
    ) -> Fault:
        """Hold system calls up, and let them go on: as :meth:`fail`, with the same keywords.

        :param seconds: how long; a call that two of them are for is held for both. Signals wait as
            long, but for SIGKILL.
        """
        __tracebackhide__ = True
        return Injector(self._origin.faults).delay(call, seconds, **which)

    def _end_faults(self) -> None:
        """End what is still in force; the fixture does so when the test is over."""
        if self._origin.faults is not None:
            self._origin.faults.close()
