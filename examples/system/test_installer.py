# SPDX-License-Identifier: MIT
"""An installer that writes to ``/etc``, tested as it is: the ``/etc`` that it finds is private."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from examples.system.conftest import Shell

INSTALL = f"sh '{Path(__file__).with_name('install.sh')}'"

pytestmark = pytest.mark.isolated(mount=True)


@pytest.fixture
def private_etc(tmp_path: Path, here: Shell) -> Path:
    """A copy of what the installer needs of ``/etc``, mounted over it.

    Function scope belongs to the test: this runs in the test's namespaces. Nothing needs to be
    unmounted, and the directory is there to be looked at afterwards.
    """
    etc = tmp_path / "etc"
    etc.mkdir()
    for name in ("passwd", "group"):
        shutil.copyfile(f"/etc/{name}", etc / name)
    here(f"mount --bind '{etc}' /etc")
    return etc


def test_install(private_etc: Path, here: Shell, host: Shell) -> None:
    """The settings are written and the user exists; on the host neither is the case."""
    here(INSTALL)

    assert Path("/etc/greeter/greeter.conf").read_text() == "greeting = hello\n"
    assert here("id -u greeter") == "990"
    assert host("test -e /etc/greeter || echo none") == "none"
    assert host("id -u greeter 2>/dev/null || echo none") == "none"


def test_installing_twice_changes_nothing(private_etc: Path, here: Shell) -> None:
    """The second run leaves every file as the first one wrote it."""
    here(INSTALL)
    once = here("cd /etc && cksum passwd group greeter/*")

    here(INSTALL)

    assert here("cd /etc && cksum passwd group greeter/*") == once
