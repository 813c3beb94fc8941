# SPDX-License-Identifier: MIT
"""Open directories of a process whose root becomes another one.

Fact: fchdir(2), openat(2) and their like take a directory by its descriptor, whatever the root is.
What we do: the descriptors are listed before, with their paths, and each is opened anew behind.
"""

from __future__ import annotations

from stat import S_ISDIR

from pytest_nsisolate.kernel.libc import step_error
from pytest_nsisolate.kernel.originals import os


def listed() -> list[tuple[int, str]]:
    """Each with its path, while that is the host's."""
    found = []
    try:
        for name in os.listdir("/proc/self/fd"):
            try:
                if S_ISDIR(os.fstat(int(name)).st_mode):
                    found.append((int(name), os.readlink(f"/proc/self/fd/{name}")))
            except OSError:
                continue  # that of the listing
    except OSError as error:
        raise step_error("list the open directories", "mount", error) from error
    return found


def leave(directories: list[tuple[int, str]]) -> None:
    """None of them leads out: each is opened anew by its path, or covered if that is gone."""
    try:
        for fd, path in directories:
            try:
                again = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                again = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            os.dup2(again, fd, os.get_inheritable(fd))
            os.close(again)
    except OSError as error:
        raise step_error("leave the directories of the host", "mount", error) from error
