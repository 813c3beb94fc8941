# SPDX-License-Identifier: MIT
"""Whether ``/proc`` shows the test's own processes.

Fact: below the ``/proc`` of an isolated test lies that of the PID namespace around it. After the
test's own ``umount -l /proc`` the numbers there are the host's, and its PID 1 would be taken for
the test. Consequence: whoever looks a process up by its number asks here first.
"""

from __future__ import annotations

import errno

from pytest_nsisolate.kernel.originals import os


def check_proc() -> None:
    """Nothing, if it does.

    :raises OSError: ENOENT if there is none, ESTALE if it is another PID namespace's.
    """
    try:
        shown = os.readlink("/proc/self")
    except OSError as error:
        message = "no /proc of this PID namespace is mounted: has the test covered it?"
        raise FileNotFoundError(errno.ENOENT, message, "/proc") from error
    if shown != str(os.getpid()):
        message = "/proc is that of another PID namespace: has the test unmounted its own?"
        raise OSError(errno.ESTALE, message, "/proc")
