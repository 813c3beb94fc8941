# SPDX-License-Identifier: MIT
"""PID 1's view of its world: what it says is what the kernel says, at that moment."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

import pytest

from pytest_nsisolate import Pid1View
from tests.support import NEEDS_NAMESPACES
from tests.witness import namespaces

pytestmark = NEEDS_NAMESPACES

EVERY_WAY = [
    pytest.param(marks=pytest.mark.isolated(), id="default"),
    pytest.param(marks=pytest.mark.isolated(init=True, hostname="view"), id="init"),
    pytest.param(marks=pytest.mark.isolated(user="same"), id="same"),
    pytest.param(marks=pytest.mark.isolated(uts=True), id="uts"),
    pytest.param(marks=pytest.mark.isolated(False), id="plain"),
]


@pytest.fixture(scope="module")
def at_home() -> dict[str, int]:
    """The runner's namespaces, by its own view."""
    return Pid1View().namespaces


@pytest.mark.parametrize((), EVERY_WAY)
class TestView:
    def test_numbers_and_names(self) -> None:
        """Pid and hostname are this process's."""
        view = Pid1View()
        assert view.pid == os.getpid()
        assert view.hostname == socket.gethostname() == os.uname().nodename

    def test_namespaces(self) -> None:
        """Each kind by the marker's name, with the inode that /proc shows."""
        assert Pid1View().namespaces == namespaces()

    @pytest.mark.parametrize("name", ["uid_map", "gid_map"])
    def test_maps(self, name: str) -> None:
        """Extents as rows of three numbers."""
        rows = getattr(Pid1View(), name)
        text = "\n".join(" ".join(map(str, row)) for row in rows)
        assert text.split() == Path(f"/proc/self/{name}").read_text().split()
        assert all(len(row) == 3 for row in rows)


@pytest.mark.isolated(pid=True, hostname="here")
def test_inside_and_outside_differ(at_home: dict[str, int]) -> None:
    """PID 1, the marker's hostname, and exactly the namespaces that were asked for."""
    view = Pid1View()
    assert (view.pid, view.hostname) == (1, "here")
    fresh = {name for name, inode in view.namespaces.items() if inode != at_home[name]}
    assert fresh == {"pid", "mount", "user", "uts"}


@pytest.mark.isolated(init=True)
def test_behind_a_reaper_it_is_pid_2() -> None:
    """The number is the test's own, not the reaper's."""
    assert Pid1View().pid == 2


@pytest.mark.isolated(uts=True)
def test_is_read_when_asked() -> None:
    """A change shows at once."""
    view = Pid1View()
    socket.sethostname("first")
    assert view.hostname == "first"
    socket.sethostname("second")
    assert view.hostname == "second"


def test_is_read_only() -> None:
    """Nothing of it can be assigned to."""
    view = Pid1View()
    with pytest.raises((AttributeError, dataclasses.FrozenInstanceError, TypeError)):
        view.hostname = "x"  # type: ignore[misc]
    with pytest.raises((AttributeError, dataclasses.FrozenInstanceError, TypeError)):
        view.other = "x"  # type: ignore[attr-defined]
