# SPDX-License-Identifier: MIT
"""``user``: root inside, whoever started pytest outside, and powers over the test's own world."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from examples.system.conftest import Shell


def id_outside(inside: int) -> int:
    """Which id of the host stands behind an id of this place, user_namespaces(7)."""
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first_here, first_there, count = map(int, line.split())
        if first_here <= inside < first_here + count:
            return first_there + inside - first_here
    raise LookupError(f"uid {inside} is nobody of the host")


@pytest.mark.isolated(user=True)
def test_root_here_is_not_root_there(here: Shell, host: Shell, tmp_path: Path) -> None:
    """uid 0 in the test; for the host, the id map and its files say, it is who started pytest."""
    runner = host("id -u")
    created = tmp_path / "by-root"
    created.touch()

    assert here("id -u") == "0"
    assert id_outside(0) == int(runner)
    assert here(f"stat -c %u '{created}'") == "0"
    assert host(f"stat -c %u '{created}'") == runner


@pytest.mark.isolated(pid=True, user=True)
def test_root_here_has_no_power_over_the_host(host: Shell) -> None:
    """Even if root started pytest: this test did not ask for ``uts``, so the name is the host's."""
    name = host("uname -n")

    with pytest.raises(PermissionError):
        socket.sethostname(name)  # the name that it has


@pytest.mark.isolated(uts=True, user=True)
def test_root_here_has_power_over_what_is_its_own(host: Shell) -> None:
    """The same call about a name of one's own is allowed, for an unprivileged user as well."""
    name = host("uname -n")

    socket.sethostname(name)


@pytest.mark.isolated(user="same")
def test_stay_who_you_are(host: Shell) -> None:
    """``user="same"`` isolates a test that must not find itself root: its ids are the runner's."""
    assert os.getuid() == int(host("id -u"))
    assert os.getgid() == int(host("id -g"))


@pytest.mark.isolated(False)
def test_control_in_the_runner_everybody_is_who_they_are(here: Shell, host: Shell) -> None:
    """Without the marker there is one user namespace, and one meaning of every id."""
    assert here("readlink /proc/self/ns/user") == host("readlink /proc/self/ns/user")
    assert id_outside(os.getuid()) == id_outside(int(host("id -u")))
