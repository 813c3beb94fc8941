# SPDX-License-Identifier: MIT
"""What ``devices=`` and ``caps=`` may say: which hardware a test gets, and which rights it keeps.

Spelling and kind are checked here, at collection. Whether this host has a device is asked at the
launch: that is a refusal, about which ``--nsisolate-missing`` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pytest_nsisolate.kernel import devices
from pytest_nsisolate.kernel.originals import os
from pytest_nsisolate.kernel.process import CAPABILITY_NAMES
from pytest_nsisolate.request.wording import short, suggestion

_PREFIX: Final = "cap_"
_SHORT_NAMES: Final = tuple(name.lower().removeprefix(_PREFIX) for name in CAPABILITY_NAMES)

#: The powers over the whole machine that root has without a user namespace and that no set-up of
#: namespaces needs: capabilities(7). CAP_SYS_ADMIN is one too, but every set-up needs it.
HOST_WIDE: Final = frozenset(
    {
        *("CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_BOOT", "CAP_SYS_TIME", "CAP_SYSLOG"),
        *("CAP_MKNOD", "CAP_SYS_PACCT", "CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_AUDIT_CONTROL"),
    }
)


#: Rows and columns of a terminal that are not said, and the most of each.
_WINDOW: Final = (24, 80)
_MOST_CELLS: Final = 1000


class PowerError(ValueError):
    """A value is not allowed; the argument is the rest of the sentence."""


def check_caps(value: object) -> frozenset[str]:
    """The capabilities that are kept, by their full names.

    :param value: names as in capabilities(7), in either case, with or without ``CAP_``; or, each
        with a ``-`` before it, those that are taken from all.
    :raises PowerError: when they are neither.
    """
    kept: set[str] = set()
    taken: set[str] = set()
    for name in _names(value, "names of capabilities, () for none of them"):
        plain = name.removeprefix("-").lower().removeprefix(_PREFIX)
        if plain not in _SHORT_NAMES:
            guess = suggestion(plain, _SHORT_NAMES)
            raise PowerError(f"knows no capability {short(name.removeprefix('-'))}, {guess}")
        (taken if name.startswith("-") else kept).add(f"CAP_{plain.upper()}")
    if kept and taken:
        raise PowerError("takes names to keep, or names with a '-' to take from all, not both")
    return frozenset(CAPABILITY_NAMES).difference(taken) if taken else frozenset(kept)


def read_caps(value: str | Sequence[str]) -> frozenset[str] | None:
    """:func:`check_caps` for a list in an option or an ini key; None for "all".

    :raises PowerError: when it is no such list.
    """
    text = value if isinstance(value, str) else " ".join(value)
    names = text.replace(",", " ").split()
    if names in (["all"], ["none"]):
        return None if names == ["all"] else frozenset()
    if not names:
        raise PowerError('names no capability; "none" keeps none of them, "all" keeps all')
    return check_caps(names)


def check_tty(value: object) -> tuple[int, int] | None:
    """Rows and columns of a terminal, None for none.

    :raises PowerError: when there cannot be such a window.
    """
    if value is None or value is False:
        return None
    if value is True:
        return _WINDOW
    if (
        not isinstance(value, tuple | list)
        or len(value) != 2
        or not all(type(number) is int and 0 < number <= _MOST_CELLS for number in value)
    ):
        raise PowerError(f"takes a bool or (rows, columns), each from 1 to {_MOST_CELLS}")
    return value[0], value[1]


def check_devices(value: object) -> tuple[str, ...]:
    """Names of nodes below ``/dev``, with or without it; those that are always there left out.

    :raises PowerError: when they cannot be devices, here or anywhere.
    """
    found = set()
    for name in _names(value, 'names below /dev, as "fuse" or "net/tun"'):
        plain = name.removeprefix("/dev/")
        parts = plain.split("/")
        if plain.startswith("/") or "\0" in plain or {"", ".", ".."} & set(parts):
            raise PowerError(f'takes names below /dev, as "fuse" or "net/tun", not {short(name)}')
        if parts[0] in devices.OWN:
            raise PowerError(f"cannot name {short(name)}: every test has a {parts[0]} of its own")
        path = f"/dev/{plain}"
        if os.path.exists(path) and not devices.is_device(path):
            raise PowerError(f"names devices, and {path} is none on this machine")
        found.add(plain)
    return tuple(sorted(found.difference(devices.HARMLESS)))


def mask(names: frozenset[str]) -> int:
    """As the kernel counts them."""
    return sum(1 << CAPABILITY_NAMES.index(name) for name in names)


def _names(value: object, what: str) -> tuple[str, ...]:
    # A lone string is one name, not a list of letters.
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, tuple | list | set | frozenset) or not all(
        isinstance(name, str) and name for name in names
    ):
        raise PowerError(f"takes {what}")
    return tuple(names)
