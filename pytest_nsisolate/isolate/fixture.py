# SPDX-License-Identifier: MIT
"""The fixture ``isolate``: call a function in a fresh child, from inside any test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Final,
    Literal,
    ParamSpec,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
)

import pytest

from pytest_nsisolate.isolate.box import Box
from pytest_nsisolate.isolate.call import Function
from pytest_nsisolate.isolate.judgement import refusal
from pytest_nsisolate.isolate.per_process import PerProcess
from pytest_nsisolate.isolate.task import Task
from pytest_nsisolate.isolate.unawaited import Unawaited
from pytest_nsisolate.request.resolve import MARKER_ONLY, from_keywords
from pytest_nsisolate.request.wording import MarkerProblem, short, suggestion

if TYPE_CHECKING:
    from pytest_nsisolate.host.refusal import Refusal
    from pytest_nsisolate.isolate.per_process import Helped
    from pytest_nsisolate.process.launcher import Launcher
    from pytest_nsisolate.runner.run import Run

P = ParamSpec("P")
T = TypeVar("T")

#: One name, or several.
Names: TypeAlias = "str | list[str] | tuple[str, ...] | set[str] | frozenset[str]"


#: One path, or several.
Paths: TypeAlias = (
    "str | Path | list[str | Path] | list[str] | list[Path] | tuple[str | Path, ...] | set[str]"
)


class Clocks(TypedDict, total=False):
    """Seconds by which each clock of a time namespace runs ahead."""

    monotonic: float
    boottime: float


class IsolateKeywords(TypedDict, total=False):
    """What ``isolate.using(...)`` takes: the keywords of the marker, but no ``inside`` and no
    ``leftovers``. For annotations of a dict of them."""

    pid: bool
    mount: bool
    net: bool
    uts: bool
    ipc: bool
    cgroup: bool
    user: bool | Literal["range", "same"]
    time: float | Clocks
    hostname: str
    addresses: Names
    timeout: float | None
    init: bool
    missing: Literal["fail", "skip"]
    limits: Mapping[str, float | str | None] | None
    devices: Names
    caps: Names
    no_new_privs: bool
    root: str | Path | None
    writable: Paths
    files: Mapping[str, str | bytes | Path]
    hide: Paths
    root_size: int | str


_KNOWN: Final = frozenset({*IsolateKeywords.__annotations__, "trusted"})


def make(config: pytest.Config, run: Run) -> Isolate:
    """The fixture's value, in the runner or, named by ``inside``, in a child."""
    unawaited = Unawaited()
    # Its own ends with the last test.
    config.pluginmanager.register(unawaited)
    run.calls = PerProcess(config, run, unawaited)
    return Isolate(run.calls, {}, trusted=False)


def custody_of(made: Isolate) -> Unawaited:
    """The register of tasks and boxes behind this value of the fixture."""
    return made._home.unawaited


def helpers_of(made: Isolate) -> list[Helped]:
    """What keeps processes beside the test, in this process: for the view, which tells them."""
    return made._home.caller.beside


def note_moment(made: Isolate, name: str, category: str) -> None:
    """For the trace of the run: something of a test has happened."""
    made._home.note_moment(name, category)


class Isolate:
    """Calls functions in fresh children. The value of the fixture ``isolate``."""

    def __init__(self, home: PerProcess, keywords: IsolateKeywords, *, trusted: bool) -> None:
        __tracebackhide__ = True
        for name, value in keywords.items():
            if name not in _KNOWN:
                said = f"isolate.using({name}={short(value)})"
                if name in MARKER_ONLY:
                    raise TypeError(f"{said}: {name} is for the marker of a test, not for a call")
                raise TypeError(f"{said}: unknown keyword, {suggestion(name, _KNOWN)}")
        self._home = home
        self._keywords = keywords
        self._trusted = trusted
        try:
            self._request = from_keywords(keywords, home.settings)
        except MarkerProblem as problem:
            raise pytest.UsageError(str(problem)) from None

    def using(self, *, trusted: bool | None = None, **keywords: Unpack[IsolateKeywords]) -> Isolate:
        """The same with other namespaces, by the keywords of the marker.

        :param trusted: the value crosses by pickle: the function may return anything, at the risk
            of what a child that was taken over makes of it.
        :param keywords: those of the marker but ``inside`` and ``leftovers``; they add to earlier
            ones.
        :raises TypeError: for an unknown keyword.
        :raises pytest.UsageError: for a value that the marker would not take either.
        """
        __tracebackhide__ = True
        trust = self._trusted if trusted is None else trusted
        added = cast("IsolateKeywords", {**self._keywords, **keywords})
        return Isolate(self._home, added, trusted=trust)

    def __call__(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``func(*args, **kwargs)`` in a child, and wait for it.

        The child is a fork: the arguments are inherited and may be anything.

        :returns: its value, if that is plain data.
        :raises BaseException: what it raises, by type and plain arguments.
        :raises IsolatedError: see there.
        """
        __tracebackhide__ = True
        return self._task(func, args, kwargs, awaited=True).result()

    def start(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]:
        """As a call, but without waiting: the child stands in its namespaces when this returns.

        :raises IsolatedRefusal: when it cannot.
        """
        __tracebackhide__ = True
        task = self._task(func, args, kwargs, awaited=False)
        with self._home.caller.launcher.lock:
            self._home.unawaited.take(task)
        return task

    def open(self) -> Box:
        """New namespaces that stay, for several functions and commands: a context manager.

        A PID namespace is always among them, for it is what ends everything inside.

        :raises IsolatedRefusal: when this host denies one of them.
        :raises pytest.UsageError: with ``pid=False``, ``init=True`` or limits.
        """
        __tracebackhide__ = True
        box = self.furnished(f"{self!r}.open()")
        with self._home.caller.launcher.lock:
            self._home.unawaited.take(box)
        return box

    def furnished(
        self, name: str, furnish: Callable[[], None] | None = None, *, lent: bool = False
    ) -> Box:
        """As :meth:`open`, of a box that its maker closes.

        :param name: for messages.
        :param furnish: see :class:`Box`.
        :param lent: see :class:`Box`.
        """
        __tracebackhide__ = True
        for keyword, value in (("pid", False), ("init", True)):
            if self._keywords.get(keyword) is value:
                text = f"isolate.using({keyword}={value}).open(): a box has a PID 1 of its own"
                raise pytest.UsageError(text)
        if self._request.limits is not None:
            text = "limits are of a test or a call, not of a box: isolate.using(limits=None).open()"
            raise pytest.UsageError(text)
        return Box(
            self._home, self._request, name, trusted=self._trusted, lent=lent, furnish=furnish
        )

    def launcher(self) -> Launcher:
        """That of this process."""
        return self._home.caller.launcher

    def refused(self, refused: Refusal, what: str) -> BaseException:
        """What a call raises that this host does not let in, with the remedy.

        :param what: the function, the command or the box that it is for.
        """
        return refusal(self.launcher().explained(refused, self._request.user), self._request, what)

    def _task(
        self,
        func: Callable[..., T],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        *,
        awaited: bool,
    ) -> Task[T]:
        __tracebackhide__ = True
        function = Function.of(func, args, kwargs, self._trusted)
        return Task(self._home, function, self._request, awaited=awaited)

    def __repr__(self) -> str:
        said = ", ".join(f"{key}={value!r}" for key, value in self._keywords.items())
        return f"isolate.using({said})" if said else "isolate"
