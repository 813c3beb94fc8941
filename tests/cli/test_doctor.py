# SPDX-License-Identifier: MIT
"""The report that people read, and its exit status."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pytest_nsisolate.child import own_terminal, reach
from pytest_nsisolate.cli.doctor import doctor
from pytest_nsisolate.errors import StepError
from pytest_nsisolate.host import Host
from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.kernel import readonly
from pytest_nsisolate.process import host_check, launch, launcher
from pytest_nsisolate.process.launcher import Launcher
from pytest_nsisolate.process.plan import Fixed
from pytest_nsisolate.request.model import IsolationRequest
from tests.accounts import with_ranges
from tests.hosts import HOSTS, NEEDS_HOSTS, NEEDS_ROOT, run_on
from tests.support import ON_THE_HOST

DOCTOR = (sys.executable, "-m", "pytest_nsisolate", "doctor")

ROOT = Host(True, True, 0, 0, ~0, (6, 1))


def launcher_on(host: Host) -> Launcher:
    """Of a process that stands like that."""
    launcher = Launcher(Fixed(()))
    launcher.host = host
    return launcher


def doctor_on(host: str) -> tuple[int, str]:
    """Exit status and report of the command on that host."""
    done = run_on(host, *DOCTOR)
    assert done.stderr == ""
    return done.returncode, done.stdout


def rows(report: str) -> dict[str, str]:
    """The table: call -> result, without limits and ranges, which are delegated or not."""
    table = re.findall(r"^  (.{9})  (\S.*?)  +(\S.*)$", report, re.MULTILINE)
    return {
        f"{namespace.strip()} {call}": result
        for namespace, call, result in table
        if namespace.strip() not in ("limits", "range")
    }


@NEEDS_HOSTS
@pytest.mark.parametrize("host", ["root", "ordinary-user"])
def test_a_host_that_gives_everything_is_0(host: str) -> None:
    """Every row is ok, and nothing is explained."""
    status, report = doctor_on(host)

    results = rows(report)
    del results["namespace call"]
    assert (status, set(results.values())) == (0, {"ok"})
    missing = r"(, but for (a range of ids|some limits| and )+)?"
    assert re.search(rf"\nEverything works{missing}\.\n$", report)
    assert ("cause" in report) == ("but for" in report)


@pytest.mark.parametrize("needed", [True, False])
def test_the_row_of_the_protection_is_theirs_who_need_it(
    needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose tests cannot be the host's root has nothing in ``/proc`` that is made read-only."""
    monkeypatch.setattr(readonly, "may_write_the_hosts", lambda: needed)
    shown = rows(doctor()[0])
    assert ("mount make /proc/sys read-only" in shown, "mount make / private" in shown) == (
        needed,
        True,
    )


@NEEDS_HOSTS
def test_a_refused_namespace_has_its_row_and_its_remedy() -> None:
    """The others are still tried; what comes after the refused step is not guessed."""
    status, report = doctor_on("no-net")

    results = rows(report)
    assert status == 1
    assert results["net unshare(CLONE_NEWNET)"] == "ENOSPC"
    assert results["net set lo up"] == "not tried"
    assert results["pid mount proc"] == "ok"
    assert results["all unshare(CLONE_NEWNET)"] == "ENOSPC"
    assert "cause:  net namespaces are switched off (user.max_net_namespaces = 0)" in report
    assert "remedy: sudo sysctl -w user.max_net_namespaces=16384" in report


@NEEDS_HOSTS
def test_without_user_namespaces_an_ordinary_user_has_nothing() -> None:
    """Every other row says what it needs."""
    status, report = doctor_on("no-user")

    results = rows(report)
    assert status == 1
    assert results["user unshare(CLONE_NEWUSER)"] == "ENOSPC"
    assert results["net set lo up"] == "needs user"


@NEEDS_HOSTS
def test_without_user_namespaces_root_has_the_rest() -> None:
    """The last row says that everything works, but for that one."""
    status, report = doctor_on("no-user-root")

    results = rows(report)
    assert status == 1
    assert results["net set lo up"] == "ok"
    assert results["all everything at once"] == "only without user"


@NEEDS_HOSTS
@NEEDS_ROOT
@ON_THE_HOST
def test_this_machine_need_not_be_empty() -> None:
    """A second whole /proc, in somebody's chroot, does not unmask the emulated hosts."""
    chroot = ("unshare", "--mount", "sh", "-ec", 'mount -t proc none /mnt; exec "$@"', "sh")
    for host in ("masked-proc", "masked-proc-user"):
        prefix = (*chroot, *HOSTS[host])
        done = subprocess.run([*prefix, *DOCTOR], capture_output=True, text=True, timeout=60)
        assert rows(done.stdout)["pid mount proc"] in ("EPERM", "only without user"), done.stdout


@NEEDS_HOSTS
@ON_THE_HOST
def test_a_masked_proc_is_found_at_the_step_that_it_breaks() -> None:
    """The PID namespace itself can be had."""
    status, report = doctor_on("masked-proc")

    results = rows(report)
    assert status == 1
    assert results["pid unshare(CLONE_NEWPID)"] == "ok"
    assert results["pid mount proc"] == "only without user"
    assert "\nmount proc for the pid namespace: EPERM, " in report
    assert "Docker: --security-opt systempaths=unconfined\n" in report
    assert "(covered: /proc/kmsg)" in report


@NEEDS_HOSTS
def test_one_cause_is_explained_once() -> None:
    """A filter refuses them all, and the long remedy stands there one time."""
    status, report = doctor_on("filtered-root")

    assert status == 1
    assert "a seccomp filter is on" in report
    assert report.count("EPERM, Operation not permitted") > 3
    assert report.count("--security-opt seccomp=unconfined --security-opt apparmor") == 1


@NEEDS_HOSTS
def test_where_no_child_can_be_started_nothing_else_is_tried() -> None:
    """One row, one explanation."""
    status, report = doctor_on("no-pidfd")

    results = rows(report)
    del results["namespace call"]
    assert (status, results) == (1, {" pidfd_open": "ENOSYS"})


@NEEDS_HOSTS
def test_without_a_proc_nothing_else_is_tried() -> None:
    """Every launch reads it, so there is one cause."""
    status, report = doctor_on("no-proc")

    results = rows(report)
    del results["namespace call"]
    assert (status, results) == (1, {" read capabilities": "ENOENT"})
    assert "remedy: mount -t proc proc /proc" in report


@NEEDS_HOSTS
def test_a_refused_id_map_is_the_user_namespaces() -> None:
    """The call that failed stands in the table, also where it is not one of those always shown."""
    status, report = doctor_on("no-capabilities")

    assert status == 1
    assert rows(report)["user unshare(CLONE_NEWUSER)"] == "ok"
    assert "user write uid_map" in rows(report)


def test_a_step_that_the_table_does_not_show_gets_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the unshare, which must have worked, and before what was not tried."""

    def carry_out(_: Launcher, request: IsolationRequest, *__: object) -> Refusal | None:
        if "uts" in request.namespaces:
            return Refusal("setdomainname", "uts", errno.EIO)
        return None

    monkeypatch.setattr(host_check, "_carry_out", carry_out)

    results = rows(doctor(launcher_on(ROOT))[0])

    assert [item for item in results.items() if item[0].startswith("uts")] == [
        ("uts unshare(CLONE_NEWUTS)", "ok"),
        ("uts setdomainname", "EIO"),
        ("uts sethostname", "not tried"),
    ]


@pytest.mark.parametrize(
    ("step", "before"),
    [
        ("make / private", ["unshare(CLONE_NEWNS)"]),
        ("fill /dev", ["unshare(CLONE_NEWNS)", "make / private", "mount /dev"]),
        ("mount devpts", ["unshare(CLONE_NEWNS)", "make / private", "mount /dev"]),
        ("bind /proc/sys", ["unshare(CLONE_NEWNS)", "make / private", "mount /dev"]),
    ],
)
def test_the_steps_before_a_refused_one_have_worked(
    step: str, before: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is one of the many that are not shown."""

    def carry_out(_: Launcher, request: IsolationRequest, *__: object) -> Refusal | None:
        return Refusal(step, "mount", errno.EIO) if "mount" in request.namespaces else None

    monkeypatch.setattr(host_check, "_carry_out", carry_out)
    monkeypatch.setattr(readonly, "may_write_the_hosts", lambda: True)

    found = rows(doctor(launcher_on(ROOT))[0])
    results = {call: result for call, result in found.items() if "mount " in call}

    worked = [call.removeprefix("mount ") for call, result in results.items() if result == "ok"]
    assert worked == before
    assert results[f"mount {step}"] == "EIO"
    assert results["mount make /proc/sys read-only"] == "not tried"


def test_another_platform_is_told_so() -> None:
    """No fork, no traceback."""
    report, status = doctor(launcher_on(Host(False, False, -1, -1, 0, (0, 0))))

    assert status == 1
    assert "namespaces are a part of Linux" in report


def test_the_runner_is_looked_at_when_no_host_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the option and the command call it."""
    monkeypatch.setattr(launcher, "examine", lambda: Host(True, False, 4711, 0, 0, (6, 1)))
    monkeypatch.setattr(host_check, "_carry_out", lambda *_: None)

    report, status = doctor()

    assert status == 0
    assert "uid 4711, mode rootless" in report


def json_on(host: str, *prefix: str) -> tuple[int, dict[str, Any]]:
    """Exit status and report of the command with ``--json``."""
    done = run_on(host, *prefix, *DOCTOR, "--json")
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


@NEEDS_HOSTS
def test_machines_read_the_same_as_json() -> None:
    """The shape that the reference describes, for a host that refuses something."""
    status, report = json_on("no-net")

    assert (status, report["version"], report["works"]) == (1, 1, False)
    assert set(report) == {"version", "works", "host", "steps"}
    assert set(report["host"]) == {
        *("system", "linux", "kernel", "python", "uid", "gid", "mode", "capabilities"),
        *("seccomp", "security_label", "place"),
    }
    assert (report["host"]["uid"], report["host"]["mode"]) == (0, "root")
    keys = {"namespace", "call", "result", "text", "optional", "errno", "detail", "cause"}
    assert all(set(step) == {*keys, "remedies"} for step in report["steps"])
    (refused,) = (step for step in report["steps"] if step["namespace"] == "net" and step["errno"])
    assert refused == {
        "namespace": "net",
        "call": "unshare(CLONE_NEWNET)",
        "result": "refused",
        "text": "ENOSPC",
        "optional": False,
        "errno": "ENOSPC",
        "detail": "",
        "cause": "net namespaces are switched off (user.max_net_namespaces = 0)",
        "remedies": ["sudo sysctl -w user.max_net_namespaces=16384"],
    }
    results = {step["call"]: step["result"] for step in report["steps"]}
    assert (results["set lo up"], results["sethostname"]) == ("not tried", "works")


@NEEDS_HOSTS
def test_json_tells_what_works_without_the_user_namespace() -> None:
    """Neither refused nor simply granted."""
    status, report = json_on("no-user-root")

    (last,) = (step for step in report["steps"] if step["namespace"] == "all")
    assert (status, last["result"], last["errno"]) == (1, "without user", "ENOSPC")


@NEEDS_HOSTS
def test_the_limits_do_not_count_for_the_exit_status() -> None:
    """Few machines delegate a cgroup, and no test needs one that does not say so."""
    mount = 'mount -t tmpfs none /sys/fs/cgroup 2>/dev/null; exec "$@"'
    own = ("unshare", "--map-root-user", "--mount", "sh", "-c", mount)
    done = run_on("plain", *own, "sh", *DOCTOR, "--json")

    report = json.loads(done.stdout)
    *_, pid_max, cgroup = report["steps"]
    assert (done.returncode, report["works"]) == (0, True)
    assert (pid_max["optional"], cgroup["optional"]) == (True, True)
    assert (cgroup["result"], cgroup["errno"]) == ("refused", "ENODEV")
    assert "systemd-run --user --scope -p Delegate=yes pytest" in cgroup["remedies"][0]


@NEEDS_HOSTS
@NEEDS_ROOT
@pytest.mark.parametrize(("ranges", "result"), [("ranger:100000:65536", "ok"), ("", "ENOENT")])
def test_an_ordinary_user_has_a_row_for_a_range_of_ids(ranges: str, result: str) -> None:
    """It does not count for the exit status either; root has all ids, and no such row."""
    done = subprocess.run(
        [*with_ranges(ranges), *DOCTOR], capture_output=True, text=True, timeout=60
    )
    (row,) = re.findall(r"^  range +(.*\S) +(\S+)$", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout
    if "find newuidmap" not in row[0]:
        step = "newuidmap, newgidmap" if ranges else "find a range in /etc/subuid"
        assert (row[0].strip(), row[1]) == (step, result)
    assert not re.search("^  range ", doctor_on("plain")[1], re.MULTILINE)


@NEEDS_HOSTS
def test_what_needs_a_process_outside_is_tried_with_one() -> None:
    """It takes a socket from the test (pidfd_getfd(2)), which a filter may refuse: three rows."""
    status, report = doctor_on("no-helper")

    results = rows(report)
    refused = {name: result for name, result in results.items() if name.endswith("pidfd_getfd")}
    assert refused == {f"{name} pidfd_getfd": "EPERM" for name in ("faults", "tty", "reach")}
    assert (status, results["all everything at once"]) == (0, "ok")
    assert "cause:  a filter around the runner refuses it" in report
    said = "but for faults on demand, terminals of a test's own"
    assert said in report.splitlines()[-1]


@NEEDS_HOSTS
def test_what_needs_a_refused_namespace_is_not_tried() -> None:
    """A terminal needs a /dev of its own, a forwarder a network besides."""
    results = rows(doctor_on("filtered-root")[1])
    assert results["tty take a terminal"] == "needs mount"
    assert results["reach start the forwarder"] == "needs mount and net"
    assert results["faults answer system calls"] == "ok"


def test_a_refused_terminal_and_a_refused_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is the row's own step, and its cause and remedy are those of a test."""

    def refuse(step: str, number: int) -> Callable[..., NoReturn]:
        def refused(*_: object) -> NoReturn:
            raise StepError(step, "mount", number)

        return refused

    monkeypatch.setattr(own_terminal, "open_up", refuse("open a terminal", errno.ENOSPC))
    monkeypatch.setattr(reach, "open_up", refuse("open tcp:127.0.0.1:8080", errno.EADDRNOTAVAIL))
    report, _ = doctor()

    results = rows(report)
    assert results["tty open a terminal"] == "ENOSPC"
    assert results["reach open tcp:127.0.0.1:8080"] == "EADDRNOTAVAIL"
    assert "kernel.pty.max" in report
    assert "without IPv6" in report


@NEEDS_HOSTS
def test_a_limit_of_processes_is_tried_in_its_own_namespace() -> None:
    """Since Linux 6.14 ``kernel.pid_max`` is the namespace's own; before, nobody writes to it."""
    before = Path("/proc/sys/kernel/pid_max").read_text()

    _, report = json_on("root")

    kernel = tuple(report["host"]["kernel"])
    expected = ("works", None) if kernel >= (6, 14) else ("refused", "ENOSYS")
    (row,) = (step for step in report["steps"] if step["call"] == "write pid_max")
    assert (row["result"], row["errno"]) == expected
    assert Path("/proc/sys/kernel/pid_max").read_text() == before


def test_no_older_kernel_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the write would change the host, so it is refused without a try."""
    monkeypatch.setattr(launch, "fork", None)

    refusal = launcher_on(ROOT).check.try_limit(frozenset({"pid", "mount"}), "none")

    assert refusal is not None
    assert (refusal.step, refusal.errno) == ("write pid_max", errno.ENOSYS)


@NEEDS_HOSTS
def test_the_cgroups_of_the_trial_are_gone_afterwards() -> None:
    """Whether one could be made or not."""
    script = (
        "import os; from pytest_nsisolate.cli import doctor; doctor.consult(); print(os.getpid())"
    )

    done = run_on("root", sys.executable, "-c", script)

    assert done.stderr == ""
    made = f"**/nsisolate-*-{int(done.stdout)}-*"
    assert [path for path in Path("/sys/fs/cgroup").glob(made) if path.is_dir()] == []


def test_the_command_wants_to_be_told_what() -> None:
    """Without a command: usage, status 2."""
    done = subprocess.run(DOCTOR[:-1], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "python -m pytest_nsisolate" in done.stderr
