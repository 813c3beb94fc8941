# SPDX-License-Identifier: MIT
"""Limits that a process sets for itself, and the ``pid_max`` of a PID namespace."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.host import examine
from pytest_nsisolate.kernel import rlimits
from pytest_nsisolate.kernel.readonly import SysctlWays
from pytest_nsisolate.kernel.rlimits import PidMax, Rlimit
from tests.support import needs

if TYPE_CHECKING:
    from tests.kernel.conftest import InChild, World


def test_a_limit_is_set_soft_and_hard(in_child: InChild) -> None:
    """And one cannot be raised again by who has no right to."""

    def body() -> list[Any]:
        Rlimit("RLIMIT_NOFILE", 50, 60).apply()
        first = resource.getrlimit(resource.RLIMIT_NOFILE)
        Rlimit("RLIMIT_NPROC", 50, 50).apply(extra=1)
        second = resource.getrlimit(resource.RLIMIT_NPROC)
        Rlimit("RLIMIT_FSIZE", 50, 50, most=50).apply(extra=1)
        assert resource.getrlimit(resource.RLIMIT_FSIZE) == (50, 50)
        os.setresuid(4321, 4321, 4321) if os.geteuid() == 0 else None
        try:
            Rlimit("RLIMIT_NOFILE", 70, 70).apply()
        except StepError as error:
            return [first, second, error.step, error.errno, error.detail]
        return []

    raised = ["setrlimit(RLIMIT_NOFILE)", errno.EPERM, "70"]
    assert in_child(body) == [(50, 60), (51, 51), *raised]


def test_whether_nproc_binds_is_asked_of_the_kernel(in_child: InChild) -> None:
    """An ordinary user is bound. No child, no zombie is left."""

    def body() -> list[Any]:
        if os.geteuid() == 0:
            os.setresuid(4321, 4321, 4321)
        binds = rlimits.is_refused_a_fork()
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return [binds, "alone"]
        return [binds, "left"]

    assert in_child(body) == [True, "alone"]


NEEDS_OWN_PID_MAX = needs(
    examine().kernel >= rlimits.FIRST_OWN_PID_MAX, "pid_max is the host's before Linux 6.14"
)


def _is_the_hosts_root() -> bool:
    try:
        mapped = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    except OSError:
        return False
    return os.geteuid() == 0 and mapped == ["0", "0", "4294967295"]


NEEDS_HOST_ROOT = needs(_is_the_hosts_root(), "is about the host's root")


@NEEDS_HOST_ROOT
def test_nproc_does_not_bind_root(in_child: InChild) -> None:
    """Whatever capabilities it has given up."""

    def body() -> bool:
        return rlimits.is_refused_a_fork()

    assert in_child(body) is False


def test_pid_max_of_the_host_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where what looks fresh reads as the runner's own, it may be the runner's own."""
    file = tmp_path / "pid_max"
    file.write_text("32768\n", encoding="ascii")
    monkeypatch.setattr(rlimits, "PID_MAX", str(file))
    with pytest.raises(StepError) as caught:
        PidMax(600, b"32768", SysctlWays()).apply()
    assert (caught.value.step, caught.value.errno) == ("write pid_max", errno.ENOSYS)
    assert file.read_text(encoding="ascii") == "32768\n"
    with pytest.raises(StepError) as caught:
        PidMax(600, b"1000", SysctlWays()).apply()
    assert caught.value.detail == "it has no effect"  # an ordinary file keeps its second line
    (tmp_path / "pid_max").unlink()
    with pytest.raises(StepError) as caught:
        PidMax(600, b"1000", SysctlWays()).apply()
    assert caught.value.errno == errno.ENOENT


@NEEDS_OWN_PID_MAX
@pytest.mark.usefixtures("attributes")
def test_pid_max_is_written_once_and_read_only_from_then_on(world: World) -> None:
    """Whether ``/proc/sys`` is protected, as under root, or not."""
    plan = rlimits.plan_pid_max(700)

    def body() -> Any:
        plan.apply()
        written = Path(rlimits.PID_MAX).read_text(encoding="ascii")
        refused = {}
        for path in (rlimits.PID_MAX, "/proc/sys/kernel/panic"):
            try:
                os.close(os.open(path, os.O_WRONLY))
            except OSError as error:
                refused[path] = errno.errorcode[error.errno or 0]
        return written, refused

    panic = "EACCES" if world.kind == "rootless" else "EROFS"
    refused = {rlimits.PID_MAX: "EROFS", "/proc/sys/kernel/panic": panic}
    assert world.run(body) == ("701\n", refused)


@NEEDS_OWN_PID_MAX
def test_the_runners_pid_max_is_only_read() -> None:
    """It is planned with what it reads now."""
    before = Path(rlimits.PID_MAX).read_bytes()
    plan = rlimits.plan_pid_max(700)
    assert (plan.processes, plan.outside) == (700, before.strip())
    assert Path(rlimits.PID_MAX).read_bytes() == before
