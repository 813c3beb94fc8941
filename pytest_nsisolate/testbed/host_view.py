# SPDX-License-Identifier: MIT
"""What a host sees: each attribute of ``pid1``, asked there."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_nsisolate.view import Origin, Pid1View, Process

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_nsisolate.testbed.host import Host


class HostView:
    """Stands for a :class:`Pid1View` of that host: what is asked is asked there, each time."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def __getattr__(self, name: str) -> Any:
        __tracebackhide__ = True
        known = getattr(Pid1View, name)  # raises for what there is not
        if callable(known):
            return partial(self._call, name)
        return self._host.call(_read, self._home, name)

    @property
    def _home(self) -> Mapping[str, int]:
        return self._host.testbed.home

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return self._host.call(_do, self._home, name, args, kwargs)

    def __dir__(self) -> list[str]:
        return dir(Pid1View)

    def __repr__(self) -> str:
        return f"<view of host {self._host.name}>"


class _Inside(Pid1View):
    """In a function on the host. What runs there on our behalf is not shown."""

    __slots__ = ()

    @property
    def processes(self) -> tuple[Process, ...]:
        """Its PID 1 and what was started on it."""
        ours = _function_names()
        return tuple(p for p in super().processes if p.pid == 1 or p.command not in ours)


def _function_names() -> frozenset[str]:
    """The command line of copies of the test, which run functions and wait for programs."""
    from pytest_nsisolate.kernel.originals import os

    view = Pid1View()
    return frozenset(p.command for p in view.processes if p.pid in (1, os.getpid()))


def _view(home: Mapping[str, int]) -> _Inside:
    from pytest_nsisolate.kernel import namespaces

    return _Inside(Origin(home, frozenset(namespaces.NAMESPACES) - {"user", "time"}, init=1))


def _read(home: Mapping[str, int], name: str) -> Any:
    return getattr(_view(home), name)


def _do(home: Mapping[str, int], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    __tracebackhide__ = True
    method: Callable[..., Any] = getattr(_view(home), name)
    return method(*args, **kwargs)
