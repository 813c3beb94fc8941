# SPDX-License-Identifier: MIT
"""Files that are thrown away: a real package is installed, and half of the system is removed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from examples.system.conftest import Shell
    from pytest_nsisolate import Pid1View

pytestmark = pytest.mark.isolated(root="overlay")

CONTROL = """\
Package: greeter-demo
Version: 1.0
Architecture: all
Maintainer: nobody <nobody@example.org>
Description: says hello
"""

needs_dpkg = pytest.mark.skipif(
    shutil.which("dpkg-deb") is None, reason="dpkg is how Debian installs; this is no Debian"
)


@pytest.fixture
def package(tmp_path: Path, here: Shell) -> Path:
    """A Debian package with one program."""
    (tmp_path / "package/DEBIAN").mkdir(parents=True)
    (tmp_path / "package/DEBIAN/control").write_text(CONTROL)
    program = tmp_path / "package/usr/bin/greeter-demo"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    here(f"cd '{tmp_path}' && dpkg-deb --root-owner-group --build package greeter.deb")
    return tmp_path / "greeter.deb"


@needs_dpkg
def test_dpkg_installs_a_package(package: Path, pid1: Pid1View, here: Shell, host: Shell) -> None:
    """By the dpkg of this machine, into its own database; also if you are not root."""
    here(f"PATH=$PATH:/usr/sbin:/sbin dpkg -i '{package}'")

    assert here("greeter-demo") == "hello"
    assert "greeter-demo" in here("dpkg -l greeter-demo")
    pid1.assert_files(
        created="/usr/bin/greeter-demo",
        modified="/var/lib/dpkg/status",
        ignoring=["/var/lib/dpkg/**", "/var/log/**", "/var/cache/**"],
    )
    assert host("command -v greeter-demo || echo none") == "none"
    assert host("dpkg -l greeter-demo 2>/dev/null || echo none") == "none"


def test_rm_rf(here: Shell, host: Shell) -> None:
    """What would end any machine ends with the test."""
    here("rm -rf /etc/* /usr/bin/* /usr/sbin/*")

    assert os.listdir("/usr/bin") == []
    assert not os.path.exists("/etc/passwd")
    assert host("test -s /etc/passwd && test -x /usr/bin/env && echo there") == "there"
