# SPDX-License-Identifier: MIT
"""Questions to the kernel over route netlink, in pyroute2's messages (rtnetlink(7)).

Fact: since 0.9 every socket class of pyroute2 is asyncio inside. ``IPRoute()`` in a coroutine is a
RuntimeError, "this event loop is already running", so that an async test could not use it; outside
of one it costs an event loop, four descriptors and 15 to 30 ms.

Consequence: the messages are pyroute2's, the socket is ours: one descriptor, opened for one
question and closed after it, no thread and no loop; a question takes 0.3 to 1 ms.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, Final

from pytest_nsisolate.kernel.originals import os, socket

#: Numbers of linux/netlink.h and linux/rtnetlink.h, written here so that only a child that asks
#: needs pyroute2.
_NLM_F_REQUEST: Final = 1
_NLM_F_DUMP: Final = 0x300
_NLM_F_DUMP_INTR: Final = 0x10
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_ROUTE: Final = 0

RTM_GETLINK: Final = 18
RTM_GETADDR: Final = 22
RTM_GETROUTE: Final = 26

_BUFFER: Final = 1 << 17
_SECONDS: Final = 5.0
_MOST_TRIES: Final = 5

Message = Any


def dump(kind: int, **fields: int) -> list[Message]:
    """All objects of a kind.

    :param kind: one of the ``RTM_GET`` numbers.
    :param fields: of the request's header, ``family=AF_INET``.
    :returns: pyroute2's messages.
    :raises OSError: as the kernel answers.
    """
    tries = _MOST_TRIES
    while True:
        found, interrupted = _ask(kind, _NLM_F_DUMP, fields, {})
        tries -= 1
        # What changes all the time is never seen whole; then the last look has to do.
        if not interrupted or not tries:
            return found


def ask(kind: int, fields: Mapping[str, int], attributes: Mapping[str, object]) -> Message | None:
    """One answer to one question.

    :raises OSError: as the kernel answers.
    """
    found, _ = _ask(kind, 0, fields, attributes)
    return found[0] if found else None


def _ask(
    kind: int, flags: int, fields: Mapping[str, int], attributes: Mapping[str, object]
) -> tuple[list[Message], bool]:
    from pyroute2.netlink.rtnl.marshal import MarshalRtnl

    marshal = MarshalRtnl()
    request: Message = marshal.msg_map[kind]()
    request["header"]["type"] = kind
    request["header"]["flags"] = _NLM_F_REQUEST | flags
    request["header"]["sequence_number"] = 1
    for name, value in fields.items():
        request[name] = value
    request["attrs"] = list(attributes.items())
    request.encode()
    found: list[Message] = []
    interrupted = False
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _ROUTE) as link:
        link.settimeout(_SECONDS)
        link.bind((0, 0))
        link.send(request.data)
        while True:
            for message in marshal.parse(link.recv(_BUFFER)):
                header = message["header"]
                interrupted = interrupted or bool(header["flags"] & _NLM_F_DUMP_INTR)
                if header["type"] == _NLMSG_ERROR:
                    raise _as_os_error(header["error"])
                if header["type"] == _NLMSG_DONE:
                    return found, interrupted
                found.append(message)
            if not flags:
                return found, interrupted


def _as_os_error(error: Any) -> OSError:
    code = getattr(error, "code", None) or getattr(error, "errno", None) or errno.EPROTO
    return OSError(code, os.strerror(code))
