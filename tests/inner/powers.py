# SPDX-License-Identifier: MIT
"""Tests that keep some capabilities, or forbid new ones, and look at what they have."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
from pathlib import Path
from typing import Final

import pytest

from pytest_nsisolate.kernel import syscalls

expect = pytest.mark.expect
isolated = pytest.mark.isolated

ROOT: Final = os.geteuid() == 0
NET_ADMIN: Final = 1 << 12
NET_RAW: Final = 1 << 13
SETS: Final = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def held(text: str) -> dict[str, int]:
    lines = dict(line.split(":", 1) for line in text.splitlines())
    return {name: int(lines[name], 16) for name in SETS}


def own() -> dict[str, int]:
    return held(Path("/proc/self/status").read_text())


def of_a_program() -> dict[str, int]:
    """What a program has that the test runs."""
    done = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True)
    return held(done.stdout)


@pytest.fixture
def raw_socket() -> str:
    """A fixture of the test's: it has no more than the test."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


@isolated
@expect("passed")
def test_all_are_kept_without(raw_socket: str) -> None:
    """The control: without ``caps`` a test has them all, against its own namespaces."""
    assert own()["CapEff"] & (NET_ADMIN | NET_RAW) == NET_ADMIN | NET_RAW
    assert raw_socket == ""


@isolated(caps=["net_admin"])
@expect("passed")
def test_one_is_kept(raw_socket: str) -> None:
    """Only it: effective, permitted, bounding, in programs too; and the set-up was not hindered."""
    assert own() == {**dict.fromkeys(SETS, NET_ADMIN), "CapInh": 0, "CapAmb": 0}
    assert of_a_program() == {**dict.fromkeys(SETS, NET_ADMIN), "CapInh": 0, "CapAmb": 0}
    assert raw_socket == "EPERM"
    assert Path("/proc/sys/net/ipv4/ip_forward").exists()
    socket.create_server(("127.0.0.1", 0)).close()
    assert [name for _, name in socket.if_nameindex()] == ["lo"]


@isolated(caps=())
@expect("passed")
def test_none_is_kept(raw_socket: str) -> None:
    """An empty list takes all of them, from root's programs too."""
    assert own() == of_a_program() == dict.fromkeys(SETS, 0)
    assert raw_socket == "EPERM"


@isolated(caps=["NET_ADMIN", "cap_net_raw"], init=True, pid=True, net=True)
@expect("passed")
def test_beside_an_init(raw_socket: str) -> None:
    """Names in either case, with or without their prefix; also under ``init=True``."""
    assert own()["CapPrm"] == NET_ADMIN | NET_RAW
    assert raw_socket == ""


@isolated(caps=["net_admin"], user="same")
@expect("passed")
def test_no_more_than_the_runner() -> None:
    """``user="same"`` gives no more than the runner holds, whatever is named."""
    assert own()["CapPrm"] == (NET_ADMIN if ROOT else 0)
    assert own()["CapBnd"] == NET_ADMIN


@isolated(caps=["net_raw", "net_admin"])
class TestMerged:
    @isolated(caps="net_raw")
    @expect("passed")
    def test_closest_wins(self) -> None:
        assert own()["CapPrm"] == NET_RAW

    @expect("passed")
    def test_class(self) -> None:
        assert own()["CapPrm"] == NET_ADMIN | NET_RAW


@pytest.fixture(scope="session")
def ambient() -> None:
    """The runner has an ambient capability, as a service manager gives it."""
    effective, permitted, inheritable = syscalls.capget()
    syscalls.capset(effective, permitted, inheritable | NET_RAW)
    pr_cap_ambient, pr_cap_ambient_raise, net_raw = 47, 2, 13
    assert ctypes.CDLL(None).prctl(pr_cap_ambient, pr_cap_ambient_raise, net_raw, 0, 0) == 0


@pytest.mark.skipif(not ROOT, reason="for the host's root")
@isolated(caps=["net_admin"], user=False)
@expect("passed")
def test_ambient_and_inheritable(ambient: None) -> None:
    """What is not kept goes from these sets too, without a user namespace as well."""
    assert own() == {**dict.fromkeys(SETS, NET_ADMIN), "CapInh": 0, "CapAmb": 0}


@pytest.mark.skipif(not ROOT, reason="for the host's root")
@isolated(user=False)
@expect("passed")
def test_ambient_without(ambient: None) -> None:
    """The control: such a capability is inherited there."""
    assert own()["CapInh"] & own()["CapAmb"] & NET_RAW


@isolated(no_new_privs=True)
@expect("passed")
def test_no_new_privileges() -> None:
    """The flag is set, for the test and what it starts; its own capabilities stay."""
    assert "NoNewPrivs:\t1" in Path("/proc/self/status").read_text()
    done = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True)
    assert "NoNewPrivs:\t1" in done.stdout
    assert own()["CapEff"] & NET_ADMIN


@isolated
@expect("passed")
def test_new_privileges() -> None:
    """The control."""
    assert "NoNewPrivs:\t0" in Path("/proc/self/status").read_text()


@isolated(devices=["nsisolate-none"])
@expect("setup failed", "find /dev/nsisolate-none", "--device PATH")
def test_a_device_that_the_host_lacks() -> None:
    raise AssertionError("it ran")


@isolated(devices=["nsisolate-none"], missing="skip")
@expect("setup skipped")
def test_or_it_is_skipped() -> None:
    raise AssertionError("it ran")
