# SPDX-License-Identifier: MIT
"""Refusals of what a marker grants or takes away: devices, capabilities, keys."""

from __future__ import annotations

from errno import EDQUOT, ENOENT, ENOTBLK, EPERM
from typing import Final

from pytest_nsisolate.host.remedies.table import Row, always

GRANTS: Final = (
    Row(
        "find /dev/",
        (ENOENT,),
        always,
        "this host has no such device, or the container that pytest runs in was not given it",
        "load its driver (modprobe kvm, tun, fuse ...); in a container: docker run --device PATH;"
        " or leave it out of devices=",
    ),
    Row(
        "find /dev/",
        (ENOTBLK,),
        always,
        "there is such a path on this host, but it leads to no device",
        "name nodes, not directories, in devices=",
    ),
    Row(
        "drop capabilities",
        (EPERM,),
        always,
        "what programs may gain (the bounding set) is only limited by who holds CAP_SETPCAP",
        "let the test have a user namespace (no user=False), or docker run --cap-add SETPCAP",
    ),
    Row(
        "join a new session keyring",
        (EDQUOT,),
        always,
        "uid {euid} has as many keys as the kernel allows it",
        "sysctl -w kernel.keys.maxkeys=2000, or end what holds them (/proc/key-users counts them)",
    ),
)
