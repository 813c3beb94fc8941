# SPDX-License-Identifier: MIT
"""The report that people read, and its exit status."""

from __future__ import annotations

import errno
import re
import subprocess
import sys

import pytest

from pytest_nsisolate import doctor as doctor_module
from pytest_nsisolate import probe as probe_module
from pytest_nsisolate.doctor import doctor
from pytest_nsisolate.errors import StepError
from pytest_nsisolate.host import Host
from pytest_nsisolate.trial import Denial
from tests.hostile import NEEDS_HOSTS, run_on
from tests.support import ON_THE_HOST

DOCTOR = (sys.executable, "-m", "pytest_nsisolate", "doctor")

ROOT = Host(True, True, 0, 0, ~0, (6, 1))


def doctor_on(host: str) -> tuple[int, str]:
    """Exit status and report of the command on that host."""
    done = run_on(host, *DOCTOR)
    assert done.stderr == ""
    return done.returncode, done.stdout


def rows(report: str) -> dict[str, str]:
    """The table: call -> result."""
    table = re.findall(r"^  (.{9})  (\S.*?)  +(\S.*)$", report, re.MULTILINE)
    return {f"{namespace.strip()} {call}": result for namespace, call, result in table}


@NEEDS_HOSTS
@pytest.mark.parametrize("host", ["root", "ordinary-user"])
def test_a_host_that_gives_everything_is_0(host: str) -> None:
    """Every row is ok, and nothing is explained."""
    status, report = doctor_on(host)

    results = rows(report)
    del results["namespace call"]
    assert (status, set(results.values())) == (0, {"ok"})
    assert report.endswith("\nEverything works.\n")
    assert "cause" not in report


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
@ON_THE_HOST
def test_a_masked_proc_is_found_at_the_step_that_it_breaks() -> None:
    """The PID namespace itself can be had."""
    status, report = doctor_on("masked-proc")

    results = rows(report)
    assert status == 1
    assert results["pid unshare(CLONE_NEWPID)"] == "ok"
    assert results["pid mount proc"] == "EPERM"
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
@pytest.mark.parametrize(
    ("host", "row"),
    [("no-proc", "user write setgroups"), ("no-capabilities", "user write uid_map")],
)
def test_a_refused_id_map_is_the_user_namespaces(host: str, row: str) -> None:
    """The call that failed stands in the table, also where it is not one of those always shown."""
    status, report = doctor_on(host)

    assert status == 1
    assert rows(report)["user unshare(CLONE_NEWUSER)"] == "ok"
    assert row in rows(report)


def test_a_step_that_the_table_does_not_show_gets_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the unshare, which must have worked, and before what was not tried."""

    def attempt(namespaces: frozenset[str], *_: object) -> Denial | None:
        if "uts" in namespaces:
            return Denial(StepError("setdomainname", "uts", errno.EIO), None)
        return None

    monkeypatch.setattr(probe_module, "attempt", attempt)

    results = rows(doctor(ROOT)[0])

    assert [item for item in results.items() if item[0].startswith("uts")] == [
        ("uts unshare(CLONE_NEWUTS)", "ok"),
        ("uts setdomainname", "EIO"),
        ("uts sethostname", "not tried"),
    ]


def test_another_platform_is_told_so() -> None:
    """No fork, no traceback."""
    report, status = doctor(Host(False, False, -1, -1, 0, (0, 0)))

    assert status == 1
    assert "namespaces are a part of Linux" in report


def test_the_runner_is_looked_at_when_no_host_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the option and the command call it."""
    monkeypatch.setattr(doctor_module, "examine", lambda: Host(True, False, 4711, 0, 0, (6, 1)))
    monkeypatch.setattr(probe_module, "attempt", lambda *_: None)

    report, status = doctor()

    assert status == 0
    assert "uid 4711, mode rootless" in report


def test_the_command_wants_to_be_told_what() -> None:
    """Without a command: usage, status 2."""
    done = subprocess.run(DOCTOR[:-1], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "python -m pytest_nsisolate" in done.stderr
