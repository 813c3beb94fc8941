# SPDX-License-Identifier: MIT
"""``clone`` with flags, as a last resort where ``os.fork`` cannot do it.

Fact: between a clone and ``PyOS_AfterFork_Child`` not one bytecode may run in the child: the
interpreter may be about to hand the GIL to a thread that does not exist there, and would wait
for it for ever. Python code that calls the three functions one after the other runs some.
What we do: C code calls C code. ``map`` calls the hook and the clone; ctypes hands the result to
``restype``, which picks the second hook from a table, and the hook to ``errcheck``, which calls
it. The last key of the table is the outcome: 0 in the child, a pid in the parent, or -1.

Fact: glibc keeps the thread's id where only it knows, and its own fork has the kernel write it.
What we do: the same (PR_GET_TID_ADDRESS, CLONE_CHILD_SETTID); gettid() is right in any case.

What still fails: a lock of libc that another thread holds is never released in the child, and
``pthread_atfork`` handlers do not run. ``os.fork`` has neither fault: use that if you can.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any, Final

from pytest_nsisolate.kernel.libc import function, last_error, libc
from pytest_nsisolate.kernel.originals import ctypes, os, threading

_SIGCHLD: Final = 17
_CLONE_CHILD_CLEARTID: Final = 0x00200000
_CLONE_CHILD_SETTID: Final = 0x01000000
_PR_GET_TID_ADDRESS: Final = 40

# clone(2) is older than the numbers that all architectures share.
_NUMBERS: Final = {
    "x86_64": 56,
    "aarch64": 220,
    "riscv64": 220,
    "loongarch64": 220,
    "ppc64le": 120,
    "ppc64": 120,
    "s390x": 120,
}
_NUMBER_32_BIT: Final = 120  # x86 and ARM


def raw_clone(flags: int, end_signal: int = _SIGCHLD) -> int:
    """``clone(flags | end_signal)``, to be used like :func:`os.fork`; its at-fork hooks run.

    :param flags: ``CLONE_NEW*`` (clone(2)).
    :param end_signal: what the parent gets at its end. With 0 nobody waits for it by accident, for
        ``wait`` and ``waitpid(-1)`` do not see it (wait(2), ``__WALL``).
    :returns: 0 in the child, the child's pid in the parent.
    :raises OSError: from clone(2); ENOSYS on an architecture whose number is not known here.
    """
    prepared = _prepare(flags | end_signal, threading.get_ident())
    outcomes = prepared.outcomes
    outcomes.clear()
    outcomes[0] = prepared.after_child
    deque(map(_call, prepared.steps), maxlen=0)
    pid: int = next(reversed(outcomes))
    if pid < 0:
        raise last_error()
    return pid


_call = operator.methodcaller("__call__")


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What is made once for all clones of a thread with the same flags."""

    steps: tuple[Callable[[], object], Callable[[], object]]
    outcomes: defaultdict[int, object]
    after_child: object


@functools.cache
def _prepare(flags: int, thread: int) -> _Prepared:
    """
    :param thread: its identity; the address at which the kernel writes the tid is its own.
    """
    del thread
    before, after_parent, after_child = map(_hook, ("BeforeFork", *_AFTER))
    for after in (after_parent, after_child):
        # ctypes passes the function and its arguments to errcheck, which passes them on. C
        # functions that take nothing ignore them.
        after.argtypes = (ctypes.py_object, ctypes.py_object)
    outcomes: defaultdict[int, object] = defaultdict(repeat(after_parent).__next__)
    clone: Any = libc()["syscall"]  # an object of its own, because it gets attributes
    clone.restype = outcomes.__getitem__
    clone.errcheck = operator.call
    clone_now = partial(clone, *_arguments(flags))
    return _Prepared((before, clone_now), outcomes, after_child)


_AFTER: Final = ("AfterFork_Parent", "AfterFork_Child")


def _hook(name: str) -> Any:
    hook = ctypes.pythonapi[f"PyOS_{name}"]
    hook.restype = None
    return hook


def _arguments(flags: int) -> list[ctypes.c_long | ctypes.c_ulong]:
    machine = os.uname().machine
    number = _NUMBERS.get(machine, -1) if sys.maxsize > 2**32 else _NUMBER_32_BIT
    tid = ctypes.c_void_p()
    if function("prctl")(ctypes.c_long(_PR_GET_TID_ADDRESS), ctypes.byref(tid)) == 0:
        flags |= _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
    # The order of the last two, address of the tid and thread-local storage, differs between
    # architectures. The latter is ignored without CLONE_SETTLS, so both are the address.
    stack_and_flags = (0, flags) if machine == "s390x" else (flags, 0)
    address = tid.value or 0
    values = (*stack_and_flags, 0, address, address)
    return [ctypes.c_long(number), *map(ctypes.c_ulong, values)]
