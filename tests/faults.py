# SPDX-License-Identifier: MIT
"""Let one system call of the machinery fail, once, at the place that a test has chosen.

Fact: a seccomp filter stays for good and knows nothing but numbers, so that a denial by one
(``tests/seccomp.py``) is for the rest of the run, in every process of it.
What we do: the filter hands each call to a supervisor outside (SECCOMP_RET_USER_NOTIF, seccomp(2)),
which sees whose it is and lets it go on, but for the one that the running test has asked for. The
product's own ``pid1.fail`` stands on the same listener:

    python tests/faults.py CASES LOG -- pytest ...

``CASES`` is a JSON file, a list of objects as in :class:`Case`; ``tests/inner/faulty.py`` makes one
test of each, and says here by a call that no kernel knows when it begins and when it is over.
``LOG`` gets one JSON line for each call that was made to fail. x86_64 and aarch64, Linux 5.19.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import dataclasses
import errno
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from pytest_nsisolate.kernel import seccomp, syscall_numbers
from pytest_nsisolate.process.fault_supervisor.callers import UnreadableError, file_of, read_text
from pytest_nsisolate.process.fault_supervisor.listener import Listener

#: The socket over which the runner hands out its filter's descriptor.
SOCKET: Final = "FAULTS_SOCKET"
CASES: Final = "FAULTS_CASES"
#: Set: write down every call of an armed test.
LISTING: Final = "FAULTS_LISTING"

_NUMBERS: Final = syscall_numbers.numbers()
_NAMES: Final = {number: name for name, number in _NUMBERS.items()}

#: What rmdir(3) calls here.
RMDIR: Final = "rmdir" if "rmdir" in _NUMBERS else "unlinkat"

#: The tables know this machine.
AVAILABLE: Final = sys.platform == "linux" and bool(_NUMBERS)

#: ``prctl(MAGIC, INDEX)`` arms a case, ``prctl(MAGIC, OFF)`` ends it; no kernel ever sees it.
MAGIC: Final = 0x4E534953
OFF: Final = 0xFFFFFFFF

#: Memory, time, locks: many, and not what a host refuses. They do not ask the supervisor.
_UNSEEN: Final = (
    *("mmap", "munmap", "mprotect", "brk", "madvise", "mremap", "futex", "rt_sigreturn"),
    *("clock_gettime", "clock_nanosleep", "exit", "exit_group", "sched_yield", "newfstatat"),
    *("getpid", "gettid", "getppid", "lseek", "set_robust_list"),
)

#: Which arguments are paths; of every other call the first may be a descriptor.
_PATHS: Final = {
    "openat": (1,),
    "mount": (0, 1, 2),
    "umount2": (0,),
    "open_tree": (1,),
    "move_mount": (3,),
    "mount_setattr": (1,),
    "mkdirat": (1,),
    "mkdir": (0,),
    "chdir": (0,),
    "execve": (0,),
    "readlink": (0,),
    "readlinkat": (1,),
    "memfd_create": (0,),
    "rmdir": (0,),
    "unlinkat": (1,),
}

#: Which argument says what the call is for, and how that is called (linux/prctl.h, getrlimit(2)).
_PURPOSES: Final[dict[str, tuple[int, dict[int, str]]]] = {
    "prctl": (
        0,
        {
            1: "PR_SET_PDEATHSIG",
            23: "PR_CAPBSET_READ",
            24: "PR_CAPBSET_DROP",
            36: "PR_SET_CHILD_SUBREAPER",
            38: "PR_SET_NO_NEW_PRIVS",
        },
    ),
    "prlimit64": (
        1,
        {
            getattr(resource, name): name
            for name in dir(resource)
            if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
        },
    ),
}


@dataclass(frozen=True)
class Case:
    """One call to fail.

    :param role: ``runner``, ``supervisor``, ``child`` (PID 1, or what takes its place), ``test``
        (the init's child).
    :param call: the name of the call; ``*`` is any that asks.
    :param error: the symbol of its errno, or the name of a signal that kills the caller then.
    :param argument: look at this argument, and at nothing but calls where it has one of the bits of
        ``mask``.
    :param about: a text in one of its paths, in the link of its descriptor, or the purpose of a
        prctl or a setrlimit.
    :param nth: which of those, counted from 1.
    :param marker: keywords of the mark ``isolated`` of the test.
    """

    role: str
    call: str
    error: str
    argument: int = 0
    mask: int = 0
    about: str = ""
    nth: int = 1
    marker: dict[str, Any] = dataclasses.field(default_factory=dict)

    def number(self) -> int:
        """The errno, or minus the signal."""
        if self.error.startswith("SIG"):
            return -int(getattr(signal, self.error))
        return int(getattr(errno, self.error))


# In the runner -----------------------------------------------------------------------------------


def read_cases() -> list[Case]:
    """What the running suite is to try."""
    text = Path(os.environ[CASES]).read_text(encoding="utf-8")
    return [Case(**case) for case in json.loads(text)]


def submit() -> None:
    """In the runner, for good: from now on the supervisor is asked."""
    channel = socket.socket(fileno=int(os.environ[SOCKET]))
    unseen = [_NUMBERS[name] for name in _UNSEEN if name in _NUMBERS]
    # This one has to pass before there is anybody to ask.
    program = seccomp.handing_over(unseen, told_by=channel.fileno())
    rights = array.array("i", [0])
    message, kind = [b"f"], (socket.SOL_SOCKET, socket.SCM_RIGHTS)
    listener = seccomp.install(program)
    rights[0] = listener
    channel.sendmsg(message, [(*kind, rights)])
    os.close(listener)
    channel.close()


def arm(index: int) -> None:
    """From now on a case is tried; ``OFF`` ends it."""
    prctl = ctypes.CDLL(None)["prctl"]
    answer = prctl(ctypes.c_int(MAGIC), ctypes.c_ulong(index), *[ctypes.c_ulong(0)] * 3)
    assert answer == 0, "nobody supervises this run"


# The supervisor ----------------------------------------------------------------------------------


class Supervisor:
    """Answers for every call of the run."""

    def __init__(self, cases: list[Case], log: Path) -> None:
        self._cases = cases
        self._log = open(log, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._roles: dict[int, str] = {}
        self._index = OFF
        self._seen = 0
        self._spawning = False
        self._listing = bool(os.environ.get(LISTING))

    def serve(self, descriptor: int) -> None:
        """Until every process under the filter is gone."""
        listener = Listener(descriptor)
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        while True:
            for _, events in poller.poll():
                if events & select.POLLIN:
                    self._answer(listener)
                elif events & select.POLLHUP:
                    return

    def _answer(self, listener: Listener) -> None:
        call = listener.receive()
        if call is None:
            return  # killed before it could be heard
        name = _NAMES.get(call.number, str(call.number))
        verdict = self._judge(call.pid, name, list(call.arguments))
        if verdict is not None and verdict < 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(call.pid, -verdict)
            verdict = None
        if verdict is None:
            listener.let_go_on(call)
        elif verdict:
            listener.refuse(call, verdict)
        else:
            listener.answer(call, 0)

    def _judge(self, pid: int, name: str, arguments: list[int]) -> int | None:
        """What the call gets: None, the kernel's own answer; else as :meth:`Case.number`."""
        if name == "prctl" and arguments[0] & 0xFFFFFFFF == MAGIC:
            self._index, self._seen = arguments[1], 0
            # What is left of an earlier test has no part in this one.
            self._roles = {**dict.fromkeys(self._alive(), "earlier"), pid: "runner"}
            return 0
        if self._index == OFF:
            self._roles.setdefault(pid, "earlier")
            return None
        case = self._cases[self._index]
        role = self._role(pid)
        if role == "runner" and name in ("clone", "clone3", "vfork"):
            self._spawning = name != "clone" or bool(arguments[0] & _CLONE_VM)
        if self._listing:
            self._note(role=role, call=name, about=_about(pid, name, arguments))
        if self._seen >= case.nth or role != case.role or case.call not in (name, "*"):
            return None
        if case.mask and not arguments[case.argument] & case.mask:
            return None
        if case.about and case.about not in _about(pid, name, arguments):
            return None
        self._seen += 1
        if self._seen < case.nth:
            return None
        self._note(fired=name, about=_about(pid, name, arguments))
        return case.number()

    def _alive(self) -> list[int]:
        """Whom a role was given; the number of one who is dead may be another's by now."""
        return [pid for pid in self._roles if os.path.exists(f"/proc/{pid}")]

    def _note(self, **said: str) -> None:
        self._log.write(json.dumps({"case": self._index, **said}) + "\n")

    def _role(self, pid: int) -> str:
        if pid not in self._roles:
            self._roles[pid] = self._find_role(pid)
        return self._roles[pid]

    def _find_role(self, pid: int) -> str:
        try:
            lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        except OSError:
            return "gone"
        status = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
        if status["Tgid"] != [str(pid)]:
            return "thread"
        parent = self._roles.get(int(status["PPid"][0]), "other")
        inside = len(status["NSpid"]) > 1 and status["NSpid"][-1] == "1"
        if parent == "runner":
            return "spawned" if self._spawning else "child" if inside else "supervisor"
        return {"supervisor": "child", "child": "test"}.get(parent, "other")


_CLONE_VM: Final = 0x100


def _about(pid: int, name: str, arguments: list[int]) -> str:
    if name in _PURPOSES:
        position, names = _PURPOSES[name]
        purpose = arguments[position] & 0xFFFFFFFF
        return names.get(purpose, str(purpose))
    try:
        if name not in _PATHS:
            return file_of(pid, arguments[0] & 0xFFFFFFFF)
        return " ".join(read_text(pid, arguments[n]) for n in _PATHS[name] if arguments[n])
    except UnreadableError:
        return ""


def _die_with_parent() -> None:
    # Without an answer the run would wait for ever.
    ctypes.CDLL(None)["prctl"](ctypes.c_int(1), ctypes.c_ulong(signal.SIGKILL))


def main(arguments: list[str]) -> int:
    """``CASES LOG -- COMMAND ...``: run the command, and answer for its calls."""
    cases, log, _, *command = arguments
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.environ |= {SOCKET: str(theirs.fileno()), CASES: cases}
    wanted = [Case(**case) for case in json.loads(Path(cases).read_text(encoding="utf-8"))]
    supervisor = Supervisor(wanted, Path(log))
    process = subprocess.Popen(
        command,
        pass_fds=[theirs.fileno()],
        preexec_fn=_die_with_parent,  # noqa: PLW1509 (there is one thread)
    )
    try:
        theirs.close()
        _, received, _, _ = socket.recv_fds(ours, 1, 1)
        if received:
            supervisor.serve(received[0])
        return process.wait()
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
