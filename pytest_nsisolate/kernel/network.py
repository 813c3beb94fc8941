# SPDX-License-Identifier: MIT
"""The one device of a new network namespace.

Fact: a new network namespace has ``lo``, down and without addresses; as soon as it is up the
kernel adds 127.0.0.1/8 and, where it has IPv6, ::1/128 (network_namespaces(7), netdevice(7)).
What we do: one ioctl, no iproute2, no netlink. Any socket will do for it; a Unix one exists in
every kernel and is the cheapest. The flags need not be read first: those that could be lost by
writing IFF_UP alone cannot be changed this way.
"""

from __future__ import annotations

import struct
from typing import Final

from pytest_nsisolate.kernel.libc import step_error
from pytest_nsisolate.kernel.originals import fcntl, socket

_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_IFREQ: Final = struct.pack("16sH22x", b"lo", _IFF_UP)


def bring_loopback_up() -> None:
    """Bring ``lo`` up in the network namespace this process is in.

    :raises StepError: ``set lo up``; EPERM without CAP_NET_ADMIN over that namespace.
    """

    try:
        # The C type: the class built on it doubles the pages that are touched.
        device = socket.SocketType(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            fcntl.ioctl(device, _SIOCSIFFLAGS, _IFREQ)
        finally:
            device.close()
    except OSError as error:
        raise step_error("set lo up", "net", error) from error
