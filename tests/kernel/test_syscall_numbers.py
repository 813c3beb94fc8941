# SPDX-License-Identifier: MIT
"""The table of system calls is what other tools say."""

from __future__ import annotations

import re
import subprocess
from typing import Final

import pytest

from pytest_nsisolate.kernel import syscall_numbers
from tests.support import needs_program

MACHINES: Final = ("x86_64", "aarch64")


def ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


@needs_program("scmp_sys_resolver")
@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_as_libseccomp_says(machine: str) -> None:
    """Of every name that it knows: the number; or that the machine has no such call."""
    known = syscall_numbers.numbers(machine)
    told = {name: ask("scmp_sys_resolver", "-a", machine, name) for name in known}
    # One that is newer than the library is unknown to it: -1.
    compared = {name: int(said) for name, said in told.items() if said not in ("", "-1")}
    assert compared == {name: known[name] for name in compared}
    assert len(compared) > len(known) - 40


@needs_program("ausyscall")
@pytest.mark.parametrize("machine", MACHINES)
def test_every_name_of_the_audit_tools_is_there(machine: str) -> None:
    """By number: no call is missing, and none has another's number."""
    known = syscall_numbers.numbers(machine)
    rows = re.findall(r"^(\d+)\s+(\w+)$", ask("ausyscall", machine, "--dump"), re.MULTILINE)
    assert len(rows) > 250
    names = {number: name for name, number in known.items()}
    for number, name in rows:
        assert int(number) in names, name
        # The tools call some by the kernel's function.
        spellings = {
            name,
            name.removeprefix("sys_"),
            f"new{name}",
            name.replace("umount", "umount2"),
        }
        assert names[int(number)] in spellings or known.get(name) in (None, int(number)), name


@pytest.mark.parametrize("machine", MACHINES)
def test_no_number_is_given_twice(machine: str) -> None:
    """What would make one fault hit two calls."""
    known = syscall_numbers.numbers(machine)
    assert len(set(known.values())) == len(known)


def test_another_machine_has_no_table() -> None:
    """Instead of a wrong one."""
    assert not syscall_numbers.numbers("riscv64")
    assert syscall_numbers.numbers("aarch64")["openat"] == 56
    assert "open" not in syscall_numbers.numbers("aarch64")


def test_arguments_are_of_calls_that_there_are() -> None:
    """A misspelt name in the lists of arguments would never be found."""
    names = syscall_numbers.every_name()
    assert set(syscall_numbers.path_arguments()) <= names
    assert set(syscall_numbers.descriptor_arguments()) <= names
    assert syscall_numbers.path_arguments()["renameat2"] == ((1, 0), (3, 2))
    assert syscall_numbers.path_arguments()["rename"] == ((0, -1), (1, -1))
    assert syscall_numbers.path_arguments()["openat"] == ((1, 0),)
