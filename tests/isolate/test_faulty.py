# SPDX-License-Identifier: MIT
"""Faults on demand in boxes and on hosts: what is in there is hit, and nothing else."""

from __future__ import annotations

from typing import Final

import pytest

from pytest_nsisolate.kernel import seccomp, syscall_numbers
from tests.inner_runs import SIDES, Side, run_batch
from tests.support import NEEDS_NAMESPACES, needs

pytestmark = [
    NEEDS_NAMESPACES,
    needs(bool(syscall_numbers.numbers()) and seccomp.refusal() is None, "needs faults on demand"),
]

SUITE: Final = """
import subprocess

import pytest

def look():
    with open("/etc/hostname") as file:
        return bool(file.read())

@pytest.mark.isolated
def test_a_box(isolate):
    with isolate.open() as box, isolate.open() as other:
        with box.fail("openat", "EMFILE", path="/etc/hostname") as fault:
            assert look()
            assert other.run(look)
            assert other.command(["cat", "/etc/hostname"]).returncode == 0
            with pytest.raises(OSError, match="Too many open files"):
                box.run(look)
            said = box.command(["cat", "/etc/hostname"])
            assert "Too many open files" in said.stderr
        assert fault.count == 2
        assert {call.process for call in fault.calls} >= {"cat"}
        assert box.run(look)

@pytest.mark.isolated
def test_beside_those_of_the_test(isolate, pid1):
    with isolate.open() as box:
        with pid1.fail("openat", "EACCES", path="/etc/hostname", times=1):
            with pytest.raises(PermissionError):
                look()
        with box.delay("openat", 0.01, path="/etc/hostname") as slow:
            assert look()
            assert box.run(look)
        assert slow.count == 1

@pytest.mark.isolated
def test_a_host(testbed):
    lan = testbed.network("10.0.0.0/24")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    with a.fail("openat", "EIO", path="/etc/hostname"):
        assert a.run("cat /etc/hostname", check=False).returncode == 1
        assert b.run("cat /etc/hostname", check=False).returncode == 0

def test_not_isolated(isolate):
    with isolate.open() as box:
        with pytest.raises(RuntimeError, match="faults are for an isolated test"):
            with box.fail("openat", "EIO"):
                pass
        with pytest.raises(TypeError, match="did you mean 'path'"):
            box.fail("openat", "EIO", pth="x")
"""


@pytest.mark.parametrize("side", SIDES)
def test_boxes_and_hosts(side: Side) -> None:
    """Functions, commands and programs of one box; not the test, not another box."""
    result = run_batch({"test_it.py": SUITE}, side, gone=True)
    every = {f"test_{line.partition('(')[0]}" for line in SUITE.split("def test_")[1:]}
    assert result.passed() == every, result.text
