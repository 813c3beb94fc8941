# SPDX-License-Identifier: MIT
"""A filter that hands system calls to a process outside (seccomp(2), seccomp_unotify(2)).

Fact: a filter stays for good, in every thread and in all that is forked or executed from then on,
and a process has at most one whose calls another process answers (EBUSY).
Consequence: it cannot be made for one call and changed for the next. It hands over every call but
those that never fail; which of them fails is decided outside, each time.

Fact: a thread that waits for an answer goes on with EINTR if it gets a signal. Programs would then
see EINTR of calls that never fail so. What we do: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (Linux
5.19): once the call has been read outside, only a deadly signal wakes the thread.

What still fails: a signal in the moment before that; programs of another architecture (i386, x32),
whose calls are not handed over.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from struct import pack
from typing import Final

from pytest_nsisolate.kernel import process
from pytest_nsisolate.kernel.libc import by_number
from pytest_nsisolate.kernel.originals import ctypes, os
from pytest_nsisolate.kernel.syscall_numbers import ARCHITECTURES, numbers

#: Instructions of a filter (linux/bpf_common.h): load a word, jump if equal, if greater or equal.
_LOAD: Final = 0x20
_EQUAL: Final = 0x15
_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06

_ALLOW: Final = 0x7FFF0000
_NOTIFY: Final = 0x7FC00000

_SET_MODE_FILTER: Final = 1
_GET_ACTION_AVAIL: Final = 2
_TSYNC: Final = 1
_NEW_LISTENER: Final = 8
_TSYNC_ESRCH: Final = 16
_WAIT_KILLABLE_RECV: Final = 32
_FLAGS: Final = _TSYNC | _NEW_LISTENER | _TSYNC_ESRCH | _WAIT_KILLABLE_RECV

#: Where ``struct seccomp_data`` has the number of the call, and the architecture.
_NUMBER_AT: Final = 0
_ARCHITECTURE_AT: Final = 4
_FIRST_ARGUMENT_AT: Final = 16
_X32: Final = 0x40000000

#: Calls that do not fail, or cannot: the end of a process, locks, clocks, numbers, signals'
#: masks. They are many, and are not handed over.
NEVER_ASKED: Final = frozenset(
    """
    arch_prctl clock_gettime exit exit_group futex futex_wait futex_waitv futex_wake getcpu getegid
    geteuid getgid getpgid getpgrp getpid getppid getsid gettid gettimeofday getuid madvise
    membarrier restart_syscall rseq rt_sigprocmask rt_sigreturn sched_yield set_robust_list
    set_tid_address sigaltstack time times
    """.split()  # noqa: SIM905 (a line each would be a page)
)

#: What a refusal of the filter names.
STEP: Final = "answer system calls"

Instruction = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def refusal() -> OSError | None:
    """Why this kernel refuses such a filter, found out without one; None if it takes it."""
    call = numbers().get("seccomp")
    if call is None:
        return OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    action = pack("=I", _NOTIFY)
    zero = ctypes.c_ulong(0)
    try:
        by_number(call, ctypes.c_ulong(_GET_ACTION_AVAIL), zero, action)()
        # Flags are looked at before the program: a kernel that knows them all misses it.
        by_number(call, ctypes.c_ulong(_SET_MODE_FILTER), ctypes.c_ulong(_FLAGS), None)()
    except OSError as error:
        return None if error.errno == errno.EFAULT else error
    return None


def handing_over(not_asked: Iterable[int], *, told_by: int | None = None) -> list[Instruction]:
    """The filter that hands over every call of this machine except these.

    :param not_asked: their numbers.
    :param told_by: a descriptor over which the listener itself is sent: a sendmsg by it passes.
    """
    allowed: list[Instruction] = []
    for number in sorted(not_asked):
        allowed += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    if told_by is not None:
        allowed += [
            (_EQUAL, 0, 3, numbers()["sendmsg"]),
            (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
            (_EQUAL, 0, 1, told_by),
            (_RETURN, 0, 0, _ALLOW),
        ]
    return [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, ARCHITECTURES[os.uname().machine]),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _ALLOW),
        *allowed,
        (_RETURN, 0, 0, _NOTIFY),
    ]


def install(instructions: list[Instruction]) -> int:
    """Put every thread of this process under a filter, for good.

    Without CAP_SYS_ADMIN the kernel asks for no_new_privs first, and gets it.

    :returns: the descriptor over which its calls are answered; close-on-exec.
    :raises OSError: EBUSY where there is such a filter already, ESRCH for a thread that has another
        one, EINVAL before Linux 5.19.
    """
    code = b"".join(pack("=HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(instructions), ctypes.addressof(buffer))
    call = by_number(
        numbers()["seccomp"],
        ctypes.c_ulong(_SET_MODE_FILTER),
        ctypes.c_ulong(_FLAGS),
        ctypes.byref(program),
    )
    try:
        return call()
    except OSError as error:
        if error.errno != errno.EACCES:
            raise
    process.forbid_new_privileges()
    return call()
