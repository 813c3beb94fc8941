# SPDX-License-Identifier: MIT
"""The questions that tell one cause from another, against files made up for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_nsisolate.host import facts
from pytest_nsisolate.kernel import originals

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")

MOUNTINFO = """\
22 28 0:21 / /proc rw,nosuid - proc proc rw
23 22 0:30 / /proc/sys/fs/binfmt_misc rw - binfmt_misc none rw
24 28 0:22 / /sys ro,nosuid shared:7 - sysfs sysfs rw
25 24 0:23 / /sys/fs/cgroup rw - tmpfs none rw
26 25 0:24 / /sys/fs/cgroup/pids rw - cgroup none rw
28 1 8:1 / / rw - ext4 /dev/sda1 rw
"""


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Let the module read this text where it would read that path; other files stay real."""
    real_open = open
    texts: dict[str, Path] = {}

    def fake_open(path: str, *mode: str, **options: str) -> object:
        return real_open(texts.get(path, path), *mode, **options)  # type: ignore[call-overload]

    def pretend(path: str, text: str) -> None:
        texts[path] = tmp_path / path.replace("/", "_")
        texts[path].write_text(text)

    monkeypatch.setattr(facts, "open", fake_open, raising=False)
    return pretend


def test_empty_directories_of_the_kernel_do_not_mask(
    pretend: Callable[[str, str], None],
) -> None:
    """binfmt_misc and the cgroups are mounted everywhere, and no obstacle to a fresh mount."""
    pretend("/proc/self/mountinfo", MOUNTINFO)

    assert (facts.covers_below("/proc"), facts.covers_below("/sys")) == ((), ())


def test_what_a_container_covers_is_listed(pretend: Callable[[str, str], None]) -> None:
    """Files and directories alike, in the order of the mount table."""
    covers = "30 22 0:5 /null /proc/kcore rw - devtmpfs none rw\n"
    covers += "31 24 0:6 / /sys/firmware ro - tmpfs none rw\n"
    pretend("/proc/self/mountinfo", MOUNTINFO + covers)

    assert facts.covers_below("/proc") == ("/proc/kcore",)
    assert facts.covers_below("/sys") == ("/sys/firmware",)


def test_a_cover_may_have_any_name(pretend: Callable[[str, str], None]) -> None:
    """The kernel escapes a blank, and no other space."""
    pretend(
        "/proc/self/mountinfo", MOUNTINFO + "30 22 0:5 / /proc/a\\040b\xa0c rw - tmpfs none rw\n"
    )

    assert facts.covers_below("/proc") == ("/proc/a b\xa0c",)


def test_read_only_is_asked_of_the_mount_itself(pretend: Callable[[str, str], None]) -> None:
    """The flag of the mount counts, not that of the file system."""
    pretend("/proc/self/mountinfo", MOUNTINFO)

    assert (facts.is_read_only("/proc"), facts.is_read_only("/sys")) == (False, True)


def test_a_root_that_is_no_mount_point_is_a_chroot(
    pretend: Callable[[str, str], None],
) -> None:
    """The kernel lists the mounts below one's root only."""
    pretend("/proc/self/mountinfo", MOUNTINFO)
    assert not facts.in_chroot()

    pretend("/proc/self/mountinfo", MOUNTINFO[: MOUNTINFO.index("28 1")])
    assert facts.in_chroot()


@pytest.mark.parametrize(
    ("maps", "mapped"),
    [
        ("         0          0 4294967295\n", True),
        ("0 100000 1000\n1000 1000 1\n", True),
        ("0 1000 1\n", False),
        ("", False),
    ],
)
def test_an_id_is_mapped_if_a_range_contains_it(
    maps: str, mapped: bool, pretend: Callable[[str, str], None]
) -> None:
    """An id without a number reads as the overflow id, which is in no range."""
    pretend("/proc/self/uid_map", maps)
    pretend("/proc/self/gid_map", "0 0 4294967295\n")

    assert facts.ids_mapped(1000, 1000) is mapped


def test_the_limit_of_processes_that_is_reached_is_named(
    pretend: Callable[[str, str], None],
) -> None:
    """A cgroup above one's own counts as well."""
    pretend("/proc/self/cgroup", "0::/user.slice/session\n")
    pretend("/sys/fs/cgroup/user.slice/session/pids.max", "max\n")
    pretend("/sys/fs/cgroup/user.slice/session/pids.current", "90\n")
    pretend("/sys/fs/cgroup/user.slice/pids.max", "100\n")
    pretend("/sys/fs/cgroup/user.slice/pids.current", "99\n")

    assert facts.process_limit() == "pids.max = 100 of the cgroup /sys/fs/cgroup/user.slice"


def test_pid_max_is_named_where_it_is_the_limit(
    pretend: Callable[[str, str], None],
) -> None:
    """The kernel's own limits are compared with the number of tasks."""
    pretend("/proc/self/cgroup", "")
    pretend("/proc/loadavg", "0.1 0.1 0.1 2/32767 999\n")
    pretend("/proc/sys/kernel/pid_max", "32768\n")

    assert facts.process_limit() == "kernel.pid_max = 32768"


def test_rlimit_is_named_where_it_is_the_limit(
    pretend: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``ulimit -u`` counts this user's threads."""

    pretend("/proc/self/cgroup", "")
    pretend("/proc/loadavg", "")
    monkeypatch.setattr(originals.resource, "getrlimit", lambda which: (1, 1))

    assert facts.process_limit() == "RLIMIT_NPROC = 1 (ulimit -u)"


def test_no_limit_is_invented(
    pretend: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where none is reached the answer is None."""
    import resource

    pretend("/proc/self/cgroup", "")
    pretend("/proc/loadavg", "")
    monkeypatch.setattr(
        originals.resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2
    )

    assert facts.process_limit() is None


def test_files_that_cannot_be_read_are_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An explanation is owed where half of /proc is masked, too."""

    def refuse(path: str, *_: str, **__: str) -> object:
        raise PermissionError(13, "masked", path)

    monkeypatch.setattr(facts, "open", refuse, raising=False)

    assert facts.status() == {}
    assert facts.sysctl("kernel.panic") is None
    assert facts.namespace_limit("net") is None
    assert (facts.covers_below("/proc"), facts.in_chroot()) == ((), False)
    assert facts.ids_mapped(os.geteuid(), os.getegid())
    assert facts.security_label() == ""


@pytest.mark.parametrize(
    ("namespace", "name"),
    [("mount", "user.max_mnt_namespaces"), ("net", "user.max_net_namespaces")],
)
def test_the_sysctl_of_a_namespace_is_spelled_as_the_kernel_does(namespace: str, name: str) -> None:
    """``mnt``, where the marker says ``mount``."""
    assert facts.limit_name(namespace) == name


@pytest.mark.parametrize("namespace", ["user", "pid", "mount", "net", "uts", "ipc"])
def test_this_kernel_offers_the_old_namespaces(namespace: str) -> None:
    """Every kernel that runs a container has them."""
    assert facts.has_namespace(namespace)


@pytest.mark.parametrize(
    ("variables", "files", "found"),
    [
        ({}, (), None),
        ({}, ("/.dockerenv",), "docker"),
        ({}, ("/run/.containerenv",), "podman"),
        ({"container": "lxc"}, (), "lxc"),
        ({"GITHUB_ACTIONS": "true"}, ("/.dockerenv",), "github"),
        ({"GITLAB_CI": "true"}, ("/.dockerenv",), "gitlab"),
        ({"GITLAB_CI": "true", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, (), "kubernetes"),
    ],
)
def test_the_place_is_the_one_whose_configuration_counts(
    variables: dict[str, str],
    files: tuple[str, ...],
    found: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A CI system before the engine that it uses."""
    for name in ("KUBERNETES_SERVICE_HOST", "GITLAB_CI", "GITHUB_ACTIONS", "container"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(originals.os.path, "exists", lambda path: path in files)

    assert facts.place() == found


def test_an_account_without_a_name_is_its_number() -> None:
    """As in a container that is run with any uid."""
    assert facts.user_name(0) == "root"
    assert facts.user_name(3_999_999_999) == "3999999999"


@pytest.mark.parametrize(
    ("release", "version", "found"),
    [
        ("4.4.0-22621-Microsoft", "#2506-Microsoft Fri Jan 01 08:00:00 PST 2016", "WSL 1"),
        ("5.15.90.1-microsoft-standard-WSL2", "#1 SMP Fri Jan 27 02:56:13 UTC 2023", None),
        ("4.4.0", "#1 SMP Sun Jan 10 15:06:54 PST 2016", "gVisor"),
        ("4.19.0-gvisor", "#1 SMP Sun Jan 10 15:06:54 PST 2016", "gVisor"),
        ("6.1.0-18-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1", None),
    ],
)
def test_what_is_no_linux_says_so(
    release: str, version: str, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what uname(2) tells there."""
    uname = os.uname_result(("Linux", "host", release, version, "x86_64"))
    monkeypatch.setattr(originals.os, "uname", lambda: uname)
    assert facts.emulation() == found
