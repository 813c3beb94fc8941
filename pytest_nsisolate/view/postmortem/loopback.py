# SPDX-License-Identifier: MIT
"""A network in which nothing was changed, in one line.

Fact: what asks the kernel over netlink takes more than a tenth of a second to import, in each test
that fails, and most tests leave their network as it was.
Consequence: a network that has the loopback device only, with its own addresses and no route, is
told from files of ``/proc/net`` (proc_pid_net(5)). Any other is left to the view.
"""

from __future__ import annotations

from typing import Final

from pytest_nsisolate.kernel.originals import re
from pytest_nsisolate.view.postmortem.proc_net import interfaces, lines, own_version_4

_TABLE: Final = re.compile(r"^(\S.*):$", re.MULTILINE)
_TABLES: Final = frozenset({"Main", "Local"})

_LOCALHOST6: Final = "00000000000000000000000000000001"


def only(folder: str) -> str:
    """The line; empty if there is more to tell, or if it cannot be known so.

    :param folder: ``/proc/PID/net``.
    """
    try:
        devices = interfaces(folder)
        if devices.keys() != {"lo"} or devices["lo"] is None or len(lines(folder, "route")) > 1:
            return ""
        addresses = _version_4(folder) + _version_6(folder)
    except (OSError, LookupError, ValueError):
        return ""
    state = "up" if devices["lo"] else "down"
    return f"network: lo only ({', '.join([state, *addresses])}), no routes"


def _version_4(folder: str) -> list[str]:
    """
    :raises LookupError: for other addresses than the kernel gives it, or another table.
    """
    own = own_version_4(folder)
    tables = _TABLE.findall("\n".join(lines(folder, "fib_trie")))
    if {*own} - {"127.0.0.1"} or {*tables} - _TABLES:
        raise LookupError
    return ["127.0.0.1/8"] if own else []


def _version_6(folder: str) -> list[str]:
    """
    :raises LookupError: for other addresses than the kernel gives it, or another route.
    """
    own = [line.split()[0] for line in lines(folder, "if_inet6")]
    routes = [line.split() for line in lines(folder, "ipv6_route")]
    known = {(_LOCALHOST6, "80"), ("0" * 32, "00")}  # the address's own, and "no route to it"
    if {*own} - {_LOCALHOST6} or {(row[0], row[1]) for row in routes} - known:
        raise LookupError
    return ["::1/128"] if own else []
