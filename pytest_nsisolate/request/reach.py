# SPDX-License-Identifier: MIT
"""What ``reach=`` may say: sockets of the runner's host that a test reaches at the same address."""

from __future__ import annotations

from ipaddress import ip_address

from pytest_nsisolate.request.wording import short

#: More are a mistake; each is a descriptor on its way to the forwarder.
_MOST = 64
#: ``sun_path`` without its zero byte, unix(7).
_NAME_BYTES = 107


class ReachError(ValueError):
    """The rest of a sentence that begins with the keyword."""


def check(value: object) -> tuple[str, ...]:
    """Addresses in one spelling: ``tcp:127.0.0.1:5432``, ``udp:[::1]:53``, ``unix:@name``.

    :raises ReachError: for what is none, or cannot be reached.
    """
    given = [value] if isinstance(value, int | str) and not isinstance(value, bool) else value
    if not isinstance(given, list | tuple | set | frozenset) or not given:
        raise ReachError('takes ports and addresses, [8080, "127.0.0.1:5432"]')
    found = sorted({_address(entry) for entry in given})
    if len(found) > _MOST:
        raise ReachError(f"takes at most {_MOST} addresses, these are {len(found)}")
    return tuple(found)


def _address(entry: object) -> str:
    if isinstance(entry, int) and not isinstance(entry, bool):
        return f"tcp:127.0.0.1:{_port(entry)}"
    if not isinstance(entry, str) or not entry:
        raise ReachError(f"takes ports and addresses as text, not {short(entry)}")
    named, entry = entry.startswith("unix:"), entry.removeprefix("unix:")
    if entry.startswith("@"):
        if not 1 < len(entry.encode(errors="surrogateescape")) <= _NAME_BYTES or "\0" in entry:
            raise ReachError(f"takes names of 1 to {_NAME_BYTES - 1} bytes behind the @")
        return f"unix:{entry}"
    if entry.startswith("/"):
        raise ReachError(
            f"is not for {entry!r}: a Unix socket with a path is a file, and reached without it"
        )
    if named:
        raise ReachError(f"takes unix:@NAME, not {short('unix:' + entry)}")
    kind, rest = "tcp", entry
    for prefix in ("tcp:", "udp:"):
        if entry.startswith(prefix):
            kind, rest = prefix.rstrip(":"), entry.removeprefix(prefix)
    host, _, port = rest.rpartition(":")
    if not port.isdecimal() or len(port) > 5:
        raise ReachError(f"takes HOST:PORT, not {short(entry)}")
    return f"{kind}:{_host(host)}:{_port(int(port))}"


def _host(host: str) -> str:
    if not host:
        return "127.0.0.1"
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        guess = ": say 127.0.0.1 or [::1]" if host == "localhost" else ""
        raise ReachError(f"takes addresses, not the name {host!r}{guess}") from None
    if not address.is_loopback:
        raise ReachError(f"takes addresses of the loopback, and {address} is none")
    return f"[{address}]" if address.version == 6 else str(address)


def _port(port: int) -> int:
    if not 0 < port < 1 << 16:
        raise ReachError(f"takes ports from 1 to 65535, not {port}")
    return port
