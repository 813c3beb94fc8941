# SPDX-License-Identifier: MIT
"""``tty=``: the controlling terminal of a test's own process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import pytest

from pytest_nsisolate.request.grants import PowerError, check_tty
from pytest_nsisolate.view.terminal.terminal import missing
from tests.inner_runs import SIDES, Side, run_batch
from tests.support import NEEDS_NAMESPACES, needs, run_source

pytestmark = [
    NEEDS_NAMESPACES,
    needs(not missing(), "needs pyte"),
    needs(shutil.which("bash") is not None, "needs bash"),
]

SUITE: Final = r"""
import os
import re
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.isolated(tty=(30, 100))

def window():
    return os.open("/dev/tty", os.O_RDWR)

def test_a_password(terminal):
    ask = [sys.executable, "-c", "import getpass; print(getpass.getpass('word: '))"]
    with subprocess.Popen(ask, stdout=subprocess.PIPE) as asking:
        # Before it asks, getpass throws away what was typed.
        terminal.assert_screen("word:", within=60)
        terminal.assert_no_echo()
        terminal.type("secret\n")
        assert asking.communicate(timeout=60)[0] == b"secret\n"
    assert "secret" not in terminal.screen.text

def test_its_size_and_its_place(pid1):
    assert os.get_terminal_size(window()) == (100, 30)
    assert os.tcgetpgrp(window()) == os.getpgrp()
    assert [name for name in os.listdir("/dev/pts") if name != "ptmx"] == ["0"]
    assert os.environ["TERM"] == "linux"
    assert not os.isatty(0)
    assert pid1.leftovers == ()

def test_more_than_a_terminal_holds():
    with open("/dev/tty", "w") as tty:
        for n in range(20000):
            tty.write(f"line {n}\n")

def test_a_shell_at_it(terminal):
    tty = window()
    shell = subprocess.Popen(["bash", "--norc", "-i"], stdin=tty, stdout=tty, stderr=tty)
    terminal.type("sleep 1000 &\njobs\n")
    terminal.assert_screen(re.compile(r"\[1\]\+\s+Running"), within=60)
    terminal.type("kill %1\nexit\n")
    assert shell.wait() is not None

def test_hangup(terminal):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    terminal.hangup()
    assert signal.sigtimedwait({signal.SIGHUP}, 60).si_signo == signal.SIGHUP
    with pytest.raises(RuntimeError, match="is closed"):
        terminal.type("x")

def test_resize(terminal):
    terminal.resize(5, 20)
    assert os.get_terminal_size(window()) == (20, 5)

def test_its_program_is_the_test(terminal):
    with pytest.raises(RuntimeError, match="the terminal's program is the test itself"):
        terminal.start(["ls"])

def test_fails(terminal):
    with open("/dev/tty", "w") as tty:
        tty.write("\x1b[31mred\x1b[0m text\n")
    terminal.assert_screen("red text", within=60)
    raise AssertionError("on purpose")

def test_fails_and_shows_the_screen(terminal):
    with open("/dev/tty", "w") as tty:
        tty.write("a line\n")
    terminal.assert_screen("a line", within=60)
    terminal.assert_screen("another line", within=0.01)

@pytest.mark.isolated(init=True)
def test_below_an_init(terminal):
    with open("/dev/tty", "w") as tty:
        tty.write("written\n")
    terminal.assert_screen("written", within=60)

@pytest.mark.isolated(tty=False)
def test_without():
    with pytest.raises(OSError):
        window()
"""


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("options", [(), ("--nsisolate-jobs=3",)], ids=["one", "jobs"])
def test_what_a_terminal_of_its_own_is_for(side: Side, options: tuple[str, ...]) -> None:
    """It is typed into and looked at; what was written is in the report; nothing is left."""
    result = run_batch({"test_it.py": SUITE}, side, *options, clean=False, gone=True)
    every = {f"test_{line.partition('(')[0]}" for line in SUITE.split("def test_")[1:]}
    failing = {"test_fails", "test_fails_and_shows_the_screen"}
    assert result.passed() == every - failing, result.text
    assert "red text" in result.text
    assert "\x1b[31mred" not in result.text
    assert "Captured terminal call" in result.text
    assert "|a line" in result.text


def test_usage_errors_name_the_test(tmp_path: Path) -> None:
    """At collection."""
    source = """
import pytest
@pytest.mark.isolated(tty=(0, 80))
def test_one(): pass
@pytest.mark.isolated(tty=True, mount=False)
def test_two(): pass
"""
    result = run_source(tmp_path, source)
    assert result.returncode == 4
    assert "tty takes a bool or (rows, columns), each from 1 to 1000" in result.text
    assert "a terminal of its own needs a private /dev" in result.text
    assert not result.reports


def test_spellings() -> None:
    """What the keyword takes."""
    assert check_tty(True) == (24, 80)
    assert check_tty(False) is None
    assert check_tty([5, 10]) == (5, 10)
    for wrong in ("80x24", (1,), (1, 2, 3), (True, 5), (5, 1001), 7):
        with pytest.raises(PowerError):
            check_tty(wrong)
