# SPDX-License-Identifier: MIT
"""``uts=True``: a host name of one's own, given by the marker or set by the test."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from examples.system.conftest import Shell


@pytest.mark.isolated(hostname="db1.example")
def test_the_marker_names_the_host(here: Shell, host: Shell) -> None:
    """``hostname=`` is what programs see, and only here."""
    assert here("uname -n") == "db1.example"
    assert host("uname -n") != "db1.example"


@pytest.mark.isolated(uts=True)
def test_rename_the_host(here: Shell, host: Shell) -> None:
    """Code that calls sethostname(2) can be tested: the name begins as a copy of the host's."""
    name = host("uname -n")
    assert here("uname -n") == name

    socket.sethostname("renamed.example")

    assert here("uname -n") == "renamed.example"
    assert host("uname -n") == name


@pytest.mark.isolated(False)
def test_control_in_the_runner_there_is_one_name(here: Shell, host: Shell) -> None:
    """Without the marker a test has the host's name, and would rename the host."""
    assert here("uname -n") == host("uname -n")
