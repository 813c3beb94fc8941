# SPDX-License-Identifier: MIT
"""All at once, and what stays out of reach: a bare marker, the namespaces it gives, the guards."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from examples.system.conftest import Shell

KINDS = ["pid", "mnt", "net", "uts", "ipc", "cgroup"]


@pytest.mark.isolated
@pytest.mark.parametrize("kind", KINDS)
def test_a_bare_marker_isolates_everything(kind: str, host: Shell) -> None:
    """``@pytest.mark.isolated`` alone: each namespace is another one than the host's."""
    assert os.readlink(f"/proc/self/ns/{kind}") != host(f"readlink /proc/self/ns/{kind}")


@pytest.mark.isolated(False)
@pytest.mark.parametrize("kind", KINDS)
def test_control_without_a_marker_nothing_is_isolated(kind: str, host: Shell) -> None:
    """In the runner each namespace is the host's."""
    assert os.readlink(f"/proc/self/ns/{kind}") == host(f"readlink /proc/self/ns/{kind}")


@pytest.mark.isolated(cgroup=True)
def test_cgroups_begin_at_the_root() -> None:
    """A control group is seen as the root of its tree, as a container runtime expects it."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        assert line.endswith(":/"), line


@pytest.mark.isolated
@pytest.mark.parametrize(
    "path",
    ["/proc/sys/kernel/panic", "/proc/sys/vm/overcommit_memory"],
)
def test_the_machines_own_knobs_are_out_of_reach(path: str) -> None:
    """What belongs to the whole machine and to no namespace is read-only, for root as well."""
    with pytest.raises(OSError) as caught, open(path, "w"):
        pass

    assert caught.value.errno in (errno.EROFS, errno.EACCES)
