# SPDX-License-Identifier: MIT
"""Its own ``/etc``, its own links: by hand that was a root user, a chroot and veth pairs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_nsisolate import Testbed

ANNOUNCER = [sys.executable, str(Path(__file__).with_name("announcer.py"))]
NEIGHBOURS = Path("/var/lib/announcer/neighbours")


def isolated(configuration: str) -> pytest.MarkDecorator:
    """Files that are the test's alone, with this configuration among them."""
    return pytest.mark.isolated(root="overlay", files={"/etc/announcer.conf": configuration})


@isolated("name = box\n")
def test_without_links_it_has_nothing_to_do() -> None:
    """``lo`` is the only link here, whatever the machine has."""
    subprocess.run([*ANNOUNCER, "0"], check=True, timeout=30)


@isolated("nam = box\n")
def test_a_name_is_wanted() -> None:
    """The message names the file."""
    command = [*ANNOUNCER, "0"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)

    assert (done.returncode, done.stderr) == (1, "announcer: /etc/announcer.conf: no name\n")


@isolated("name = box\n")
def test_two_machines_hear_each_other(testbed: Testbed) -> None:
    """On a cable between two hosts; the state is thrown away with the test's files."""
    lan = testbed.network("192.0.2.0/24")
    left, right = testbed.host("left", lan), testbed.host("right", lan)

    with left.start([*ANNOUNCER, "1"]):
        right.run([*ANNOUNCER, "1"], timeout=30)

    assert NEIGHBOURS.read_text() == "box\n"


def test_control_the_machine_has_no_such_file() -> None:
    """Nothing of all that is there outside."""
    assert not Path("/etc/announcer.conf").exists()
    assert not NEIGHBOURS.exists()
