# SPDX-License-Identifier: MIT
"""Who a process is and what it may do: id maps, capabilities, filters, limits, cgroup, clocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from pytest_nsisolate.kernel import proc
from pytest_nsisolate.kernel.originals import open, os, resource, time
from pytest_nsisolate.kernel.process import CAPABILITY_NAMES
from pytest_nsisolate.request.model import TimeOffsets
from pytest_nsisolate.view.mapping import ReadOnlyMapping

_SECCOMP: Final = {"0": "disabled", "1": "strict", "2": "filter"}

#: A set of capabilities is a word of so many bits (capabilities(7)).
_BITS: Final = 64


_EXEC_TRIES: Final = 5
_EXEC_PAUSE: Final = 0.001


class IdExtent(NamedTuple):
    """A row of an id map (user_namespaces(7)).

    :param inside: the first id here.
    :param outside: the one that it stands for, in the user namespace around this one.
    :param size: how many.
    """

    inside: int
    outside: int
    size: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The five sets of a process, as names like ``CAP_NET_ADMIN`` (capabilities(7)).

    One that this plugin has no name for is ``CAP_`` and its number.
    """

    effective: frozenset[str]
    permitted: frozenset[str]
    inheritable: frozenset[str]
    bounding: frozenset[str]
    ambient: frozenset[str]


@dataclass(frozen=True, slots=True)
class Limit:
    """A resource limit (getrlimit(2)); None is unlimited."""

    soft: int | None
    hard: int | None


def capability_name(text: str) -> str:
    """A name as in :class:`Capabilities`: ``net_admin`` is ``CAP_NET_ADMIN``.

    :raises ValueError: for a name that is no capability, and the number of one that has a name.
    """
    name = text.upper()
    name = name if name.startswith("CAP_") else f"CAP_{name}"
    if name in CAPABILITY_NAMES:
        return name
    number = int(name[4:]) if name[4:].isdecimal() else _BITS
    if number >= _BITS:
        raise ValueError(f"{text!r} is no capability")
    if number < len(CAPABILITY_NAMES):
        # No set has it by its number, so it would be missing from each.
        raise ValueError(f"{text!r} is written {CAPABILITY_NAMES[number]!r}")
    return f"CAP_{number}"


def read_extents(path: str) -> tuple[IdExtent, ...]:
    """The rows of an id map."""
    with open(path, "rb") as file:
        return tuple(map(IdExtent._make, proc.id_map(file.read())))


def read_status(pid: int | str = "self") -> dict[str, str]:
    """The fields of ``/proc/PID/status``.

    :raises OSError: if there is no such process.
    """
    with open(f"/proc/{pid}/status", "rb") as file:
        return proc.status(file.read())


def read_capabilities(pid: int | str = "self") -> Capabilities:
    """What a process may do.

    :raises OSError: if there is no such process.
    """
    status = read_status(pid)
    return Capabilities(
        effective=_names(status["CapEff"]),
        permitted=_names(status["CapPrm"]),
        inheritable=_names(status["CapInh"]),
        bounding=_names(status["CapBnd"]),
        ambient=_names(status["CapAmb"]),
    )


def _names(mask: str) -> frozenset[str]:
    bits = int(mask, 16)
    return frozenset(
        CAPABILITY_NAMES[bit] if bit < len(CAPABILITY_NAMES) else f"CAP_{bit}"
        for bit in range(bits.bit_length())
        if bits >> bit & 1
    )


def read_seccomp() -> str:
    """``disabled``, ``strict`` or ``filter`` (seccomp(2))."""
    mode = read_status().get("Seccomp", "0")
    return _SECCOMP.get(mode, mode)


def read_no_new_privs() -> bool:
    """PR_SET_NO_NEW_PRIVS(2const)."""
    return read_status().get("NoNewPrivs") == "1"


def read_limits() -> Mapping[str, Limit]:
    """By the names of prlimit(1): ``nofile``, ``nproc``, ``core``..."""

    found = {}
    for name, number in vars(resource).items():
        if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE":  # BSD's name of NOFILE
            soft, hard = (
                None if limit == resource.RLIM_INFINITY else limit
                for limit in resource.getrlimit(number)
            )
            found[name.removeprefix("RLIMIT_").lower()] = Limit(soft, hard)
    return ReadOnlyMapping(dict(sorted(found.items())))


def read_cgroups() -> Mapping[str, str]:
    """Hierarchy to path (cgroups(7)): ``""`` is version 2; version 1 by its controllers."""
    with open("/proc/self/cgroup", "rb") as file:
        return ReadOnlyMapping(dict(proc.cgroups(file.read())))


def read_clock_offsets() -> TimeOffsets:
    """Seconds added to the clocks (time_namespaces(7)); zeros without a time namespace."""
    found = {"monotonic": 0.0, "boottime": 0.0}
    try:
        with open("/proc/self/timens_offsets", encoding="utf-8") as file:
            for line in file:
                clock, seconds, nanoseconds = line.split()
                found[clock] = int(seconds) + int(nanoseconds) / 1e9
    except FileNotFoundError:  # a kernel without time namespaces
        pass
    return TimeOffsets(monotonic=found["monotonic"], boottime=found["boottime"])


def read_environment(pid: int) -> Mapping[str, str]:
    """What a process was started with (``/proc/PID/environ``).

    :raises OSError: if there is no such process, or it is another user's, or if ``/proc`` is not
        that of this PID namespace.
    """
    proc.check_own()
    text = b""
    for _ in range(_EXEC_TRIES):
        # No text mode: it would make one newline of a carriage return.
        with open(f"/proc/{pid}/environ", "rb") as file:
            text = file.read()
        if text:
            break
        # It may be in the middle of an exec, as in processes.py; or it has none.
        time.sleep(_EXEC_PAUSE)
    pairs = (entry.partition("=") for entry in os.fsdecode(text).split("\0") if entry)
    return ReadOnlyMapping({name: value for name, _, value in pairs})
