# SPDX-License-Identifier: MIT
"""Every system call of the machinery is made to fail, and the report says which it was.

Nobody has to keep a list of these calls: an isolated test is run once while ``tests/faults.py``
writes down who makes which call, and then once for each of them, with that call refused. A call
that is new is tried without a word here; :data:`STEPS` says of those that have always been there
what the report must name.

``NSISOLATE_WHOLE=1`` tries every call on every side and way; otherwise two of each name, and all
that :data:`STEPS` tells apart.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import cgroups
from pytest_nsisolate.kernel.namespaces import NAMESPACES
from pytest_nsisolate.process.launcher import Launcher
from pytest_nsisolate.process.plan import Fixed
from pytest_nsisolate.request.limits import Limits, check, merged
from tests import faults
from tests.faults import Case
from tests.hosts import NEEDS_ROOT
from tests.inner_runs import THREADED, Side, run_batch, said, source, suite_folder, verdict
from tests.support import NEEDS_NAMESPACES, Result

pytestmark = [
    NEEDS_NAMESPACES,
    pytest.mark.skipif(not faults.AVAILABLE, reason="the table of calls is of two machines"),
]

WHOLE: Final = os.environ.get("NSISOLATE_WHOLE") == "1"

#: What the tests ask for, so that each step there is taken in one of them.
DEFAULT: Final[dict[str, Any]] = {}
INIT: Final = {"init": True, "hostname": "other", "time": 5.0}
NO_PID: Final = {"pid": False}
SAME: Final = {"user": "same"}
PID_MAX: Final = {"limits": {"processes": 600}}

#: A node that no test has without asking, None where the host has no such either.
DEVICE: Final = next(
    (name for name in ("fuse", "kmsg", "tty0", "console") if Path("/dev", name).exists()), None
)
BOUND: Final[dict[str, Any]] = {
    "limits": {"memory": "1G", "processes": 64, "files": 500},
    "devices": [DEVICE] if DEVICE else [],
    "caps": ["net_admin"],
    "no_new_privs": True,
}
#: Some of the contents are in overlays, and some are bound over a file that is in none.
OVERLAY: Final[dict[str, Any]] = {
    "root": "overlay",
    "root_size": "64M",
    "files": {"/etc/hostname": "x", "/proc/cpuinfo": "x", "/nsi-fault": "x"},
    "hide": ["/usr/bin/env"],
}
READONLY: Final[dict[str, Any]] = {"root": "readonly", "hide": ["/usr/bin/env"]}

IF_WHOLE: Final = pytest.mark.skipif(not WHOLE, reason="with NSISOLATE_WHOLE=1")

SUBMITTING: Final = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import pytest
from tests import faults

def pytest_collection_modifyitems():
    # Before the watcher's first look: its socket is closed by then.
    faults.submit()
"""

CONFTEST: Final = (
    SUBMITTING
    + """
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    name = item.name.partition("[")[2].rstrip("]")
    armed = item.name.startswith("test_fault") and name.isdigit()
    faults.arm(int(name) if armed else faults.OFF)
    try:
        return (yield)
    finally:
        faults.arm(faults.OFF)
"""
)

REFUSED: Final = "isolation refused: "
LOST: Final = "isolated test lost in setup: in the runner "
JOIN: Final = REFUSED + "join the cgroup:"
WRITE_PID_MAX: Final = REFUSED + "write pid_max for the pid namespace:"
DROP: Final = REFUSED + "drop capabilities for the user namespace:"

#: Role, call, a text in its paths: what the report names, or None where there is another way. The
#: first that fits counts.
STEPS: Final = (
    ("runner", "memfd_create", "", REFUSED + "memfd_create:"),
    ("runner", "pipe2", "", REFUSED + "pipe2:"),
    ("runner", "socketpair", "", REFUSED + "socketpair:"),
    ("runner", "getrandom", "", REFUSED + "getrandom:"),
    ("runner", "rt_sigprocmask", "", REFUSED + "sigprocmask:"),
    ("runner", "pidfd_open", "", REFUSED + "pidfd_open:"),
    ("runner", "getcwd", "", REFUSED + "prepare the launch:"),
    ("runner", "fcntl", "", REFUSED + "flush the terminal:"),
    ("runner", "dup2", "", REFUSED + "flush the terminal:"),
    ("runner", "ioctl", "socket:", REFUSED + "take on the child:"),
    ("runner", "openat", "/statm", REFUSED + "prepare the launch:"),
    ("runner", "read", "/statm", REFUSED + "prepare the launch:"),
    # Another mechanism may hold a limit; if none does, the refusal names the limit.
    ("runner", "mkdir", "/pids/nsisolate-", None),
    ("runner", "mkdir", "nsisolate-", None),
    ("runner", "mkdirat", "nsisolate-", None),
    *(
        ("runner", call, name, None)
        for call in ("openat", "read", "write")
        for name in ("cgroup.procs", "memory.", "pids.max", "/cgroup", "mountinfo", "pid_max")
    ),
    *(("runner", call, "/stat", None) for call in ("openat", "read")),  # tells runners apart
    # Python 3.12 and newer count the threads of who forks.
    *(("supervisor", call, "/stat", None) for call in ("openat", "read")),
    *(("runner", call, "/sys/devices/", None) for call in ("openat", "read")),  # of sysconf()
    *(("runner", "ioctl", folder, None) for folder in ("/proc/", "/sys/")),  # of open()
    ("runner", "prlimit64", "RLIMIT_NOFILE", REFUSED + "prepare the launch:"),
    ("runner", "openat", "/proc/self/fd", REFUSED + "prepare the launch:"),
    ("runner", "openat", "uid_map", REFUSED + "write uid_map for the user namespace:"),
    ("runner", "write", "uid_map", REFUSED + "write uid_map for the user namespace:"),
    ("runner", "openat", "gid_map", REFUSED + "write gid_map for the user namespace:"),
    ("runner", "write", "gid_map", REFUSED + "write gid_map for the user namespace:"),
    ("supervisor", "setpgid", "", REFUSED + "setpgid:"),
    ("supervisor", "pidfd_open", "", REFUSED + "pidfd_open:"),
    ("supervisor", "rt_sigaction", "", REFUSED + "sigaction(SIGCHLD):"),
    ("supervisor", "prctl", "SUBREAPER", REFUSED + "prctl(PR_SET_CHILD_SUBREAPER):"),
    ("supervisor", "openat", "setgroups", REFUSED + "write setgroups for the user namespace:"),
    ("supervisor", "write", "setgroups", REFUSED + "write setgroups for the user namespace:"),
    ("supervisor", "openat", "uid_map", REFUSED + "write uid_map for the user namespace:"),
    ("supervisor", "write", "uid_map", REFUSED + "write uid_map for the user namespace:"),
    ("supervisor", "openat", "gid_map", REFUSED + "write gid_map for the user namespace:"),
    ("supervisor", "write", "gid_map", REFUSED + "write gid_map for the user namespace:"),
    ("supervisor", "openat", "timens", REFUSED + "write timens_offsets for the time namespace:"),
    ("supervisor", "write", "timens", REFUSED + "write timens_offsets for the time namespace:"),
    ("supervisor", "write", "socket:", REFUSED + "tell the runner:"),
    ("child", "poll", "", REFUSED + "parent-death check:"),
    ("child", "ppoll", "", REFUSED + "parent-death check:"),
    ("child", "pidfd_open", "", REFUSED + "report to the watchdog:"),
    ("child", "sendmsg", "", REFUSED + "report to the watchdog:"),
    ("child", "setsid", "", REFUSED + "setsid:"),
    ("child", "prctl", "PDEATHSIG", REFUSED + "prctl(PR_SET_PDEATHSIG):"),
    ("child", "prctl", "CAPBSET", DROP),
    ("child", "prctl", "NO_NEW_PRIVS", REFUSED + "prctl(PR_SET_NO_NEW_PRIVS):"),
    *(
        ("child", "prlimit64", name, f"{REFUSED}setrlimit({name}):")
        for name in ("RLIMIT_CORE", "RLIMIT_AS", "RLIMIT_NPROC", "RLIMIT_NOFILE")
    ),
    ("child", "write", "cgroup.procs", JOIN),
    ("child", "openat", "kernel/pid_max", WRITE_PID_MAX),
    ("child", "pread64", "kernel/pid_max", WRITE_PID_MAX),
    ("child", "pwrite64", "kernel/pid_max", WRITE_PID_MAX),
    ("child", "read", "socket:", REFUSED + "wait for the id map for the user namespace:"),
    ("child", "mount", "proc /proc proc", REFUSED + "mount proc for the pid namespace:"),
    ("child", "mount", "sysfs", REFUSED + "mount sysfs for the net namespace:"),
    ("child", "mount", "/proc/sys/net", REFUSED + "bind /proc/sys/net for the mount namespace:"),
    ("child", "mount", f"/dev/{DEVICE} ", f"{REFUSED}bind /dev/{DEVICE} for the mount namespace:"),
    ("child", "mount", "/dev/null ", REFUSED + "bind /dev/null for the mount namespace:"),
    ("child", "mount_setattr", "kernel/pid_max", "read-only for the mount namespace:"),
    ("child", "mount_setattr", "", " for the mount namespace:"),  # to and fro
    ("child", "mkdir", "", REFUSED + "fill /dev for the mount namespace:"),
    ("child", "mkdirat", "", REFUSED + "fill /dev for the mount namespace:"),
    ("child", "mknodat", "", REFUSED + "fill /dev for the mount namespace:"),
    ("child", "symlink", "", REFUSED + "fill /dev for the mount namespace:"),
    ("child", "symlinkat", "", REFUSED + "fill /dev for the mount namespace:"),
    ("child", "socket", "", REFUSED + "set lo up for the net namespace:"),
    ("child", "ioctl", "socket:", REFUSED + "set lo up for the net namespace:"),
    ("child", "sethostname", "", REFUSED + "sethostname for the uts namespace:"),
    ("child", "clone", "", REFUSED + "fork for the pid namespace:"),
    ("child", "capget", "", DROP),
    ("child", "capset", "", DROP),
    ("test", "setsid", "", REFUSED + "setsid:"),
    ("*", "rt_sigprocmask", "", REFUSED + "sigprocmask:"),
    ("*", "dup3", "memfd:", REFUSED + "redirect output:"),
    ("*", "dup2", "memfd:", REFUSED + "redirect output:"),
    ("*", "dup3", "null", REFUSED + "dup2:"),
)

#: Without these there is another way, or nothing is lost.
DISPENSABLE: Final = (
    ("runner", "clone"),  # the supervisor's way says more
    ("runner", "getdents64"),
    ("*", "getrandom"),  # of the interpreter, after a fork
    ("supervisor", "ioctl"),  # of open()
    ("*", "fstat"),  # of open(), in Python 3.14 and newer
)

#: While the runner waits, at the end of a test, and deaths on the way in. How many
#: of these calls there are is up to chance, so one may not be tried. The first meets the group of
#: the test before it.
LATER: Final = (
    Case("runner", faults.RMDIR, "EIO", about="nsisolate-", marker=BOUND),
    *(Case("runner", call, "EIO", marker=BOUND) for call in ("pipe2", "pidfd_open", "fcntl")),
    Case("runner", "ioctl", "EIO", about="socket:", marker=BOUND),
    Case("runner", "write", "EIO", about="uid_map", marker=BOUND),
    *(Case("child", "*", "SIGKILL", nth=nth, marker=BOUND) for nth in (5, 25, 100)),
    Case("runner", "read", "EIO", about="pipe:"),
    Case("runner", "read", "EIO", about="pipe:", nth=2),
    Case("runner", "read", "EIO", about="socket:"),
    *(Case("runner", "poll", "EIO", nth=nth) for nth in range(3, 8)),
    Case("child", "kill", "EIO"),
    Case("child", "write", "EIO", about="pipe:", nth=2),
    Case("child", "rt_sigtimedwait", "EIO", marker=INIT),
    Case("supervisor", "poll", "EIO"),
    *(
        Case(role, "*", "SIGKILL", nth=nth)
        for role in ("supervisor", "child")
        for nth in (5, 10, 15)
    ),
)

#: In these fork(2) blocks and unblocks signals by itself, on both sides. Which of the calls are
#: ours is not to be told there.
FORK_BLOCKS: Final = tuple(map(int, re.findall(r"\d+", platform.libc_ver()[1]))) >= (2, 41)

#: Not of the machinery, or without an answer that a kernel could give.
LEFT_OUT: Final = frozenset(("close", "wait4", "exit_group"))


def run_cases(
    cases: list[Case], side: Side, conftest: str, *, listing: bool = False
) -> tuple[Result, list[dict[str, Any]]]:
    """One test for each case, each followed by another; and what the supervisor wrote."""
    told = json.dumps([dataclasses.asdict(case) for case in cases])
    with suite_folder({"cases.json": told}, side) as folder:
        folder.chmod(0o777)
        supervisor = (sys.executable, faults.__file__, str(folder / "cases.json"))
        before = (*supervisor, str(folder / "log"), "--")
        files = {**source("faulty"), "conftest.py": CONFTEST + conftest}
        env = {faults.LISTING: "1"} if listing else {}
        result = run_batch(files, side, before=before, env=env, timeout=3000 if WHOLE else 240)
        lines = (folder / "log").read_text(encoding="utf-8").splitlines()
        return result, [json.loads(line) for line in lines]


def machinery(listed: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, int]]:
    """(role, call, about, which of that role's calls of this name) of what may be refused."""
    count: Counter[tuple[str, str]] = Counter()
    begun: set[str] = set()
    over: set[str] = set()
    for entry in listed:
        role, call, about = entry["role"], entry["call"], entry["about"]
        count[role, call] += 1
        if role == "runner":
            # Between its first file and the end of the fork it does nothing but this.
            begun |= {role} if call == "memfd_create" else set()
            if call == "rt_sigprocmask" and count[role, call] == 2:
                over.add(role)
            ours = role in begun and role not in over and "recording" not in about
        elif role in ("supervisor", "child", "test"):
            # Up to the frame that says that it is ready, or to the fork of the one who says so.
            ours = role not in over
            if call == "write" and about.startswith("pipe:"):
                over.add(role)
            if role != "supervisor" and call == "clone":
                over.add(role)
            if role == "supervisor" and about.startswith("socket:") and count[role, "clone"]:
                over.add(role)  # PID 1 is born and known
        else:
            ours = False
        if FORK_BLOCKS and role != "runner" and call == "rt_sigprocmask":
            continue
        if ours and call not in LEFT_OUT and not about.startswith("pipe:"):
            yield role, call, about, count[role, call]


def plan_cases(
    listed: list[dict[str, Any]], marker: dict[str, Any], seen: Counter[tuple[str, str, int | None]]
) -> list[Case]:
    """One case for each kind of call that has not been seen."""
    cases = []
    for role, call, about, nth in machinery(listed):
        step = next((n for n, row in enumerate(STEPS) if _fits(row, role, call, about)), None)
        # Which of these it is makes the difference.
        kind = (role, call, nth if call in ("unshare", "getcwd") else step)
        if WHOLE or seen[kind] < (2 if kind[2] is None else 1):
            seen[kind] += 1
            cases.append(Case(role, call, "EIO", nth=nth, marker=marker))
    return cases


def expected(case: Case, about: str) -> str | None:
    """What the report must say; None where the test may pass."""
    for role, call in DISPENSABLE:
        if role in (case.role, "*") and f"{case.call} {about}".startswith(call):
            return None
    for row in STEPS:
        if _fits(row, case.role, case.call, about):
            return row[3]
    return REFUSED


def _fits(row: tuple[str, str, str, str | None], role: str, call: str, about: str) -> bool:
    return row[0] in (role, "*") and row[1] == call and row[2] in about


def complaint(result: Result, index: int, case: Case, fired: dict[str, Any] | None) -> str | None:
    """What is wrong with the reports of a case and of the test after it."""
    name = f"test_fault[{index}]"
    found, everything = verdict(result, name), said(result, name)
    what = f"{case} ({fired})"
    if verdict(result, f"test_fault[{index}-next]") != "passed":
        return f"{what}: the next test: {said(result, f'test_fault[{index}-next]')}"
    if fired is None and case.call == "dup3":
        return None  # how many there are depends on whether the last child has been reaped
    if fired is None:
        return f"{what}: never tried, {found}"
    step = expected(case, fired["about"])
    if step is None:
        return None if found == "passed" or REFUSED in everything else f"{what}: {everything}"
    texts = (step, case.error, "cause: ", "remedy: ")
    if found != "setup failed" or not all(text in everything for text in texts):
        return f"{what}: not {texts} but {found}: {everything}"
    return None


def all_of(result: Result) -> str:
    """Everything that the reports say."""
    return "\n".join(str(report["text"]) for report in result.reports)


def later_complaint(result: Result, index: int, case: Case) -> str | None:
    """What is wrong with the reports of one of :data:`LATER`, and of the test after it."""
    name = f"test_fault[{index}]"
    found, everything = verdict(result, name), said(result, name)
    ours = (REFUSED, "isolated test ")
    well = found in ("passed", "setup failed", "call failed", "teardown failed")
    if well and (found == "passed" or any(text in everything for text in ours)):
        following = verdict(result, f"test_fault[{index}-next]")
        return None if following == "passed" else f"{case}: the next test {following}"
    return f"{case}: {found}: {everything}"


def is_held(marker: dict[str, Any], side: Side) -> bool:
    """Whether this host can hold the limits of a marker; rlimits of an ordinary user always do."""
    if side == "user" or os.geteuid() != 0:
        return True
    launcher = Launcher(Fixed(()))
    try:
        wanted = merged(Limits(), check(marker["limits"]))
        assert wanted is not None
        launcher.limit_mechanisms.enforce(wanted, frozenset(NAMESPACES) - {"time"}, init=False)
    except StepError:
        return False
    finally:
        launcher.close()
    return True


def assert_no_group(result: Result) -> None:
    """Of the runner's cgroups, neither at the end of its last test nor after its end."""
    assert verdict(result, "test_no_group_is_left") == "passed", all_of(result)
    (runner,) = {record["pid"] for record in result.records if record["record"] == "after"}
    folders = {place.folder for name in cgroups.CONTROLLERS for place in cgroups.places(name)}
    groups = {path for folder in folders for path in Path(folder).glob("nsisolate-*")}
    assert not [path for path in groups if path.name.split("-")[2] == str(runner)]


@pytest.mark.parametrize(
    ("side", "conftest"),
    [
        pytest.param("root", "", id="root-short", marks=NEEDS_ROOT),
        pytest.param("user", THREADED, id="user-long"),
        pytest.param("root", THREADED, id="root-long", marks=[NEEDS_ROOT, IF_WHOLE]),
        pytest.param("user", "", id="user-short", marks=IF_WHOLE),
    ],
)
def test_every_call(side: Side, conftest: str) -> None:
    """Whichever call is refused: one test is an error with its step, and nothing is left."""
    markers = [INIT, DEFAULT, NO_PID, SAME] if conftest else [DEFAULT, SAME]
    # What can be bound here comes last: the first of those later looks for its group.
    markers += [marker for marker in (PID_MAX, BOUND) if is_held(marker, side)]
    later = [case for case in LATER if case.marker in (INIT, *markers)]
    nothing = [Case("nobody", "none", "EIO", marker=marker) for marker in markers]
    _, listed = run_cases(nothing, side, conftest, listing=True)
    cases: list[Case] = []
    seen: Counter[tuple[str, str, int | None]] = Counter()
    for index, marker in enumerate(markers):
        of_it = [entry for entry in listed if entry["case"] == index]
        cases += plan_cases(of_it, marker, seen)
    roles = {case.role for case in cases}
    assert roles == ({"runner", "supervisor", "child", "test"} if conftest else {"runner", "child"})
    result, log = run_cases([*cases, *later], side, conftest)
    fired = {entry["case"]: entry for entry in log if "fired" in entry}
    complaints = [complaint(result, n, case, fired.get(n)) for n, case in enumerate(cases)]
    complaints += [later_complaint(result, n, case) for n, case in enumerate(later, len(cases))]
    assert not list(filter(None, complaints)), "\n\n".join(filter(None, complaints))
    if BOUND in markers:
        assert {"RLIMIT_NOFILE", "PR_CAPBSET_DROP", "PR_SET_NO_NEW_PRIVS"} <= {
            entry["about"] for entry in fired.values()
        }
    if any("cgroup.procs" in entry["about"] for entry in fired.values()):
        assert faults.RMDIR in {entry["fired"] for entry in fired.values()}
    assert_no_group(result)
    if conftest:
        named = re.findall(r"unshare\(CLONE_NEW\w+\) for the (\w+) namespace: EIO", all_of(result))
        assert set(named) == set(NAMESPACES)


@pytest.mark.parametrize(
    ("side", "of"),
    [
        # Rootless, the runner waits for the child that makes the layer: its calls have no order.
        pytest.param("root", "the runner", marks=NEEDS_ROOT),
        pytest.param("root", "the child", marks=NEEDS_ROOT),
        ("user", "the child"),
    ],
)
def test_every_call_for_files_of_its_own(side: Side, of: str) -> None:
    """A refusal, or no harm; never a test on the host's files, and the next one passes."""
    cases: list[Case] = []
    markers = [OVERLAY, READONLY]
    nothing = [Case("nobody", "none", "EIO", marker=marker) for marker in markers]
    _, listed = run_cases(nothing, side, "", listing=True)
    seen: Counter[tuple[str, str, int | None]] = Counter()
    for index, marker in enumerate(markers):
        of_it = [entry for entry in listed if entry["case"] == index]
        planned = plan_cases(of_it, marker, seen)
        cases += [case for case in planned if (case.role == "runner") == (of == "the runner")]
    if of == "the runner":
        assert {"socketpair", "clone"} <= {case.call for case in cases}
    else:
        assert {"mount", "pivot_root", "umount2", "mount_setattr"} <= {case.call for case in cases}
        if side == "user" and not WHOLE:
            # A refusal before the ownership layer has been sent back has it made anew.
            cases = [
                case for case in cases if case.call in ("open_tree", "move_mount", "pivot_root")
            ]
    result, log = run_cases(cases, side, "")
    fired = {entry["case"]: entry for entry in log if "fired" in entry}
    complaints = []
    for index, case in enumerate(cases):
        name = f"test_fault[{index}]"
        refused = REFUSED in said(result, name) and "cause: " in said(result, name)
        # A child that the runner cannot hear is lost, and its test is an error that names the call.
        refused = refused or (case.role == "runner" and LOST in said(result, name))
        if not refused and verdict(result, name) != "passed":
            complaints.append(f"{case} ({fired.get(index)}): {said(result, name)}")
        if verdict(result, f"{name[:-1]}-next]") != "passed":
            complaints.append(f"{case}: the next test: {said(result, f'{name[:-1]}-next]')}")
    assert not complaints, "\n\n".join(complaints)
