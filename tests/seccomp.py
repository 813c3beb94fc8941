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
from typing import Final

#: In place of an error number: end the process by SIGSYS (SECCOMP_RET_KILL_PROCESS).
KILL: Final = -1

_MACHINE: Final = os.uname().machine if sys.platform == "linux" else ""
_ARCHITECTURE: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN: Final = {"x86_64": 0, "aarch64": 1}
_NUMBERS: Final = {
    "ioctl": (16, 29),
    "clone": (56, 220),
    "mount": (165, 40),
    "umount2": (166, 39),
    "sethostname": (170, 161),
    "setsid": (112, 157),
    "prctl": (157, 167),
    "unshare": (272, 97),
    "socketpair": (53, 199),
    "pipe2": (293, 59),
    "capset": (126, 91),
    "memfd_create": (319, 279),
    "pidfd_send_signal": (424, 424),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "pidfd_open": (434, 434),
    "clone3": (435, 435),
    "mount_setattr": (442, 442),
}

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38
_LOAD, _AND, _JUMP_IF_EQUAL, _JUMP_IF_ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x45, 0x06
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000


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
    test: list[tuple[int, int, int, int]] = []
    if argument is not None:
        jump = _JUMP_IF_ANY_BIT if equals is None else _JUMP_IF_EQUAL
        operand = mask if equals is None else equals
        test = [(_LOAD, 0, 0, 16 + 8 * argument), (jump, 0, 1, operand & 0xFFFFFFFF)]
    skip = len(test) + 1
    _install(
        [
            (_LOAD, 0, 0, 4),
            (_JUMP_IF_EQUAL, 0, skip + 2, _ARCHITECTURE[_MACHINE]),
            (_LOAD, 0, 0, 0),
            (_JUMP_IF_EQUAL, 0, skip, number(call) if isinstance(call, str) else call),
            *test,
            (_RETURN, 0, 0, verdict),
            (_RETURN, 0, 0, _ALLOW),
        ]
    )


def _install(instructions: list[tuple[int, int, int, int]]) -> None:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(instructions), ctypes.addressof(buffer))
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
    """``CALL=ERRNO ... -- COMMAND ...``: run a command under these denials."""
    split = arguments.index("--")
    for denial in arguments[:split]:
        call, _, name = denial.partition("=")
        deny(call, KILL if name == "KILL" else getattr(errno, name))
    command = arguments[split + 1 :]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
