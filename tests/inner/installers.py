# SPDX-License-Identifier: MIT
"""Real installers in a root of the test's own: nothing is simulated, and nothing is on the host."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Final

import pytest

from pytest_nsisolate import Pid1View

expect = pytest.mark.expect("passed")
pytestmark = pytest.mark.isolated(root="overlay")

PATH: Final = f"{os.environ['PATH']}:/usr/sbin:/sbin"
NOISE: Final = ("/var/log/**", "/var/cache/**", "/etc/*-", "/etc/.pwd.lock", "/etc/*shadow")


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [name for name in programs if shutil.which(name, path=PATH) is None]
    return pytest.mark.skipif(bool(missing), reason=f"this machine has no {', '.join(missing)}")


def run(*command: str, cwd: Path | None = None) -> str:
    environment = {**os.environ, "PATH": PATH, "HOME": "/tmp", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")
    path.chmod(mode)


@pytest.fixture
def package(tmp_path: Path) -> str:
    """A small one with a program, a configuration and a script."""
    top = tmp_path / "package"
    control = "Package: nsi-greeter\nVersion: 1.0\nArchitecture: all\nMaintainer: none\n"
    write(top / "DEBIAN/control", f"{control}Description: greets\n")
    write(top / "DEBIAN/conffiles", "/etc/nsi-greeter/greeter.conf\n")
    write(top / "DEBIAN/postinst", "#!/bin/sh\necho done > /var/lib/nsi-greeter\n", 0o755)
    write(top / "etc/nsi-greeter/greeter.conf", "greeting = hello\n")
    write(top / "usr/bin/nsi-greeter", "#!/bin/sh\necho hello\n", 0o755)
    run("dpkg-deb", "--root-owner-group", "--build", str(top), str(tmp_path / "greeter.deb"))
    return str(tmp_path / "greeter.deb")


@needs("dpkg", "dpkg-deb")
@expect
def test_dpkg(package: str, pid1: Pid1View) -> None:
    run("dpkg", "--install", package)
    assert run("nsi-greeter") == "hello\n"
    pid1.assert_files(
        created=[
            *("/usr/bin/nsi-greeter", "/etc/nsi-greeter", "/var/lib/nsi-greeter"),
            "/var/lib/dpkg/info/nsi-greeter.*",
        ],
        modified="/var/lib/dpkg/status",
        ignoring=[*NOISE, "/var/lib/dpkg/**"],
    )
    run("dpkg", "--purge", "nsi-greeter")
    pid1.assert_files(created="/var/lib/nsi-greeter", ignoring=[*NOISE, "/var/lib/dpkg/**"])


@needs("apt-get", "dpkg-deb")
@expect
def test_apt(package: str, pid1: Pid1View) -> None:
    """Its own sandbox takes another user, which a rootless test does not have."""
    run("apt-get", "-o", "APT::Sandbox::User=root", "install", "--yes", package)
    assert run("nsi-greeter") == "hello\n"
    pid1.assert_unchanged("/home", "/root", "/boot")
    pid1.assert_files(
        created=["/usr/bin/nsi-greeter", "/etc/nsi-greeter", "/var/lib/nsi-greeter"],
        modified="/var/lib/dpkg/status",
        ignoring=[*NOISE, "/var/lib/dpkg/**", "/var/lib/apt/**"],
    )


@needs("python3")
@expect
def test_pip(tmp_path: Path, pid1: Pid1View) -> None:
    wheel = tmp_path / "nsi_greeter-1-py3-none-any.whl"
    info = "nsi_greeter-1.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("nsi_greeter.py", "")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: nsi-greeter\nVersion: 1\n"
        )
        tags = "Root-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: none\n{tags}")
        archive.writestr(f"{info}/RECORD", "")
    python = "/usr/bin/python3"
    if not os.path.exists(python) or subprocess.run([python, "-m", "pip", "--version"]).returncode:
        pytest.skip("this machine's own Python has no pip")
    options = ("--break-system-packages", "--no-deps", "--no-index", "--no-compile")
    run(python, "-m", "pip", "install", *options, "--prefix=/usr", str(wheel))
    pid1.assert_files(
        created=["/usr/**/nsi_greeter.py", f"/usr/**/{info}"], ignoring=["/tmp/**", *NOISE]
    )


@needs("make", "install", "ldconfig")
@expect
def test_make_install(tmp_path: Path, pid1: Pid1View) -> None:
    rule = "install -d /usr/local/lib/nsi && install -m 755 Makefile /usr/local/bin/nsi && ldconfig"
    write(tmp_path / "Makefile", f"install:\n\t{rule}\n")
    run("make", "install", cwd=tmp_path)
    made = ["/usr/local/lib/nsi", "/usr/local/bin/nsi"]
    pid1.assert_files(created=made, ignoring=["/etc/ld.so.cache", *NOISE])


@needs("ldconfig")
@expect
def test_ldconfig(pid1: Pid1View) -> None:
    libraries = run("ldconfig", "-p").splitlines()
    known = next(line.split()[-1] for line in libraries if "libz.so" in line or "libc.so" in line)
    library = Path("/opt/nsi/lib", Path(known).name)
    library.parent.mkdir(parents=True)
    shutil.copyfile(known, library)
    write(Path("/etc/ld.so.conf.d/nsi.conf"), "/opt/nsi/lib\n")
    run("ldconfig")
    assert str(library) in run("ldconfig", "-p")
    pid1.assert_files(
        created=["/opt/nsi", "/etc/ld.so.conf.d/nsi.conf"],
        modified="/etc/ld.so.cache",
        ignoring=["/var/cache/ldconfig/**", "/usr/**/*.so*", "/lib*/**/*.so*"],
    )


@needs("useradd", "id")
@expect
def test_useradd(pid1: Pid1View) -> None:
    run("useradd", "--system", "nsiuser")
    assert "nsiuser" in run("id", "nsiuser")
    pid1.assert_files(
        modified=["/etc/passwd", "/etc/group"], ignoring=[*NOISE, "/etc/sub?id", "/var/mail/**"]
    )


@needs("systemd-sysusers", "id")
@expect
def test_sysusers(tmp_path: Path, pid1: Pid1View) -> None:
    write(tmp_path / "nsi.conf", 'u nsisys - "a user of the system"\n')
    run("systemd-sysusers", str(tmp_path / "nsi.conf"))
    assert "nsisys" in run("id", "nsisys")
    pid1.assert_files(modified=["/etc/passwd", "/etc/group"], ignoring=NOISE)


@needs("update-alternatives")
@expect
def test_alternatives(pid1: Pid1View) -> None:
    run("update-alternatives", "--install", "/usr/bin/nsi-tool", "nsi-tool", "/bin/true", "10")
    run("nsi-tool")
    pid1.assert_files(
        created=["/usr/bin/nsi-tool", "/etc/alternatives/nsi-tool", "/var/lib/dpkg/**/nsi-tool"],
        ignoring=NOISE,
    )


@needs("git")
@expect
def test_git_clone(tmp_path: Path, pid1: Pid1View) -> None:
    source = str(tmp_path / "source")
    run("git", "init", "--quiet", source)
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody")
    run("git", "-C", source, *who, "commit", "--quiet", "--allow-empty", "--message=first")
    run("git", "-c", "safe.directory=*", "clone", "--quiet", source, "/opt/nsi-clone")
    pid1.assert_files(created="/opt/nsi-clone")


SCRIPT: Final = """#!/bin/sh
set -e
mkdir -p /etc/nsi-greeter /usr/local/bin /var/lib/nsi-greeter
echo 'greeting = hello' > /etc/nsi-greeter/greeter.conf
cp /bin/echo /usr/local/bin/nsi-greeter
sed -i 's/^127.0.0.1\\s/127.0.0.1 nsi-greeter /' /etc/hosts
ln -s /usr/local/bin/nsi-greeter /usr/local/bin/nsi-hello
"""


@pytest.mark.isolated(files={"/etc/hosts": "127.0.0.1 localhost\n"})
@expect
def test_install_script(tmp_path: Path, pid1: Pid1View) -> None:
    write(tmp_path / "install.sh", SCRIPT, 0o755)
    run(str(tmp_path / "install.sh"))
    pid1.assert_files(
        created=["/etc/nsi-greeter", "/usr/local/bin/nsi-*", "/var/lib/nsi-greeter"],
        modified="/etc/hosts",
    )
    assert run("nsi-hello", "hello") == "hello\n"
