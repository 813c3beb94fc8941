# SPDX-License-Identifier: MIT
"""What can be told about a host without trying it."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_nsisolate.host import (
    CAP_NET_ADMIN,
    CAP_SYS_ADMIN,
    Host,
    examine,
    facts,
    header_line,
    known_obstacle,
)
from tests.hosts import NEEDS_HOSTS, run_on

NEEDS_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")

SHOW = """
from pytest_nsisolate.host import examine, header_line
host = examine()
print(host.mode)
print(header_line(host), flush=True)
"""


def header_on(host: str) -> tuple[str, str]:
    """Mode and header line, as a fresh interpreter on that host says them."""
    done = run_on(host, sys.executable, "-c", SHOW)
    mode, line = done.stdout.splitlines()
    return mode, line


@NEEDS_LINUX
def test_examine_reports_the_process_as_the_kernel_shows_it() -> None:
    """Ids, capabilities and version are those of /proc and uname."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"CapEff:\s*(\w+)", status)
    assert found is not None

    host = examine()

    assert (host.linux, host.euid, host.egid) == (True, os.geteuid(), os.getegid())
    assert host.capabilities == int(found[1], 16)
    assert os.uname().release.startswith("{}.{}".format(*host.kernel))


@NEEDS_LINUX
def test_examine_is_cheap() -> None:
    """Below 2 ms, as it is paid by every run."""

    def once() -> float:
        begin = time.perf_counter()
        header_line(examine())
        return time.perf_counter() - begin

    assert min(once() for _ in range(20)) < 0.002


@pytest.mark.parametrize("name", ["darwin", "win32"])
def test_another_platform_is_named_as_the_reason(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no Linux, nothing is looked up that only Linux has."""
    monkeypatch.setattr("pytest_nsisolate.host.PLATFORM", name)
    monkeypatch.delattr("pytest_nsisolate.kernel.originals.os.geteuid")

    host = examine()

    assert not host.linux
    expected = f"nsisolate: unavailable: namespaces need Linux, this is {name}"
    assert header_line(host) == expected


def test_holds_reads_one_bit() -> None:
    """A capability is a bit of the mask."""
    host = Host(True, False, 0, 0, 1 << CAP_NET_ADMIN, (6, 1))

    assert (host.holds(CAP_NET_ADMIN), host.holds(CAP_SYS_ADMIN)) == (True, False)


@NEEDS_HOSTS
@pytest.mark.parametrize(
    ("host", "mode"),
    [
        ("root", "root"),
        ("ordinary-user", "rootless"),
        ("no-capabilities", "rootless"),
        ("no-setfcap", "root"),
    ],
)
def test_mode_follows_the_capabilities_not_the_uid(host: str, mode: str) -> None:
    """Uid 0 without capabilities is no root."""
    assert header_on(host)[0] == mode


@NEEDS_HOSTS
@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("no-user", "user.max_user_namespaces = 0"),
        ("unmapped", "ids are not mapped"),
        ("no-capabilities", "uid 0 without CAP_SETFCAP"),
        ("no-proc", "/proc is not mounted"),
        ("chroot-user", "in a chroot"),
    ],
)
def test_header_says_why_nothing_can_be_isolated(host: str, words: str) -> None:
    """What is certain without trying stands in the header."""
    line = header_on(host)[1]

    assert line.startswith("nsisolate: unavailable: ")
    assert words in line


@NEEDS_HOSTS
def test_header_names_what_is_switched_off() -> None:
    """A limit of zero takes the namespace out of the list."""
    assert header_on("no-net")[1] == (
        "nsisolate: root, namespaces: user pid mount uts ipc cgroup time"
        " (switched off: net; tried before the first isolated test)"
    )


@NEEDS_HOSTS
def test_header_warns_of_a_filter() -> None:
    """A filter cannot be asked without trying, so the header only says that it is there."""
    assert "a seccomp filter is on and may refuse some" in header_on("filtered")[1]


@NEEDS_LINUX
def test_header_does_not_fork() -> None:
    """It is printed before anybody knows whether a test is isolated: a fork would be fatal here."""
    assert "nsisolate: " in header_on("fork-kills")[1]


def test_header_lists_the_default_set_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what this run would isolate by default."""
    monkeypatch.setattr(facts, "is_offered", lambda namespace: True)
    host = Host(True, True, 0, 0, ~0, (6, 1))
    monkeypatch.setattr("pytest_nsisolate.host.known_obstacle", lambda host: None)

    line = header_line(host, {"net", "pid"})

    assert line == "nsisolate: root, namespaces: pid net (tried before the first isolated test)"


@NEEDS_LINUX
@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"userns_clone_off": True}, "kernel.unprivileged_userns_clone = 0"),
        ({"has_namespace": False}, "the kernel has no user namespaces"),
    ],
)
def test_obstacle_of_kernels_that_are_not_at_hand(
    answers: Mapping[str, bool], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's switch and a kernel without CONFIG_USER_NS."""
    for name, answer in answers.items():
        monkeypatch.setattr(facts, name, lambda *_, answer=answer: answer)

    assert words in (known_obstacle(Host(True, False, 1000, 1000, 0, (6, 1))) or "")


@NEEDS_LINUX
def test_root_is_not_kept_from_anything_by_the_switches_for_ordinary_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Root does without a user namespace where it must."""
    monkeypatch.setattr(facts, "userns_clone_off", lambda: True)

    assert known_obstacle(Host(True, True, 0, 0, ~0, (6, 1))) is None
