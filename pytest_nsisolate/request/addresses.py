# SPDX-License-Identifier: MIT
"""Addresses that the loopback device of a test has besides its own."""

from __future__ import annotations

from ipaddress import ip_interface


class AddressError(Exception):
    """A value is not allowed; the argument is the rest of the sentence."""


def check_addresses(value: object) -> tuple[str, ...]:
    """One address or several, ``"10.53.0.1/32"``; without a length it is the address alone.

    :returns: each with its length, in the order given.
    :raises AddressError: for what is no address, or stands there twice.
    """
    named = (value,) if isinstance(value, str) else value
    if not isinstance(named, tuple | list | set | frozenset) or not all(
        isinstance(name, str) for name in named
    ):
        raise AddressError('takes addresses like "10.53.0.1/32"')
    found: list[str] = []
    for name in named:
        try:
            address = ip_interface(name)
        except ValueError:
            raise AddressError(f'takes addresses like "10.53.0.1/32", not {name!r}') from None
        if address.ip in {ip_interface(other).ip for other in found}:
            raise AddressError(f"has {address.ip} twice")
        found.append(str(address))
    return tuple(found)
