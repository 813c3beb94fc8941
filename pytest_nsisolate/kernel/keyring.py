# SPDX-License-Identifier: MIT
"""The session keyring: keys of the runner's login that a test must not have.

Fact: a login gives its processes a session keyring (pam_keyinit(8), systemd), and forks and
namespaces keep it: its possessor reads, changes and revokes the keys in it (keyrings(7)).
Consequence: a Kerberos ticket, a file system's key or a container's secret would be in reach.
What we do: each child joins a new and empty one, which takes 3 microseconds. To ask first whether
there is one to leave would change the runner: the kernel installs one when it is asked.

Fact: it counts against the user's quota of keys (200, but for root) until the kernel has swept it
up after the child's end. Hence some patience when the quota is full.

What still fails: a key that its permissions give to a user id, not to its possessor, is still in
reach by its serial number for a test with the same id: no namespace and no capability hides it.
"""

from __future__ import annotations

import errno
import functools
from typing import Final

from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.libc import Prepared, by_number, step_error
from pytest_nsisolate.kernel.originals import ctypes, os, time

_SYS_KEYCTL: Final = {
    "x86_64": 250,
    "aarch64": 219,
    "riscv64": 219,
    "loongarch64": 219,
    "ppc64le": 271,
    "ppc64": 271,
    "s390x": 280,
}
_JOIN_SESSION_KEYRING: Final = 1
_STEP: Final = "join a new session keyring"
#: No keyrings in this kernel, or a filter that forbids them; it forbids them in the child, too.
_NOBODY_HAS_KEYS: Final = (errno.ENOSYS, errno.EPERM, errno.EACCES)
_PATIENCE: Final = 0.25  # seconds
_PAUSE: Final = 0.005


def preload() -> None:
    """Make the call ready in the runner."""
    _join()


def leave_session_keyring() -> None:
    """Join a new and empty session keyring (keyctl_join_session_keyring(3)).

    :raises StepError: ``join a new session keyring``; EDQUOT when too many keys of others are
        left for longer than a quarter of a second.
    """
    join = _join()
    if join is None:
        return
    deadline = None
    while True:
        try:
            join()
        except OSError as error:
            if error.errno in _NOBODY_HAS_KEYS:
                return
            deadline = deadline or monotonic() + _PATIENCE
            if error.errno != errno.EDQUOT or monotonic() > deadline:
                raise step_error(_STEP, None, error) from error
            time.sleep(_PAUSE)
        else:
            return


@functools.cache
def _join() -> Prepared | None:
    number = _SYS_KEYCTL.get(os.uname().machine)
    if number is None:
        return None
    zeros = (ctypes.c_long(0),) * 4
    return by_number(number, ctypes.c_long(_JOIN_SESSION_KEYRING), *zeros)
