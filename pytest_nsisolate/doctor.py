# SPDX-License-Identifier: MIT
"""The report for people: what this host gives, what it refuses, why, and what to type.

One child tries the processes alone, one each namespace with all that makes it usable, and a last
one everything together, because limits and masks show themselves only in company. A refusal is
put into the row of its step; what would come after it was not tried, and the report says so
instead of guessing.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pytest_nsisolate import facts
from pytest_nsisolate.host import SECCOMP_FILTER, Host, examine
from pytest_nsisolate.kernel.namespaces import NAMESPACES
from pytest_nsisolate.probe import HostCheck, Refusal, Verdict
from pytest_nsisolate.remedies.table import UserMode

#: What is shown for each namespace: the steps that users depend on, in the order of the machinery.
_STEPS: Final[dict[str, tuple[str, ...]]] = {
    "user": ("unshare(CLONE_NEWUSER)", "write uid_map"),
    "mount": ("unshare(CLONE_NEWNS)", "make / private", "make /proc/sys read-only"),
    "pid": ("unshare(CLONE_NEWPID)", "mount proc"),
    "net": ("unshare(CLONE_NEWNET)", "mount sysfs", "set lo up"),
    "uts": ("unshare(CLONE_NEWUTS)", "sethostname"),
    "ipc": ("unshare(CLONE_NEWIPC)", "mount /dev/shm", "mount /dev/mqueue"),
    "cgroup": ("unshare(CLONE_NEWCGROUP)",),
    "time": ("unshare(CLONE_NEWTIME)", "write timens_offsets"),
}

#: These are only usable with mounts of their own.
_NEED_MOUNT: Final = frozenset({"pid", "net", "ipc"})

_WORKS, _NOT_TRIED = "ok", "not tried"


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table; the refusal is set where the step failed."""

    namespace: str
    call: str
    result: str
    refusal: Refusal | None = None


def doctor(host: Host | None = None) -> tuple[str, int]:
    """Try everything and report it.

    :param host: the runner's standing; looked at now if it is None.
    :returns: the report, and 0 if every step worked or 1 if one was refused.
    """
    host = examine() if host is None else host
    lines = list(_examine_all(HostCheck(host)))
    refused = [line for line in lines if line.result != _WORKS]
    ending = "Everything works." if not refused else "Not everything works here."
    text = "\n".join((*_describe(host), "", *_table(lines), "", *_explain(lines), ending))
    return text, 1 if refused else 0


def _examine_all(check: HostCheck) -> Iterator[Line]:
    processes = check.probe(frozenset(), "none", frozenset()).refusal
    if processes is not None:
        yield Line("", processes.step, processes.errno_name, processes)
        return
    yield Line("", "fork, pidfd_open, prctl", _WORKS)
    own_user = check.probe(frozenset({"user"}), "map", frozenset({"user"}))
    yield from _rows("user", own_user.refusal)
    refused = set() if own_user.ok or check.host.privileged else {"user"}
    with_user = frozenset({"user"} if own_user.ok else ())
    mode: UserMode = "map" if own_user.ok else "none"
    for namespace in list(_STEPS)[1:]:
        needs = refused & {"user", "mount" if namespace in _NEED_MOUNT else "user"}
        if needs:
            result = f"needs {' and '.join(sorted(needs))}"
            yield from (Line(namespace, call, result) for call in _STEPS[namespace])
            continue
        wanted = with_user | {namespace, "mount" if namespace in _NEED_MOUNT else namespace}
        refusal = check.probe(wanted, mode, wanted).refusal
        if refusal is not None:
            refused.add(namespace)
        yield from _rows(namespace, refusal)
    yield _together(check.probe(frozenset(NAMESPACES), "map", frozenset()))


def _rows(namespace: str, refusal: Refusal | None) -> Iterator[Line]:
    """The steps of one namespace: those before the refused one worked, those after are unknown."""
    steps = _STEPS[namespace]
    if refusal is None:
        yield from (Line(namespace, call, _WORKS) for call in steps)
        return
    worked = _place(refusal.step, steps)
    yield from (Line(namespace, call, _WORKS) for call in steps[:worked])
    yield Line(namespace, refusal.step, refusal.errno_name, refusal)
    rest = [call for call in steps[worked:] if call != refusal.step]
    yield from (Line(namespace, call, _NOT_TRIED) for call in rest)


def _place(step: str, steps: tuple[str, ...]) -> int:
    """How many of these steps came before this one, which need not be one of them."""
    verb = step.partition(" ")[0]
    for position, shown in enumerate(steps):
        if step == shown or (verb == "write" and shown.startswith(verb)):
            return position
    return 0 if verb.startswith(("unshare", "start", "fork", "clone")) else 1


def _together(verdict: Verdict) -> Line:
    if verdict.refusal is not None:
        return Line("all", verdict.refusal.step, verdict.refusal.errno_name, verdict.refusal)
    if verdict.leave_out_user:
        return Line("all", "everything at once", "only without user", verdict.user_refusal)
    return Line("all", "everything at once", _WORKS)


def _describe(host: Host) -> Iterator[str]:
    yield "pytest-nsisolate doctor"
    kernel = "{}.{}".format(*host.kernel)
    system = f"Linux {kernel}" if host.linux else platform.system()
    yield f"{system}, Python {platform.python_version()}, uid {host.euid}, mode {host.mode}"
    if host.seccomp == SECCOMP_FILTER:
        yield "a seccomp filter is on"
    label = facts.security_label()
    if label:
        yield f"security label: {label}"


def _table(lines: list[Line]) -> Iterator[str]:
    head = Line("namespace", "call", "result")
    width = max(len(line.call) for line in (head, *lines))
    for line in (head, *lines):
        yield f"  {line.namespace:<9}  {line.call:<{width}}  {line.result}"


def _explain(lines: list[Line]) -> Iterator[str]:
    """Each cause once, below every refusal that it explains."""
    refusals = dict.fromkeys(line.refusal for line in lines if line.refusal is not None)
    causes = dict.fromkeys((refusal.cause, refusal.remedy) for refusal in refusals)
    for cause, remedy in causes:
        same = [
            refusal for refusal in refusals if (refusal.cause, refusal.remedy) == (cause, remedy)
        ]
        yield from (refusal.headline() for refusal in same)
        yield f"  cause:  {cause}"
        first, *others = remedy.split("; ")
        yield f"  remedy: {first}"
        yield from (f"          {other}" for other in others)
        yield ""
