# SPDX-License-Identifier: MIT
"""Ubuntu's AppArmor, as far as a process meets it: a user namespace is granted, its rights are not.

The directory of this file goes onto PYTHONPATH. The capabilities are given up in the call that has
given them, as the profile ``unprivileged_userns`` denies each of them; what is refused after that
is refused by the kernel.
"""

from __future__ import annotations

import ctypes
import struct
import sys

if sys.platform == "linux":
    from pytest_nsisolate.kernel import syscalls

    _unshare = syscalls.unshare
    _VERSION_3 = 0x20080522

    def _unshare_and_drop(flags: int) -> None:
        _unshare(flags)
        if flags & syscalls.CLONE_NEWUSER:
            header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0))
            nothing = ctypes.create_string_buffer(24)
            if ctypes.CDLL(None)["capset"](header, nothing) != 0:
                raise OSError("capset")

    syscalls.unshare = _unshare_and_drop
