# SPDX-License-Identifier: MIT
"""Whether an IPv6 socket on all addresses takes IPv4 connections too, over sock_diag(7).

Fact: ``[::]:80`` takes what comes to ``127.0.0.1:80`` unless IPV6_V6ONLY is set (ipv6(7)), and
``/proc/net/tcp6`` does not show that option. Consequence: the kernel is asked (linux/inet_diag.h),
and only where an answer depends on it.

What still fails: a kernel without that interface says nothing, and then neither do we.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from struct import unpack_from
from typing import Final

from pytest_nsisolate.kernel.originals import socket

_SOCK_DIAG: Final = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY
_REQUEST_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_ERROR: Final = 2  # NLMSG_ERROR
_DONE: Final = 3  # NLMSG_DONE
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

_BUFFER: Final = 1 << 17
_SECONDS: Final = 5.0


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
    header = _HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _REQUEST_DUMP, 1, 0)
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _SOCK_DIAG) as link:
        link.settimeout(_SECONDS)
        link.send(header + request)
        while True:
            data = link.recv(_BUFFER)
            while data:
                size, answer, *_ = _HEADER.unpack_from(data)
                body, data = data[_HEADER.size : size], data[_aligned(size) :]
                if answer == _DONE:
                    return
                if answer == _ERROR:
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
