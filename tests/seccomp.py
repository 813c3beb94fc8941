# SPDX-License-Identifier: MIT
"""A seccomp injector: make one system call of this process fail, without strace and without root.

    deny("unshare", errno.EPERM)                                  every unshare, as in Docker
    deny("unshare", errno.ENOSPC, argument=0, mask=CLONE_NEWNET)  only those with this flag
    deny("ioctl", errno.EPERM, argument=1, equals=SIOCSIFFLAGS)   only with exactly this value
    deny("unshare", KILL)                                         a filter that kills the process

The filter holds for the calling thread and everything that it forks or executes, and nothing can
take it away again: call it in a child of the test, or run a whole command under it:

    python tests/seccomp.py unshare=EPERM -- pytest ...

Several calls add up. A process without CAP_SYS_ADMIN has to set no_new_privs for it (seccomp(2)),
which is done only then. x86_64 and aarch64.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import Final, TypeAlias

#: In place of an error number: end the process by SIGSYS (SECCOMP_RET_KILL_PROCESS).
KILL: Final = -1

_MACHINE: Final = os.uname().machine if sys.platform == "linux" else ""
_ARCHITECTURE: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN: Final = {"x86_64": 0, "aarch64": 1}
#: By name: x86_64, aarch64; -1 where a machine has no such call.
_NUMBERS: Final[dict[str, tuple[int, int]]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "poll": (7, -1),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "ioctl": (16, 29),
    "pread64": (17, 67),
    "access": (21, -1),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "dup": (32, 23),
    "dup2": (33, -1),
    "getpid": (39, 172),
    "socket": (41, 198),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "getsockname": (51, 204),
    "socketpair": (53, 199),
    "getsockopt": (55, 209),
    "clone": (56, 220),
    "vfork": (58, -1),
    "execve": (59, 221),
    "exit": (60, 93),
    "wait4": (61, 260),
    "kill": (62, 129),
    "fcntl": (72, 25),
    "ftruncate": (77, 46),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "mkdir": (83, -1),
    "symlink": (88, -1),
    "keyctl": (250, 219),
    "mknodat": (259, 33),
    "symlinkat": (266, 36),
    "readlink": (89, -1),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "setpgid": (109, 154),
    "getppid": (110, 173),
    "setsid": (112, 157),
    "capget": (125, 90),
    "capset": (126, 91),
    "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "mount": (165, 40),
    "umount2": (166, 39),
    "sethostname": (170, 161),
    "fsetxattr": (190, 7),
    "gettid": (186, 178),
    "futex": (202, 98),
    "getdents64": (217, 61),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "tgkill": (234, 131),
    "waitid": (247, 95),
    "openat": (257, 56),
    "mkdirat": (258, 34),
    "newfstatat": (262, 79),
    "readlinkat": (267, 78),
    "ppoll": (271, 73),
    "unshare": (272, 97),
    "set_robust_list": (273, 99),
    "signalfd4": (289, 74),
    "eventfd2": (290, 19),
    "dup3": (292, 24),
    "pipe2": (293, 59),
    "prlimit64": (302, 261),
    "setns": (308, 268),
    "seccomp": (317, 277),
    "getrandom": (318, 278),
    "memfd_create": (319, 279),
    "statx": (332, 291),
    "rseq": (334, 293),
    "pidfd_send_signal": (424, 424),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "clone3": (435, 435),
    "close_range": (436, 436),
    "faccessat2": (439, 439),
    "mount_setattr": (442, 442),
}
#: By number, on this machine.
NAMES: Final = {
    numbers[_COLUMN[_MACHINE]]: name for name, numbers in _NUMBERS.items() if _MACHINE in _COLUMN
}

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38
LOAD, EQUAL, _JUMP_IF_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000

#: Code, two jumps, operand (``struct sock_filter``).
Instruction: TypeAlias = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def number(name: str) -> int:
    """The number of a system call on this machine.

    :raises KeyError: for a call or a machine that is not in the table.
    """
    return _NUMBERS[name][_COLUMN[_MACHINE]]


def deny(
    call: str | int,
    error: int,
    *,
    argument: int | None = None,
    mask: int = 0,
    equals: int | None = None,
) -> None:
    """Let a system call of this process fail from now on, for good.

    :param call: its name, if the table has it, or its number.
    :param error: the error number that it gets, or :data:`KILL`.
    :param argument: look at this argument (0 to 5, its lower 32 bits) and spare other calls.
    :param mask: deny if one of these bits is set.
    :param equals: deny if the argument is exactly this; wins over ``mask``.
    :raises OSError: if the kernel does not take the filter.
    """
    verdict = _KILL_PROCESS if error == KILL else _ERRNO | error
    test: list[Instruction] = []
    if argument is not None:
        jump = _JUMP_IF_ANY_BIT if equals is None else EQUAL
        operand = mask if equals is None else equals
        test = [(LOAD, 0, 0, 16 + 8 * argument), (jump, 0, 1, operand & 0xFFFFFFFF)]
    skip = len(test) + 1
    _install(
        [
            (LOAD, 0, 0, 4),
            (EQUAL, 0, skip + 2, _ARCHITECTURE[_MACHINE]),
            (LOAD, 0, 0, 0),
            (EQUAL, 0, skip, number(call) if isinstance(call, str) else call),
            *test,
            (RETURN, 0, 0, verdict),
            (RETURN, 0, 0, ALLOW),
        ]
    )


def _program(instructions: list[Instruction]) -> tuple[_Program, object]:
    """The program, and the memory that it points to."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    return _Program(len(instructions), ctypes.addressof(buffer)), buffer


def _install(instructions: list[Instruction]) -> None:
    program, _buffer = _program(instructions)
    prctl = ctypes.CDLL(None, use_errno=True)["prctl"]

    def call(option: int, second: int, third: object = None) -> int:
        nothing = ctypes.c_ulong(0)
        arguments = (ctypes.c_ulong(second), third or nothing, nothing, nothing)
        return int(prctl(ctypes.c_int(option), *arguments))

    filter_ = ctypes.byref(program)
    if call(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filter_) == 0:
        return
    call(_PR_SET_NO_NEW_PRIVS, 1)
    if call(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filter_) != 0:
        raise OSError(ctypes.get_errno(), "the kernel did not take the filter")


def main(arguments: list[str]) -> None:
    """``CALL=ERRNO ... -- COMMAND ...``: run a command under these denials.

    ``mount/3/0=EPERM`` denies only calls whose argument 3, counted from 0, is 0.
    """
    split = arguments.index("--")
    for denial in arguments[:split]:
        call, _, name = denial.partition("=")
        call, *which = call.split("/")
        argument, equals = map(int, which) if which else (None, None)
        error = KILL if name == "KILL" else getattr(errno, name)
        deny(call, error, argument=argument, equals=equals)
    command = arguments[split + 1 :]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
