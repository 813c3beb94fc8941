# SPDX-License-Identifier: MIT
"""The C library by ctypes: found once, in the runner, and called with the GIL held.

Fact: ctypes releases the GIL around a call made through ``CDLL``, and in a forked child every
object that is made and every symbol that is looked up is a page copied.
Consequence: a raw ``clone`` made that way hangs in the child as soon as another thread took the
GIL at that moment, and the set-up of each test pays for work that the runner could have done.
What we do: one ``PyDLL``, which keeps the GIL, and :class:`Prepared`, a call whose C arguments
exist already, so that the child only makes it. No prototype is set on a function object that is
shared (``syscall``, ``prctl`` and ``ptrace`` take anything), so an integer goes as a C ``long``.
No callbacks, hence no ``CFUNCTYPE``: they need memory that hardened kernels refuse.
What still fails: a call that blocks keeps the GIL; none of these blocks in a child of ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel.originals import ctypes, os


@functools.cache
def libc() -> ctypes.PyDLL:
    """The C library that Python itself runs on; ``find_library`` would run ldconfig."""
    return ctypes.PyDLL(None, use_errno=True)


@functools.cache
def function(name: str) -> Any:
    """A function of the C library, shared by its callers: set no attributes on it."""
    return libc()[name]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call with its C arguments, made where it is cheap and called where it counts.

    :param path: named by the :class:`OSError`, because the errno alone does not say which.
    """

    function: Callable[..., int]
    arguments: tuple[object, ...]
    path: str | None = None

    def __call__(self) -> int:
        """Make the call.

        :raises OSError: with the call's errno, if the result is negative.
        """
        result = self.function(*self.arguments)
        if result < 0:
            raise last_error(self.path)
        return result


@dataclass(frozen=True, slots=True)
class Step:
    """One prepared call, with the names that its :class:`StepError` needs.

    :param call: a :class:`Prepared`, or anything else that raises :class:`OSError`.
    """

    name: str
    namespace: str
    call: Callable[[], int]
    #: The same, without a line of Python: a :class:`Prepared` says by its result that it failed.
    bare: Callable[[], int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        call = self.call
        bare = partial(call.function, *call.arguments) if isinstance(call, Prepared) else call
        object.__setattr__(self, "bare", bare)

    def run(self) -> None:
        """Make the call.

        :raises StepError: with this step's name and the call's errno and path.
        """
        run_all((self,))


def run_all(steps: Iterable[Step]) -> None:
    """Make the calls of all these steps, one after the other.

    :raises StepError: with the name of the one that failed, and the call's errno and path.
    """
    for step in steps:
        try:
            if step.bare() < 0:
                raise last_error(getattr(step.call, "path", None))
        except OSError as error:
            raise step_error(step.name, step.namespace, error) from error


def step_error(name: str, namespace: str | None, error: OSError) -> StepError:
    """What :func:`~pytest_nsisolate.errors.failing` raises, for code that runs in a child.

    A context manager there costs 60 µs the first time: twenty pages are copied for it.
    """
    return StepError(name, namespace, error.errno or 0, str(error.filename or ""))


def by_number(number: int, *arguments: object, path: str | None = None) -> Prepared:
    """A call that the C library may have no function for (syscall(2))."""
    return Prepared(function("syscall"), (ctypes.c_long(number), *arguments), path)


def last_error(path: str | None = None) -> OSError:
    """The error of this thread's last call through :func:`libc`."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)
