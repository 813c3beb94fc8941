# SPDX-License-Identifier: MIT
"""One rule of nftables: what leaves by an interface gets its address (nft(8), masquerade).

Source: linux/netfilter/nf_tables.h. A transaction is a batch of messages between two marks; each
is acknowledged, and the first refusal undoes all.
"""

from __future__ import annotations

from struct import Struct, pack, unpack_from
from typing import Final

from pytest_nsisolate.kernel.originals import os, socket

_NETFILTER: Final = 12
_NFTABLES: Final = 10 << 8
_NEW_TABLE: Final = _NFTABLES | 0
_NEW_CHAIN: Final = _NFTABLES | 3
_NEW_RULE: Final = _NFTABLES | 6
_BEGIN: Final = 0x10
_END: Final = 0x11

_REQUEST: Final = 1
_ACK: Final = 4
_CREATE: Final = 0x400
_APPEND: Final = 0x800
_ERROR: Final = 2

_HEADER: Final = Struct("=IHHII")
_NESTED: Final = 0x8000
_NAME: Final = "nsisolate"

_POST_ROUTING: Final = 4
_SOURCE_NAT: Final = 100
_OUT_INTERFACE: Final = 7
_REGISTER: Final = 1
_EQUAL: Final = 0

_SECONDS: Final = 5.0


def masquerade(interface: str, *, version: int) -> None:
    """In this network namespace: hide other networks' addresses behind those of an interface.

    :param interface: it need not be there yet.
    :param version: 4 or 6.
    :raises OSError: EOPNOTSUPP, EPROTONOSUPPORT or ENOENT in a kernel without nf_tables, or without
        its NAT.
    """
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    table = _text(1, _NAME)
    hook = _nested(4, _number(1, _POST_ROUTING) + _number(2, _SOURCE_NAT))
    chain = _text(1, _NAME) + _text(3, "postrouting") + hook + _text(7, "nat")
    name = interface.encode().ljust(16, b"\0")
    value = _nested(3, _attribute(1, name))
    expressions = [
        _expression("meta", _number(1, _REGISTER) + _number(2, _OUT_INTERFACE)),
        _expression("cmp", _number(1, _REGISTER) + _number(2, _EQUAL) + value),
        _expression("masq", b""),
    ]
    rule = _text(1, _NAME) + _text(2, "postrouting") + _nested(4, b"".join(expressions))
    _carry_out(
        [
            (_BEGIN, 0, 0, b""),
            (_NEW_TABLE, _CREATE | _ACK, family, table),
            (_NEW_CHAIN, _CREATE | _ACK, family, chain),
            (_NEW_RULE, _CREATE | _APPEND | _ACK, family, rule),
            (_END, 0, 0, b""),
        ]
    )


def _carry_out(messages: list[tuple[int, int, int, bytes]]) -> None:
    batch = b""
    for number, (kind, flags, family, body) in enumerate(messages, 1):
        # The marks name the subsystem where the others have the family.
        subsystem = _NFTABLES >> 8 if kind in (_BEGIN, _END) else 0
        data = pack("!BBH", family, 0, subsystem) + body
        size = _HEADER.size + len(data)
        batch += _HEADER.pack(size, kind, flags | _REQUEST, number, 0) + data
    awaited = sum(bool(flags & _ACK) for _, flags, _, _ in messages)
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _NETFILTER) as link:
        link.settimeout(_SECONDS)
        link.bind((0, 0))
        link.send(batch)
        while awaited:
            data = link.recv(1 << 16)
            while data:
                size, answer, *_ = _HEADER.unpack_from(data)
                if answer == _ERROR:
                    (code,) = unpack_from("=i", data, _HEADER.size)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    awaited -= 1
                data = data[(size + 3) & ~3 :]


def _attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return pack("=HH", size, kind) + value + bytes(-size % 4)


def _nested(kind: int, value: bytes) -> bytes:
    return _attribute(kind | _NESTED, value)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, pack("!I", value))


def _expression(name: str, data: bytes) -> bytes:
    return _nested(1, _text(1, name) + _nested(2, data))
