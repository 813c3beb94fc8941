# SPDX-License-Identifier: MIT
"""Where a process is, for another one that is launched into the same namespaces.

Fact: setns(2) into a mount namespace leaves a process at the root of that namespace, and a test may
have another root. A path of the test's ``/proc/PID/root`` can only be looked up from outside.
Consequence: both directories are opened before, and entered after.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_nsisolate.errors import failing
from pytest_nsisolate.kernel import namespaces, proc
from pytest_nsisolate.kernel.originals import open, os, signal


@dataclass(frozen=True, slots=True)
class Place:
    """The namespaces of a process, and what else is to be as it is there.

    :param pidfd: that process.
    :param directories: descriptors of its root and its working directory; None: those that this
        process has itself.
    :param bounding: its bounding set of capabilities (capabilities(7)), as a mask; None: as the
        request has it.
    """

    pidfd: int
    directories: tuple[int, int] | None = None
    bounding: int | None = None

    def enter(self, cwd: str) -> None:
        """Go there, from inside its namespaces.

        :param cwd: where to go where no directories are to be entered.
        :raises StepError: naming the directory.
        """
        if self.directories is None:
            with failing("chdir", None):
                os.chdir(cwd)
            return
        root, directory = self.directories
        with failing("enter the test's root directory", "mount"):
            os.chdir(root)
            try:
                os.chroot(".")
            except PermissionError:
                # The test has no other root then, unless it has made a namespace of its own.
                if not os.path.samestat(os.stat("/"), os.stat(".")):
                    raise
        try:
            os.chdir(directory)
        except OSError:
            os.chdir("/")


def look(pid: int, pidfd: int) -> tuple[Place, frozenset[str]]:
    """Where a process is, and which kinds of its namespaces differ from those of this process.

    :raises StepError: when it may not be looked at, or is gone (ESRCH).
    """
    with failing("look at the test's process", None):
        own = namespaces.identities()
        theirs = namespaces.identities(pid)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        root, cwd = (os.open(f"/proc/{pid}/{name}", flags) for name in ("root", "cwd"))
        with open(f"/proc/{pid}/status", "rb") as status:
            bounding = int(proc.status(status.read())["CapBnd"], 16)
        signal.pidfd_send_signal(pidfd, 0)  # it is alive: all of that was of this process
    differ = frozenset(name for name, inode in theirs.items() if own.get(name) != inode)
    return Place(pidfd, (root, cwd), bounding), differ
