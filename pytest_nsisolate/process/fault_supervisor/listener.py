# SPDX-License-Identifier: MIT
"""The kernel's side of a call that waits for its answer (seccomp_unotify(2))."""

from __future__ import annotations

import errno
import fcntl
import struct
from dataclasses import dataclass
from typing import Final

#: ``SECCOMP_IOCTL_NOTIF_…`` (linux/seccomp.h).
_RECEIVE: Final = 0xC0502100
_SEND: Final = 0xC0182101
_IS_VALID: Final = 0x40082102
_SET_FLAGS: Final = 0x40082104
_SYNC_WAKE_UP: Final = 1
_CONTINUE: Final = 1
_NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")
_RESPONSE: Final = struct.Struct("=QqiI")


@dataclass(frozen=True, slots=True)
class Notification:
    """One call that waits for its answer (``struct seccomp_notif``).

    :param pid: the thread that makes it, as this process sees it.
    """

    id: int
    pid: int
    number: int
    arguments: tuple[int, ...]


class Listener:
    """The descriptor over which calls are answered; its opener closes it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._buffer = bytearray(_NOTIFICATION.size)
        self._empty = bytes(_NOTIFICATION.size)
        try:
            # Linux 6.6: the waker hands over its processor.
            fcntl.ioctl(descriptor, _SET_FLAGS, _SYNC_WAKE_UP)
        except OSError:
            pass

    def receive(self) -> Notification | None:
        """The next call; None if its thread was killed before it could be read."""
        buffer = self._buffer
        buffer[:] = self._empty
        try:
            fcntl.ioctl(self.descriptor, _RECEIVE, buffer, True)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        id_, pid, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
        return Notification(id_, pid, number, tuple(arguments))

    def let_go_on(self, call: Notification) -> None:
        """The kernel carries the call out (SECCOMP_USER_NOTIF_FLAG_CONTINUE)."""
        self._send(_RESPONSE.pack(call.id, 0, 0, _CONTINUE))

    def refuse(self, call: Notification, error: int) -> None:
        """The call fails, and is not carried out."""
        self._send(_RESPONSE.pack(call.id, 0, -error, 0))

    def answer(self, call: Notification, value: int) -> None:
        """The call gives this value, and is not carried out."""
        self._send(_RESPONSE.pack(call.id, value, 0, 0))

    def is_waiting(self, call: Notification) -> bool:
        """Whether the thread is still there: until then its number may be another's by now."""
        try:
            fcntl.ioctl(self.descriptor, _IS_VALID, struct.pack("=Q", call.id))
        except OSError:
            return False
        return True

    def _send(self, response: bytes) -> None:
        try:
            fcntl.ioctl(self.descriptor, _SEND, response)
        except FileNotFoundError:
            pass  # killed meanwhile
