# SPDX-License-Identifier: MIT
"""The parsers of ``/proc``: what the kernel writes, and names that look like its separators."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_nsisolate.kernel import originals, proc

#: Blanks, parentheses, and what ends a line for Python but not for the kernel.
ODD = "a) S 1\r\f\x85\u2028\xa0("

STAT = (
    b"17 (%s) Z 1 17 9 34816 17 4194304 9 0 0 0 30 20 7 3 20 0 2 0 600 1 2 18446744073709551615\n"
)


@pytest.fixture
def sleeping() -> Iterator[int]:
    """A shell that waits for a child of its own."""
    command = ["sh", "-c", "sleep 100 & echo; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        for pid in [*proc.descendants(process.pid), process.pid]:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("name", [b"sh", b"", os.fsencode(ODD), b")", b"\n) R 2 ("])
def test_a_process_may_have_any_name(name: bytes) -> None:
    """Behind the last parenthesis there are numbers only."""
    found = proc.stat(STAT % name)

    assert found == (name, "Z", 1, 17, 9, 34816, 0x400000, 60, 2, 600)
    assert not found.is_kernel_thread
    assert (found.cpu_seconds, found.started) == (
        60 / os.sysconf("SC_CLK_TCK"),
        600 / os.sysconf("SC_CLK_TCK"),
    )


def test_this_process_is_the_one_that_it_is() -> None:
    """The columns are those that this kernel writes."""
    used = time.process_time()
    found = proc.stat(Path("/proc/self/stat").read_bytes())

    assert found.name.decode() == proc.name_of(os.getpid())
    assert (found.state, found.ppid, found.pgid) == ("R", os.getppid(), os.getpgrp())
    assert found.sid == os.getsid(0)
    assert 0 < found.started < time.clock_gettime(time.CLOCK_BOOTTIME)
    assert used < found.cpu_seconds + 0.1  # ticks are coarse


def test_a_name_makes_no_other_field() -> None:
    """The kernel escapes newlines in it, and no other end of a line."""
    text = f"Name:\t{ODD}\x85State:\tX\nState:\tS (sleeping)\nGroups:\t \n"

    found = proc.status(text.encode())

    assert found["State"] == "S (sleeping)"
    assert found["Groups"] == ""


def test_arguments_may_be_empty() -> None:
    """Each ends with a zero; a zombie has none."""
    assert proc.arguments(b"sh\0\0-c\0") == [b"sh", b"", b"-c"]
    assert proc.arguments(b"\0") == [b""]
    assert proc.arguments(b"") == []


def test_those_below_a_process_are_found(sleeping: int) -> None:
    """Itself is not among them; nobody is below one that is gone."""
    (child,) = proc.children_of(sleeping)

    assert [*proc.descendants(sleeping)] == [child]
    assert {sleeping, child} <= {*proc.descendants(os.getpid())} <= {*proc.pids()}
    with pytest.raises(OSError):
        proc.children_of(2**22 + 1)
    assert [*proc.descendants(2**22 + 1)] == []


def test_a_thread_that_ends_meanwhile_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, sleeping: int
) -> None:
    """The children of the others are still told."""
    listed = originals.os.listdir
    monkeypatch.setattr(originals.os, "listdir", lambda path: ["4194305", *listed(path)])

    assert len(proc.children_of(sleeping)) == 1


def test_what_descriptors_lead_to() -> None:
    """One that is closed between the list and the look is left out: that of the list itself."""
    read, write = os.pipe()
    try:
        found = dict(proc.descriptors("self"))
        assert found[str(read)] == found[str(write)] == f"pipe:[{os.fstat(read).st_ino}]"
    finally:
        os.close(read)
        os.close(write)
    assert str(read) not in dict(proc.descriptors(os.getpid()))


def test_a_mount_is_read_whatever_its_paths_are() -> None:
    """What the kernel escapes, and what it does not; tags may be missing."""
    odd = "/a\\040b\\134040\r\x85\xa0\udcff"
    text = (
        f"36 35 98:0 {odd} {odd} rw,noatime master:1 unbindable - ext3 {odd} rw,errors=a\\054b\n"
        "37 36 0:5 / /proc ro - proc  rw\n"
    )

    first, second = proc.mounts(os.fsencode(text))

    plain = "/a b\\040\r\x85\xa0\udcff"
    assert first == proc.Mount(
        *(36, 35, "98:0", plain, plain, "rw,noatime", ("master:1", "unbindable")),
        *("ext3", plain, "rw,errors=a\\054b"),
    )
    assert [*map(proc.unescaped, first.super_options.split(","))] == ["rw", "errors=a,b"]
    assert (second.point, second.tags, second.source) == ("/proc", (), "")


def test_every_mount_of_this_machine_is_read() -> None:
    """None is passed over."""
    content = Path("/proc/self/mountinfo").read_bytes()

    assert len([*proc.mounts(content)]) == content.count(b"\n") > 0


def test_maps_and_groups() -> None:
    """Numbers in columns; a path may have colons in it."""
    assert proc.id_map(b"         0       1000          1\n1 100000 65536\n") == [
        (0, 1000, 1),
        (1, 100000, 65536),
    ]
    assert proc.cgroups(b"4:cpu,cpuacct:/a:b\n1:name=systemd:/\n0::/x\ry\n") == [
        ("cpu,cpuacct", "/a:b"),
        ("name=systemd", "/"),
        ("", "/x\ry"),
    ]


def test_another_namespaces_proc_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one that is not there."""
    proc.check_own()
    monkeypatch.setattr(originals.os, "getpid", lambda: 0)
    with pytest.raises(OSError, match="another PID namespace"):
        proc.check_own()
