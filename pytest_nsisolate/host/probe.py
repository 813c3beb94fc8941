# SPDX-License-Identifier: MIT
"""What this host gives: a throw-away child tries it for real.

Fact: whether a namespace can be had, and used, is only known after the call. A sysctl may say yes
and a filter no; Ubuntu's AppArmor grants the user namespace and refuses the id map; a container
grants both and refuses ``/proc``.

Consequence: before the first isolated test of each kind a child goes the machinery's whole way
(user namespace, id map, one ``unshare`` per type, PID 1, mounts, lo, hostname, offsets) and reports
the first step that failed. It has ten seconds for that and is killed then, whatever it does.
It costs about 5 ms, once per kind and run.

Where the user namespace was only implied and the runner has the capabilities to do without it, a
refused request is tried again without. That also answers a container with CAP_SYS_ADMIN and a
masked ``/proc``: there the user namespace stands, but only without it ``/proc`` can be mounted.

What still fails: a limit that is reached later (max_net_namespaces, pids.max) is not foreseen; the
launch itself reports that, by the same table.
"""

from __future__ import annotations

import errno
import re
import sys
from dataclasses import dataclass
from errno import errorcode

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.host import Host
from pytest_nsisolate.remedies import explain
from pytest_nsisolate.remedies.table import UserMode

if sys.platform == "linux":  # nowhere else it can be imported, or is called
    from pytest_nsisolate.host.trial import attempt

#: Not for ever: descriptors, processes or memory were short.
_TRANSIENT = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The first step that this host denies, and what to do about it.

    :param step: the call, as in :class:`~pytest_nsisolate.errors.StepError`.
    :param namespace: the namespace that it serves, or None.
    :param errno: its error number (errno(3)).
    :param detail: a path or a sentence that narrows it down; may be empty.
    """

    step: str
    namespace: str | None
    errno: int
    cause: str
    remedy: str
    detail: str = ""

    @property
    def errno_name(self) -> str:
        """The symbol of the error number, ``"EPERM"``."""
        return errorcode.get(self.errno, str(self.errno))

    def headline(self) -> str:
        """The step, the namespace and the error number, in one line."""
        return str(StepError(self.step, self.namespace, self.errno, self.detail))

    def __str__(self) -> str:
        return f"{self.headline()}\n  cause: {self.cause}\n  remedy: {self.remedy}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request can be had here.

    :param refusal: why not; None if it can.
    :param user_refusal: why it can be had without its user namespace only; None otherwise.
    """

    refusal: Refusal | None = None
    user_refusal: Refusal | None = None

    @property
    def ok(self) -> bool:
        """Every step worked, if need be without the user namespace."""
        return self.refusal is None

    @property
    def leave_out_user(self) -> bool:
        """Run without the user namespace, which was only implied and is refused."""
        return self.ok and self.user_refusal is not None


class HostCheck:
    """The verdicts of one run: each kind of request is tried once.

    :param host: the runner's standing, from :func:`pytest_nsisolate.host.examine`.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self._verdicts: dict[tuple[frozenset[str], UserMode, bool], Verdict] = {}
        self._notes: dict[str, None] = {}

    def probe(self, namespaces: frozenset[str], user: UserMode, named: frozenset[str]) -> Verdict:
        """The verdict on a request; forks for the first one of its kind (:func:`probe`)."""
        kind = (namespaces, user, "user" in named)
        verdict = self._verdicts.get(kind)
        if verdict is None or _may_pass(verdict):
            verdict = self._verdicts[kind] = probe(namespaces, user, named, self.host)
            refusal = verdict.user_refusal
            if refusal is not None:
                note = f"nsisolate: without user: {refusal.headline()}: {refusal.cause}"
                self._notes[note] = None
        return verdict

    def try_limit(self, namespaces: frozenset[str], user: UserMode) -> Refusal | None:
        """Whether a PID namespace of its own can have a limit of processes; forks each time."""
        return _try(namespaces, user, self.host, True)

    def explain(self, error: StepError) -> Refusal:
        """A step that the runner itself has tried."""
        return _refusal(error, None, "none", self.host)

    def notes(self) -> tuple[str, ...]:
        """What no report says: why tests ran without their user namespace; one line each."""
        return tuple(self._notes)


def _may_pass(verdict: Verdict) -> bool:
    """Refused for want of something that the next test may have: asked again then."""
    refusal = verdict.refusal or verdict.user_refusal
    return refusal is not None and refusal.errno in _TRANSIENT


def probe(namespaces: frozenset[str], user: UserMode, named: frozenset[str], host: Host) -> Verdict:
    """Try a request in a throw-away child, at most :data:`SECONDS` long.

    The runner keeps no descriptor, no child and no changed signal from it.

    :param namespaces: what the request enters, ``"user"`` included.
    :param user: how it wants its user namespace.
    :param named: what the marker named; a user namespace named there is never left out.
    """
    refusal = _try(namespaces, user, host)
    if refusal is None or not _may_leave_out_user(refusal, user, named, host):
        return Verdict(refusal)
    if _try(namespaces - {"user"}, "none", host) is None:
        return Verdict(user_refusal=refusal)
    return Verdict(refusal)


def _may_leave_out_user(
    refusal: Refusal, user: UserMode, named: frozenset[str], host: Host
) -> bool:
    """The user namespace is refused, or takes away a right that the runner has without it."""
    if user == "none" or "user" in named or not host.privileged:
        return False
    if refusal.step == "drop capabilities":
        return False
    return refusal.namespace == "user" or refusal.errno in (errno.EPERM, errno.EACCES)


def _try(namespaces: frozenset[str], user: UserMode, host: Host, *limit: bool) -> Refusal | None:
    if not host.linux:
        return _refusal(StepError("clone", None, errno.ENOSYS), None, user, host)
    denial = attempt(namespaces, user, host, *limit)
    return None if denial is None else _refusal(*denial, user, host)


def _refusal(error: StepError, filtered: bool | None, user: UserMode, host: Host) -> Refusal:
    cause, remedy = explain(
        error.step, error.namespace, error.errno, host, user=user, filtered=filtered
    )
    detail = re.sub(r"^/proc/\d+/", "/proc/PID/", error.detail)
    return Refusal(error.step, error.namespace, error.errno, cause, remedy, detail)
