# SPDX-License-Identifier: MIT
"""On a platform that is not Linux everything collects, and what cannot be isolated is refused.

Only such a platform can say what running there is like. What can be seen here is that nothing is
imported, or looked up, that it does not have.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support import write_files

#: Makes a platform of this one, and runs a module there: ``PLATFORM MODULE ARGUMENTS``.
ELSEWHERE: Final = """
import importlib.abc, io, os, runpy, select, signal, socket, sys
import asyncio, pathlib, subprocess, tempfile, threading  # as this machine has them

system, module = sys.argv[1:3]
sys.argv[:] = [module, *sys.argv[3:]]
missing = {"_prctl", "prctl", "psutil", "pyroute2"}
linux = {
    os: "CLONE_NEWNS MFD_CLOEXEC O_PATH O_TMPFILE P_PIDFD eventfd getxattr memfd_create pidfd_open"
        " sched_getaffinity sched_setaffinity setns unshare",
    select: "epoll",
    signal: "SIGRTMAX SIGRTMIN pidfd_send_signal sigtimedwait sigwaitinfo",
    socket: "AF_NETLINK AF_PACKET SO_PEERCRED",
}
windows = {
    os: "O_CLOEXEC WIFSIGNALED WNOHANG WTERMSIG chown fork getegid geteuid getgid getresuid getuid"
        " mkfifo posix_spawn register_at_fork setsid sysconf uname waitid",
    select: "poll",
    signal: "SIGCHLD SIGCONT SIGHUP SIGKILL SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIG_BLOCK alarm pause"
        " pthread_sigmask setitimer sigwait",
    socket: "AF_UNIX SCM_RIGHTS socketpair",
}
tempfile._O_TMPFILE_WORKS = False
if system == "win32":
    missing |= {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
    io._WindowsConsoleIO = type("_WindowsConsoleIO", (), {})
else:
    windows = {}
for names in (linux, windows):
    for owner, listed in names.items():
        for name in listed.split():
            if hasattr(owner, name):
                delattr(owner, name)
for name in missing:
    sys.modules.pop(name, None)

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

subprocess._USE_POSIX_SPAWN = False  # it would be looked up in os
sys.meta_path.insert(0, Missing())
sys.platform = system
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""

on_other_platforms = pytest.mark.parametrize("platform", ["darwin", "win32"])


def run_elsewhere(
    folder: Path, platform: str, *arguments: str, module: str = "pytest", **env: str
) -> subprocess.CompletedProcess[str]:
    options = ("-p", "nsisolate", "-p", "no:cacheprovider") if module == "pytest" else ()
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "NSIS", "PYTEST"))}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, platform, module, *options, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**clean, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **env},
        timeout=60,
    )
    assert "INTERNALERROR" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert "No module named" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done


SUITE: Final = """
import pytest, pytest_nsisolate
from pytest_nsisolate import Box, Difference, Isolate, Pid1View, Snapshot, Task

@pytest.fixture(scope="module")
def of_linux(): assert 0, "never set up"

def test_plain(): pass

@pytest.mark.isolated
def test_marked(of_linux): assert 0, "never run"

@pytest.mark.isolated(net=True, limits={"memory": "100M"}, timeout=3, caps=["chown"])
def test_pid1(pid1: Pid1View): assert 0, "never run"

@pytest.mark.isolated
@pytest.mark.xfail
def test_expected_to_fail(): assert 0, "never run"

@pytest.mark.isolated
@pytest.mark.skip(reason="of the suite")
def test_skipped(): pass

@pytest.mark.isolated(missing="skip")
def test_missing(): assert 0, "never run"

def test_calls(isolate: Isolate):
    for call in (isolate, isolate.start, isolate.using(pid=True, trusted=True)):
        with pytest.raises(pytest_nsisolate.IsolatedRefusal, match="a part of Linux"):
            call(len, "")
    with pytest.raises(pytest_nsisolate.IsolatedRefusal, match="a part of Linux"):
        isolate.open()
    with pytest.raises(pytest.UsageError, match="nett"):
        isolate.using(nett=True)

def test_last(): pass
"""


@on_other_platforms
def test_what_cannot_be_isolated_is_refused_and_the_others_run(
    tmp_path: Path, platform: str
) -> None:
    """With one sentence; whatever the test is marked with, and whatever it has for arguments."""
    write_files(tmp_path, {"test_it.py": SUITE})
    done = run_elsewhere(tmp_path, platform, "-rA", "--junitxml=junit.xml")
    assert done.returncode == 1
    assert "3 passed, 2 skipped, 3 errors" in done.stdout, done.stdout
    assert done.stdout.count(f"cause: namespaces are a part of Linux, and this is {platform}") == 1
    assert done.stdout.count("cause and remedy: as above (first at test_it.py::test_marked)") == 2
    assert f"nsisolate: unavailable: namespaces need Linux, this is {platform}" in done.stdout
    refused = f"nsisolate: 4 tests refused: clone: ENOSYS, {os.strerror(38)}"
    assert refused in done.stdout, done.stdout
    for name in ("test_marked", "test_pid1", "test_expected_to_fail"):
        assert f"ERROR test_it.py::{name} - isolation refused" in done.stdout
    assert "never" not in done.stdout
    assert (tmp_path / "junit.xml").read_text().count("<error") == 3


@on_other_platforms
def test_the_policy_decides(tmp_path: Path, platform: str) -> None:
    """A skip for all, if that is asked for, but not where these tests must work."""
    write_files(tmp_path, {"test_it.py": SUITE})
    arguments = ("--nsisolate-missing=skip", "--nsisolate=all", "--deselect=test_it.py::test_calls")
    done = run_elsewhere(tmp_path, platform, *arguments)
    assert done.returncode == 0, done.stdout
    assert "7 skipped, 1 deselected" in done.stdout
    done = run_elsewhere(tmp_path, platform, *arguments, NSISOLATE_MUST_WORK="1")
    assert "1 skipped, 1 deselected, 6 errors" in done.stdout
    done = run_elsewhere(tmp_path, platform, "--nsisolate=none")
    assert "2 passed, 6 skipped" in done.stdout


@on_other_platforms
@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--markers", "@pytest.mark.isolated"),
        ("--help", "--nsisolate-missing"),
        ("--fixtures", "pid1"),
        ("--collect-only", "8 tests collected"),
        ("--setup-plan", "test_it.py::test_marked"),
    ],
)
def test_options_that_only_tell_do_so(
    tmp_path: Path, platform: str, option: str, text: str
) -> None:
    """Whatever they would load of us."""
    write_files(tmp_path, {"test_it.py": SUITE})
    assert text in run_elsewhere(tmp_path, platform, option).stdout


@on_other_platforms
def test_the_doctor_says_why(tmp_path: Path, platform: str) -> None:
    """By the option, the command, and for machines."""
    for done in (
        run_elsewhere(tmp_path, platform, "--nsisolate-doctor"),
        run_elsewhere(tmp_path, platform, "doctor", module="pytest_nsisolate"),
        run_elsewhere(tmp_path, platform, "doctor", "--json", module="pytest_nsisolate"),
    ):
        assert done.returncode == 1
        assert f"namespaces are a part of Linux, and this is {platform}" in done.stdout
