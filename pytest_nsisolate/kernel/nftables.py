# SPDX-License-Identifier: MIT
"""Two rules of nftables: hide addresses behind an interface's, and send on what arrives (nft(8)).

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
_DELETE_TABLE: Final = _NFTABLES | 2
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
_NOT_EQUAL: Final = 1

_NETDEV: Final = 5  # NFPROTO_NETDEV
_INGRESS: Final = 0
_OWNED: Final = 2  # NFT_TABLE_F_OWNER
_MARK: Final = 3

#: How each change is made.
_FLAGS: Final = {_NEW_TABLE: _CREATE, _NEW_CHAIN: _CREATE, _NEW_RULE: _CREATE | _APPEND}

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
    hide = _rule(
        "postrouting",
        _expression("meta", _number(1, _REGISTER) + _number(2, _OUT_INTERFACE)),
        _expression("cmp", _number(1, _REGISTER) + _number(2, _EQUAL) + value),
        _expression("masq", b""),
    )
    with _conversation() as link:
        _carry_out(link, family, [(_NEW_TABLE, table), (_NEW_CHAIN, chain), (_NEW_RULE, hide)])


class Diversion:
    """What arrives at an interface of this network namespace leaves by another one, unread.

    What has the mark stays, and loses it; so what was sent on can come back (SO_MARK, socket(7)).
    The rules are those of a socket: they end with the last process that holds it.

    :param interface: where it arrives.
    :param to: the number of the other one.
    :raises OSError: EOPNOTSUPP, EPROTONOSUPPORT, ENOENT or EINVAL in a kernel without such rules,
        or from before 5.12.
    """

    def __init__(self, interface: str, to: int, mark: int) -> None:
        device = _text(3, interface)
        hook = _nested(4, _number(1, _INGRESS) + _number(2, 0) + device)
        chain = _text(1, _NAME) + _text(3, "ingress") + hook + _text(7, "filter")
        value = _nested(3, _attribute(1, pack("=I", mark)))
        send_on = _rule(
            "ingress",
            _expression("meta", _number(1, _REGISTER) + _number(2, _MARK)),
            _expression("cmp", _number(1, _REGISTER) + _number(2, _NOT_EQUAL) + value),
            _immediate(to),
            _expression("fwd", _number(1, _REGISTER)),
        )
        unmark = _rule(
            "ingress",
            _immediate(0),
            _expression("meta", _number(2, _MARK) + _number(3, _REGISTER)),
        )
        self._link = _conversation()
        try:
            table = _text(1, _NAME) + _number(2, _OWNED)
            begun = [(_NEW_TABLE, table), (_NEW_CHAIN, chain)]
            _carry_out(self._link, _NETDEV, [*begun, (_NEW_RULE, send_on), (_NEW_RULE, unmark)])
        except BaseException:
            self._link.close()
            raise

    def close(self) -> None:
        """End it, also where another process has a copy of the socket.

        :raises OSError: as the kernel answers.
        """
        try:
            _carry_out(self._link, _NETDEV, [(_DELETE_TABLE, _text(1, _NAME))])
        finally:
            self._link.close()


def _conversation() -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    link = socket.socket(socket.AF_NETLINK, kind, _NETFILTER)
    try:
        link.settimeout(_SECONDS)
        link.bind((0, 0))
    except BaseException:
        link.close()
        raise
    return link


def _carry_out(link: socket.socket, family: int, changes: list[tuple[int, bytes]]) -> None:
    """All of these, or none."""
    # The marks name the subsystem where the others have the family.
    batch = _message(_BEGIN, 0, 0, pack("!BBH", 0, 0, _NFTABLES >> 8))
    for number, (kind, body) in enumerate(changes, 1):
        flags = _ACK | _FLAGS.get(kind, 0)
        batch += _message(kind, flags, number, pack("!BBH", family, 0, 0) + body)
    batch += _message(_END, 0, len(changes) + 1, pack("!BBH", 0, 0, _NFTABLES >> 8))
    link.send(batch)
    awaited = len(changes)
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


def _message(kind: int, flags: int, number: int, data: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(data), kind, flags | _REQUEST, number, 0) + data


def _rule(chain: str, *expressions: bytes) -> bytes:
    return _text(1, _NAME) + _text(2, chain) + _nested(4, b"".join(expressions))


def _immediate(value: int) -> bytes:
    return _expression(
        "immediate",
        _number(1, _REGISTER) + _nested(2, _attribute(1, pack("=I", value))),
    )


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
