# SPDX-License-Identifier: MIT
"""Questions to the kernel over netlink: rtnetlink(7), in pyroute2's messages, and sock_diag(7).

Fact: since 0.9 every socket class of pyroute2 is asyncio inside. ``IPRoute()`` in a coroutine is a
RuntimeError, "this event loop is already running", so that an async test could not use it; outside
of one it costs an event loop, four descriptors and 15 to 30 ms.

Consequence: the messages are pyroute2's, the socket is ours: one descriptor, opened for one
question and closed after it, no thread and no loop; a question takes 0.3 to 1 ms.

Fact: ``[::]:80`` takes what comes to ``127.0.0.1:80`` unless IPV6_V6ONLY is set (ipv6(7)), and
``/proc/net/tcp6`` does not show that option. Consequence: the kernel is asked (linux/inet_diag.h),
and only where an answer depends on it.

What still fails: without sock_diag the kernel does not tell, and then neither do we.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Mapping
from struct import unpack_from
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
_SOCK_DIAG: Final = 4

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
        # A table that changes all the time is never seen whole; then the last look has to do.
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


# Whether an IPv6 socket on all addresses takes IPv4 connections too -------------------------------

_BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY
_V6ONLY: Final = 11  # INET_DIAG_SKV6ONLY

#: Protocol number, and the state of one that waits (linux/tcp_states.h): LISTEN, CLOSE.
_WAITING: Final = {"tcp": (socket.IPPROTO_TCP, 10), "udp": (socket.IPPROTO_UDP, 7)}

_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBBBI48x")
#: Of struct inet_diag_msg: where the port stands, the address, and the first attribute.
_PORT_AT: Final = 4
_HOST_AT: Final = 8
_ATTRIBUTES_AT: Final = 72
_ATTRIBUTE: Final = struct.Struct("=HH")


def takes_ipv4(proto: str, port: int) -> bool | None:
    """Whether a socket on ``[::]`` and this port takes IPv4 too.

    :param proto: ``tcp`` or ``udp``.
    :returns: None if the kernel does not tell.
    """
    try:
        found = [only for at, host, only in _waiting(proto) if at == port and not any(host)]
    except OSError:
        return None
    if False in found:
        return True
    return None if None in found else False


def _waiting(proto: str) -> Iterator[tuple[int, bytes, bool | None]]:
    """Port, address and IPV6_V6ONLY of each IPv6 socket that waits."""
    number, state = _WAITING[proto]
    request = _REQUEST.pack(socket.AF_INET6, number, 0, 0, 1 << state)
    header = _HEADER.pack(
        _HEADER.size + len(request), _BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0
    )
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _SOCK_DIAG) as link:
        link.settimeout(_SECONDS)
        link.send(header + request)
        while True:
            data = link.recv(_BUFFER)
            while data:
                size, answer, *_ = _HEADER.unpack_from(data)
                body, data = data[_HEADER.size : size], data[_aligned(size) :]
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    raise OSError(-unpack_from("=i", body)[0], "sock_diag")
                yield _parse(body)


def _parse(body: bytes) -> tuple[int, bytes, bool | None]:
    (port,) = unpack_from("!H", body, _PORT_AT)
    host = body[_HOST_AT : _HOST_AT + 16]
    attributes = body[_ATTRIBUTES_AT:]
    while len(attributes) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _V6ONLY:
            return port, host, bool(attributes[_ATTRIBUTE.size])
        attributes = attributes[_aligned(max(size, _ATTRIBUTE.size)) :]
    return port, host, None


def _aligned(size: int) -> int:
    return (size + 3) & ~3
