# SPDX-License-Identifier: MIT
"""Who the test is and what it may do: what the view says is what the tools say."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_nsisolate import Pid1View, TimeOffsets
from pytest_nsisolate.view import Capabilities, Limit
from tests.host_observer import checked, libc, status
from tests.support import NEEDS_NAMESPACES, ON_THE_HOST
from tests.view.tools import (
    NEEDS_CAPSH,
    NEEDS_LSNS,
    NEEDS_PRLIMIT,
    NEEDS_PS,
    needs,
    owned,
    run,
    run_json,
)

pytestmark = NEEDS_NAMESPACES

EVERY_WAY = [
    pytest.param(marks=pytest.mark.isolated(), id="default"),
    pytest.param(marks=pytest.mark.isolated(init=True, hostname="view"), id="init"),
    pytest.param(marks=pytest.mark.isolated(user="same"), id="same"),
    pytest.param(marks=pytest.mark.isolated(uts=True), id="uts"),
]


@pytest.fixture(scope="module")
def at_home() -> dict[str, int]:
    """The runner's namespaces, by its own view."""
    return dict(Pid1View().namespaces)


# Namespaces and names ----------------------------------------------------------------------------


@NEEDS_LSNS
@pytest.mark.parametrize((), EVERY_WAY)
def test_namespaces_are_as_lsns_says(pid1: Pid1View, at_home: dict[str, int]) -> None:
    """Of every kind the number; and which of them are the runner's."""
    rows = run_json("lsns", "--json", "--output", "TYPE,NS", "--task", str(pid1.pid))["namespaces"]
    shown = {"mount" if row["type"] == "mnt" else row["type"]: row["ns"] for row in rows}
    assert pid1.namespaces == shown
    assert pid1.host_namespaces == at_home
    assert pid1.isolated == {kind for kind in shown if shown[kind] != at_home[kind]}
    assert pid1.isolated == pid1._origin.asked


@pytest.mark.parametrize((), EVERY_WAY)
def test_hostname_is_as_uname_says(pid1: Pid1View) -> None:
    """The marker's, or the host's."""
    assert pid1.hostname == run("uname", "--nodename").strip()
    pid1.assert_hostname(socket.gethostname())


@pytest.mark.isolated(time={"monotonic": 3600.5, "boottime": 86_400})
def test_clock_offsets_are_what_the_clocks_show(
    pid1: Pid1View, clocks: tuple[float, float]
) -> None:
    """As the marker asked for, and as the clocks of runner and test differ."""
    assert pid1.clock_offsets == TimeOffsets(monotonic=3600.5, boottime=86_400)
    moved = time.clock_gettime(time.CLOCK_BOOTTIME) - clocks[1]
    assert 86_400 <= moved < 86_400 + 600


@pytest.mark.isolated(uts=True)
def test_without_a_time_namespace_there_are_no_offsets(pid1: Pid1View) -> None:
    """The control."""
    assert pid1.clock_offsets == TimeOffsets(0, 0)


@pytest.fixture(scope="module")
def clocks() -> tuple[float, float]:
    """The runner's, before."""
    return time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)


@NEEDS_PS
@pytest.mark.parametrize((), EVERY_WAY)
def test_cgroup_is_as_ps_says(pid1: Pid1View) -> None:
    """Of every hierarchy the path."""
    shown = run("ps", "-ww", "-o", "cgroup=", "-p", str(pid1.pid)).strip()
    # It leaves out the roots of the hierarchies.
    below = {f":{name}:{path}" for name, path in pid1.cgroups.items() if path != "/"}
    assert all(entry in shown for entry in below)
    assert shown.count(":/") == len(below)
    assert pid1.cgroup == pid1.cgroups.get("", "")


@pytest.mark.isolated
def test_environment_is_what_a_program_gets(
    pid1: Pid1View, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As env prints it, changes of the test included."""
    monkeypatch.setenv("NSISOLATE_VIEW", "a = b")
    shown = run("env", "--null").split("\0")[:-1]
    expected = dict(entry.split("=", 1) for entry in shown)
    for steered in ("PATH", "LC_ALL"):
        expected[steered] = os.environ.get(steered, expected[steered])
    assert {**pid1.environment, "LC_ALL": expected["LC_ALL"]} == expected
    with pytest.raises(TypeError):
        pid1.environment["NEW"] = "x"  # type: ignore[index]


@pytest.mark.isolated
def test_environment_of_another_is_what_it_was_started_with(pid1: Pid1View) -> None:
    """Not what the test has."""
    odd = {"ONLY": "this\nand\r\nthat\r\udcff"}
    with owned("/bin/sleep", "60", env=odd) as process:
        assert pid1.environment_of(pid1.assert_process(process)) == odd
        assert "ONLY" not in pid1.environment_of(1)
        process.kill()


# Ids and rights ----------------------------------------------------------------------------------


@pytest.mark.parametrize((), EVERY_WAY)
@pytest.mark.parametrize("name", ["uid_map", "gid_map"])
def test_id_maps_are_the_kernel_s(pid1: Pid1View, name: str) -> None:
    """Rows of three numbers, with names."""
    rows = getattr(pid1, name)
    shown = Path(f"/proc/self/{name}").read_text().split()
    assert [str(number) for row in rows for number in row] == shown
    first = rows[0]
    assert (first.inside, first.outside, first.size) == first
    pid1.assert_id_map(*first, of="uid" if name == "uid_map" else "gid")


@NEEDS_CAPSH
@pytest.mark.parametrize((), EVERY_WAY)
def test_capabilities_are_as_capsh_says(pid1: Pid1View) -> None:
    """Of every set the names."""
    masks = status()
    sets = {
        "effective": "CapEff",
        "permitted": "CapPrm",
        "inheritable": "CapInh",
        "bounding": "CapBnd",
        "ambient": "CapAmb",
    }
    for name, field in sets.items():
        shown = run("capsh", f"--decode={masks[field]}").strip().partition("=")[2]
        expected = {word.upper() for word in shown.split(",") if word}
        assert getattr(pid1.capabilities, name) == expected


@NEEDS_CAPSH
@pytest.mark.isolated(net=True)
def test_dropped_and_ambient_capabilities_show(pid1: Pid1View) -> None:
    """Of another process, and by name in either spelling."""
    code = "import sys; sys.stdin.read()"
    command = [
        "capsh",
        "--drop=cap_net_admin,cap_chown",
        "--inh=cap_net_raw,cap_kill",
        "--addamb=cap_net_raw",
    ]
    python = [*command, f"--shell={sys.executable}", "--", "-c", code]
    with owned(*python, stdin=subprocess.PIPE) as process:
        pid1.assert_process(lambda p: p.pid == process.pid and p.argv[-1:] == (code,), within=10)
        held = pid1.capabilities_of(process.pid)
        assert isinstance(held, Capabilities)
        assert held.ambient == {"CAP_NET_RAW"} == held.inheritable - {"CAP_KILL"}
        assert pid1.capabilities.bounding - held.bounding == {"CAP_CHOWN", "CAP_NET_ADMIN"}
        pid1.assert_no_capability("net_admin", "CHOWN", of=process.pid)
        pid1.assert_capability("CAP_NET_RAW", of=process.pid, in_="ambient")
        process.kill()
    pid1.assert_capability("net_admin", "CAP_CHOWN")
    pid1.assert_no_capability(in_="ambient")


@ON_THE_HOST
def test_the_runner_has_its_own_rights() -> None:
    """The control: read in the runner, they are the runner's."""
    assert len(Pid1View().capabilities.effective) == int(status()["CapEff"], 16).bit_count()


@pytest.mark.isolated(net=True)
def test_an_unknown_capability_is_an_error(pid1: Pid1View) -> None:
    """A misspelt name must not pass for one that is not held."""
    with pytest.raises(ValueError, match="'net_amdin' is no capability"):
        pid1.assert_no_capability("net_amdin")


@needs("setpriv")
@pytest.mark.isolated
def test_filters_and_no_new_privs(pid1: Pid1View) -> None:
    """Off, then on; as setpriv says of what the test starts."""
    assert (pid1.seccomp, pid1.no_new_privs) == ("disabled", False)
    assert "no_new_privs: 0" in run("setpriv", "--dump")
    checked(libc().prctl(38, ctypes.c_ulong(1), 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
    assert pid1.no_new_privs
    assert "no_new_privs: 1" in run("setpriv", "--dump")
    # SECCOMP_RET_ALLOW of everything: one instruction, BPF_RET | BPF_K.
    allow = ctypes.create_string_buffer(b"\x06\0\0\0" + (0x7FFF0000).to_bytes(4, sys.byteorder))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    program = Program(1, ctypes.addressof(allow))
    checked(libc().prctl(22, ctypes.c_ulong(2), ctypes.byref(program), 0, 0))  # PR_SET_SECCOMP
    assert pid1.seccomp == "filter"


@NEEDS_PRLIMIT
@pytest.mark.isolated
def test_limits_are_as_prlimit_says(pid1: Pid1View) -> None:
    """Of every resource both limits."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    shown = {}
    for line in run("prlimit", "--noheadings", "--raw", "--output=RESOURCE,SOFT,HARD").splitlines():
        name, *limits = line.split()
        soft, hard_ = (None if limit == "unlimited" else int(limit) for limit in limits)
        shown[name.lower()] = Limit(soft, hard_)
    assert pid1.limits.items() <= shown.items()
    assert pid1.limits["nofile"].soft == 200
    assert {"nproc", "core", "as", "fsize", "stack"} <= set(pid1.limits)


# What it is ---------------------------------------------------------------------------------------


@pytest.mark.isolated(uts=True)
def test_it_is_read_when_asked(pid1: Pid1View) -> None:
    """A change shows at once."""
    socket.sethostname("first")
    assert pid1.hostname == "first"
    socket.sethostname("second")
    assert pid1.hostname == "second"


@pytest.mark.isolated(uts=True)
def test_it_is_read_only(pid1: Pid1View) -> None:
    """Nothing of it can be assigned to."""
    with pytest.raises(AttributeError):
        pid1.hostname = "x"  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        pid1.other = "x"  # type: ignore[attr-defined]


@pytest.mark.isolated(init=True)
def test_behind_an_init_its_number_is_its_own(pid1: Pid1View) -> None:
    """Not the init's."""
    assert pid1.pid == os.getpid() > 1
