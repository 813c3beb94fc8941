# SPDX-License-Identifier: MIT
"""Death with the parent, capabilities, orphans, being alone."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import namespaces, process, syscalls
from tests.support import NEEDS_ROOT

if TYPE_CHECKING:
    from tests.kernel.conftest import InChild, World

SECONDS = 10


def gone(pidfd: int) -> bool:
    """Did the process end within some seconds?"""
    return bool(select.select([pidfd], [], [], SECONDS)[0])


def test_a_child_dies_with_its_parent(in_child: InChild) -> None:
    def body() -> bool:
        process.become_subreaper()
        read, write = os.pipe()
        parent = os.fork()
        if parent == 0:
            itself = os.pidfd_open(os.getpid())
            child = os.fork()
            if child == 0:
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
                process.die_with_parent(itself)
                os.write(write, str(os.getpid()).encode())
            time.sleep(SECONDS)
            os._exit(0)
        child = os.pidfd_open(int(os.read(read, 100)))
        os.kill(parent, signal.SIGKILL)
        return gone(child)

    assert in_child(body) is True


def test_a_parent_that_died_before_is_noticed(in_child: InChild) -> None:
    """PDEATHSIG alone does not: it is armed too late, and fires never."""

    def body() -> Any:
        process.become_subreaper()
        read, write = os.pipe()
        parent = os.fork()
        if parent == 0:
            itself = os.pidfd_open(os.getpid())
            if os.fork() == 0:
                while not select.select([itself], [], [], 0)[0]:
                    time.sleep(0.001)
                try:
                    process.die_with_parent(itself)
                except StepError as error:
                    os.write(write, repr((error.step, error.namespace, error.errno)).encode())
            os._exit(0)
        os.waitpid(parent, 0)
        select.select([read], [], [], SECONDS)
        return eval(os.read(read, 1000))

    assert in_child(body) == ("parent-death check", None, errno.ESRCH)


def test_an_orphan_comes_to_the_subreaper(in_child: InChild) -> None:
    def body() -> bool:
        process.become_subreaper()
        if os.fork() == 0:
            if os.fork() == 0:
                os._exit(7)
            os._exit(0)
        return {os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)} == {0, 7}

    assert in_child(body) is True


def test_capabilities_are_those_of_the_status_file() -> None:
    held = process.capabilities()

    assert (held.effective, held.permitted, held.inheritable) == syscalls.capget()
    lines = Path("/proc/self/status").read_text().splitlines()
    bounding = next(line for line in lines if line.startswith("CapBnd"))
    assert held.bounding == int(bounding.split()[1], 16)


def test_the_names_are_in_the_kernels_order() -> None:
    names = process.CAPABILITY_NAMES

    # capabilities(7) and linux/capability.h: a sample over the whole range.
    numbers = {"CAP_CHOWN": 0, "CAP_SETGID": 6, "CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
    numbers |= {"CAP_SYS_TIME": 25, "CAP_SYSLOG": 34, "CAP_CHECKPOINT_RESTORE": 40}
    assert {name: names.index(name) for name in numbers} == numbers
    assert len(set(names)) == len(names)


def test_capabilities_that_are_dropped_are_gone(user_world: World) -> None:
    keep = 1 << 12 | 1 << 40  # NET_ADMIN and the highest, in the second word of the structure

    def body() -> Any:
        process.limit_capabilities(keep)
        held = process.capabilities()
        return held.effective, held.permitted, held.inheritable, held.bounding > keep

    assert user_world.run(body) == (keep, keep, 0, True)


def test_dropping_gains_nothing(in_child: InChild, become_stranger: Callable[[], None]) -> None:
    def body() -> Any:
        become_stranger()
        process.limit_capabilities(-1)
        held = process.capabilities()
        return held.effective, held.permitted

    assert in_child(body) == (0, 0)


def test_a_program_run_as_root_gets_no_more_than_the_bounding_set(user_world: World) -> None:
    """Without it, a mere exec would bring everything back: user id 0 inside."""
    keep = 1 << 12

    def body() -> Any:
        process.limit_capabilities(keep, keep)
        read, write = os.pipe()
        if os.fork() == 0:
            os.dup2(write, 1)
            os.execv("/bin/sh", ["sh", "-c", "grep -E '^Cap(Eff|Bnd)' /proc/self/status"])
        os.wait()
        return os.read(read, 1000).decode().split()

    mask = f"{keep:016x}"
    assert user_world.run(body) == ["CapEff:", mask, "CapBnd:", mask]


def test_the_bounding_set_needs_a_capability(
    in_child: InChild, become_stranger: Callable[[], None]
) -> None:
    def body() -> None:
        become_stranger()
        process.limit_capabilities(0, 0)

    with pytest.raises(StepError) as refusal:
        in_child(body)

    seen = (refusal.value.step, refusal.value.namespace, refusal.value.errno)
    assert seen == ("drop capabilities", "user", errno.EPERM)


def test_alone_until_there_is_another_process(world: World) -> None:
    def body() -> list[bool]:
        seen = [process.alone()]
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        seen.append(process.alone())
        pidfd = os.pidfd_open(pid)
        os.close(write)
        assert gone(pidfd)
        seen.append(process.alone())  # a zombie counts
        os.waitpid(pid, 0)
        seen.append(process.alone())
        return seen

    assert world.run(body) == [True, False, False, True]


@NEEDS_ROOT
def test_not_alone_among_processes_that_may_not_be_signalled(
    in_child: InChild, become_stranger: Callable[[], None]
) -> None:
    def body() -> bool:
        become_stranger()
        return process.alone()

    assert in_child(body) is False


def test_only_what_a_namespace_holds_counts(user_world: World) -> None:
    def body() -> bool:
        return process.alone() and namespaces.identities()["pid"] != 0

    assert user_world.run(body) is True


def test_a_limit_of_core_files_that_was_lowered_meanwhile_stays(user_world: World) -> None:
    """The hard limit as it was when the runner was asked would be a raise, and is no refusal."""

    def body() -> list[tuple[int, int]]:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        found = []
        for for_good in (False, True):
            process.forbid_core_files(for_good=for_good)
            found.append(resource.getrlimit(resource.RLIMIT_CORE))
        return found

    assert user_world.run(body) == [(0, 0), (0, 0)]


def test_core_files_are_forbidden_for_good(user_world: World) -> None:
    """The hard limit as well; else it stays as it was."""

    def body() -> list[int]:
        found = []
        for for_good in (False, True):
            process.forbid_core_files(for_good=for_good)
            found.append(resource.getrlimit(resource.RLIMIT_CORE)[1])
        return found

    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    assert user_world.run(body) == [hard, hard if 0 <= hard <= 1 else 1]
