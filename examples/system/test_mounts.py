# SPDX-License-Identifier: MIT
"""``mount=True``: what the test mounts is mounted for the test only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from examples.system.conftest import Shell


@pytest.mark.isolated(mount=True)
def test_mount_over_etc(here: Shell, host: Shell) -> None:
    """An empty file system over ``/etc``; at the same moment the host has all of its ``/etc``."""
    assert "passwd" in os.listdir("/etc")
    mounts = host("grep ' /etc' /proc/self/mountinfo || true")

    here("mount -t tmpfs none /etc")
    Path("/etc/motd").write_text("nobody else reads this\n")

    assert os.listdir("/etc") == ["motd"]
    assert "passwd" in host("ls /etc").split()
    assert host("grep ' /etc' /proc/self/mountinfo || true") == mounts


@pytest.mark.isolated(False)
def test_control_in_the_runner_etc_is_the_hosts(here: Shell, host: Shell) -> None:
    """Without the marker a test has the host's mounts, and would cover the host's ``/etc``."""
    assert here("readlink /proc/self/ns/mnt") == host("readlink /proc/self/ns/mnt")
    assert here("ls /etc") == host("ls /etc")


@pytest.mark.isolated(mount=True)
def test_a_disk_that_is_full(here: Shell, tmp_path: Path) -> None:
    """A file system of 64 KiB shows what a program does when the disk is full."""
    here(f"mount -t tmpfs -o size=64k none {tmp_path}")

    with pytest.raises(OSError, match="No space left on device"):
        (tmp_path / "big").write_bytes(bytes(128 * 1024))
