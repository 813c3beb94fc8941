# SPDX-License-Identifier: MIT
"""``python -m pytest_nsisolate doctor`` and ``--nsisolate-doctor``: what this host gives.

One child tries the processes alone, one for each namespace tries all that makes it usable, and a
last one tries everything together, because some limits and masks show themselves only then. A
refusal is put into the row of its step; the steps after it were not tried, and the report says so
instead of guessing.

What ``pid1.fail``, ``tty=``, ``reach=``, ``user="range"`` and ``limits=`` would use is tried too.
It is no part of a default request, and most machines refuse an ordinary user one half of the
limits, so it does not count for the exit status.
"""

from __future__ import annotations

import argparse
import importlib.resources
import sys
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Final

from pytest_nsisolate.child.helper_channel import or_refuse
from pytest_nsisolate.cli.doctor_report import NOT_TRIED, WITHOUT_USER, WORKS, Line, Report
from pytest_nsisolate.errors import FaultRefusal
from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.kernel import readonly, seccomp
from pytest_nsisolate.kernel.namespaces import NAMESPACES
from pytest_nsisolate.kernel.originals import re
from pytest_nsisolate.process.host_check import HostCheck, Opening, Verdict
from pytest_nsisolate.process.launcher import Launcher
from pytest_nsisolate.process.plan import Fixed, current_directory
from pytest_nsisolate.request.model import UserMode
from pytest_nsisolate.view.fault_engine import Engine
from pytest_nsisolate.wire.frames import FrameWriter

_DEV: Final = "mount /dev"
_PROTECT: Final = "make /proc/sys read-only"

#: What is shown for each namespace: the steps that users depend on, in the order of the machinery.
_STEPS: Final[dict[str, tuple[str, ...]]] = {
    "user": ("unshare(CLONE_NEWUSER)", "write uid_map"),
    "mount": ("unshare(CLONE_NEWNS)", "make / private", _DEV, _PROTECT),
    "pid": ("unshare(CLONE_NEWPID)", "mount proc"),
    "net": ("unshare(CLONE_NEWNET)", "mount sysfs", "set lo up"),
    "uts": ("unshare(CLONE_NEWUTS)", "sethostname"),
    "ipc": ("unshare(CLONE_NEWIPC)", "mount /dev/shm", "mount /dev/mqueue"),
    "cgroup": ("unshare(CLONE_NEWCGROUP)",),
    "time": ("unshare(CLONE_NEWTIME)", "write timens_offsets"),
}

#: What is not shown unless it fails, and the step before which it comes.
_BEFORE: Final = (
    (r"\w+ (/dev(?!/shm|/mqueue)|devpts)", _PROTECT),
    (r"(bind|make) /", _PROTECT),
    (r"(keep|move|make) ", "set lo up"),
)

#: These are only usable with mounts of their own.
_NEED_MOUNT: Final = frozenset({"pid", "net", "ipc"})

#: Any that an ordinary user may open; nothing has to listen there.
_REACHED: Final = ("tcp:127.0.0.1:8080",)

_TERMINAL: Final = "take a terminal"
_FORWARDER: Final = "start the forwarder"

_RANGE: Final = "newuidmap, newgidmap"

_LIMITS: Final = ("write pid_max", "mkdir and join a cgroup")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command ``doctor``."""
    parser.add_argument(
        "--json", action="store_true", help="for machines: one JSON object, see the reference"
    )
    parser.add_argument(
        "--schema", action="store_true", help="only print the JSON schema of what --json prints"
    )


def main(arguments: argparse.Namespace) -> int:
    """Run the command; the exit status is 0 if everything works and 1 if not."""
    if arguments.schema:
        sys.stdout.write(schema())
        return 0
    report = consult()
    sys.stdout.write(f"{report.as_json() if arguments.json else report}\n")
    return report.status


def schema() -> str:
    """The JSON schema of the report for machines, a file of this package."""
    return (importlib.resources.files(__package__) / "doctor.schema.json").read_text("utf-8")


def doctor(launcher: Launcher | None = None) -> tuple[str, int]:
    """Try everything and report it.

    :param launcher: what launches the attempts; made here if it is None.
    :returns: the report, and 0 if every step worked or 1 if one was refused.
    """
    report = consult(launcher)
    return str(report), report.status


def consult(launcher: Launcher | None = None) -> Report:
    """Try everything.

    :param launcher: as for :func:`doctor`; closed afterwards.
    """
    launcher = launcher or Launcher(Fixed((current_directory(),)))
    try:
        lines = _examine_all(launcher)
        if launcher.host.linux and not _protects_proc():
            lines = (line for line in lines if line.call != _PROTECT)
        return Report(launcher.host, tuple(lines))
    finally:
        launcher.close()


def _protects_proc() -> bool:
    try:
        return readonly.may_write_the_hosts()
    except OSError:
        return True


def _examine_all(launcher: Launcher) -> Iterator[Line]:
    check, privileged = launcher.check, launcher.host.privileged
    processes = check.probe(frozenset(), "none", frozenset()).refusal
    if processes is not None:
        yield Line("", processes.step, processes.errno_name, processes)
        return
    yield Line("", "fork, pidfd_open, prctl", WORKS)
    own_user = check.probe(frozenset({"user"}), "map", frozenset({"user"}))
    yield from _rows("user", _STEPS["user"], own_user.refusal)
    refused = set() if own_user.ok or privileged else {"user"}
    with_user = frozenset({"user"} if own_user.ok else ())
    mode: UserMode = "map" if own_user.ok else "none"
    verdicts: dict[str, Verdict] = {}
    for namespace in list(_STEPS)[1:]:
        steps = _STEPS[namespace]
        if privileged and not own_user.ok:
            steps = tuple(call for call in steps if call != _DEV)  # as with user=False
        needs = refused & {"user", "mount" if namespace in _NEED_MOUNT else "user"}
        if needs:
            result = f"needs {' and '.join(sorted(needs))}"
            yield from (Line(namespace, call, result) for call in steps)
            continue
        wanted = with_user | {namespace, "mount" if namespace in _NEED_MOUNT else namespace}
        verdict = verdicts[namespace] = check.probe(wanted, mode, wanted - {"user"})
        if not verdict.ok:
            refused.add(namespace)
        refusal = verdict.refusal or verdict.user_refusal
        yield from _rows(namespace, steps, refusal, verdict.leave_out_user)
    yield _together(check.probe(frozenset(NAMESPACES), "map", frozenset()))
    yield from _try_openings(check, verdicts, own_user=own_user.ok)
    if own_user.ok and not privileged:
        yield _optional("range", _RANGE, _try_range(check))
    if missing := _missing({"pid"}, verdicts):
        yield Line("limits", _LIMITS[0], missing, optional=True)
    else:
        limit = check.try_limit(*_way({"mount", "pid"}, verdicts, own_user=own_user.ok))
        yield _optional("limits", _LIMITS[0], limit)
    yield _cgroups(check)


def _rows(
    namespace: str,
    steps: tuple[str, ...],
    refusal: Refusal | None,
    works_without_user: bool = False,
) -> Iterator[Line]:
    """The steps of one namespace: those before the refused one worked, those after are unknown.

    :param works_without_user: it was tried again without a user namespace, and all of them worked.
    """
    if refusal is None:
        yield from (Line(namespace, call, WORKS) for call in steps)
        return
    worked = _place(refusal.step, steps)
    yield from (Line(namespace, call, WORKS) for call in steps[:worked])
    said = WITHOUT_USER if works_without_user else refusal.errno_name
    yield Line(namespace, refusal.step, said, refusal)
    rest = [call for call in steps[worked:] if call != refusal.step]
    yield from (
        Line(namespace, call, WITHOUT_USER if works_without_user else NOT_TRIED) for call in rest
    )


def _place(step: str, steps: tuple[str, ...]) -> int:
    """How many of these steps came before this one, which need not be one of them."""
    verb = step.partition(" ")[0]
    for position, shown in enumerate(steps):
        if step == shown or (verb == "write" and shown.startswith(verb)):
            return position
    for pattern, shown in _BEFORE:
        if shown in steps and re.match(pattern, step):
            return steps.index(shown)
    return 0 if verb.startswith(("unshare", "start", "fork", "clone")) else 1


def _together(verdict: Verdict) -> Line:
    if verdict.refusal is not None:
        return Line("all", verdict.refusal.step, verdict.refusal.errno_name, verdict.refusal)
    if verdict.leave_out_user:
        return Line("all", "everything at once", WITHOUT_USER, verdict.user_refusal)
    return Line("all", "everything at once", WORKS)


def _try_openings(
    check: HostCheck, verdicts: Mapping[str, Verdict], *, own_user: bool
) -> Iterator[Line]:
    """``pid1.fail``, ``tty=``, ``reach=``: a child goes their whole way, with a process outside."""
    filter_: Opening = partial(or_refuse, _begin_faults)
    from pytest_nsisolate.child import own_terminal, reach  # Linux alone has all that they need

    terminal: Opening = partial(or_refuse, own_terminal.open_up)
    forwarder: Opening = partial(or_refuse, partial(reach.open_up, _REACHED))
    for keyword, call, needed, open_up, reached in (
        ("faults", seccomp.STEP, set(), filter_, ()),
        ("tty", _TERMINAL, {"mount"}, terminal, ()),
        ("reach", _FORWARDER, {"mount", "net"}, forwarder, _REACHED),
    ):
        if missing := _missing(needed, verdicts):
            yield Line(keyword, call, missing, optional=True)
            continue
        way = _way(needed, verdicts, own_user=own_user)
        yield _optional(keyword, call, check.try_opening(*way, open_up, reached))


def _begin_faults(writer: FrameWriter) -> None:
    try:
        Engine(writer).begin()
    except FaultRefusal as refusal:
        raise refusal.step from None


def _missing(needed: Collection[str], verdicts: Mapping[str, Verdict]) -> str:
    """What is said of a step that needs these namespaces; empty if they are granted."""
    wanting = [name for name in needed if name not in verdicts or not verdicts[name].ok]
    return f"needs {' and '.join(sorted(wanting))}" if wanting else ""


def _way(
    needed: Collection[str], verdicts: Mapping[str, Verdict], *, own_user: bool
) -> tuple[frozenset[str], UserMode]:
    """How these namespaces can be had together."""
    if not own_user or any(verdicts[name].leave_out_user for name in needed):
        return frozenset(needed), "none"
    return frozenset({"user", *needed}), "map"


def _try_range(check: HostCheck) -> Refusal | None:
    """``user="range"``: without it, root has all ids anyway."""
    return check.probe(frozenset({"user"}), "range", frozenset({"user"})).refusal


def _optional(about: str, call: str, refusal: Refusal | None) -> Line:
    if refusal is None:
        return Line(about, call, WORKS, optional=True)
    return Line(about, refusal.step, refusal.errno_name, refusal, optional=True)


def _cgroups(check: HostCheck) -> Line:
    usable, refusal = check.try_cgroups()
    if usable:
        found = ", ".join(f"{place.controller} (v{place.version})" for place in usable)
        return Line("limits", _LIMITS[1], f"{WORKS}: {found}", optional=True)
    return _optional("limits", _LIMITS[1], refusal)
