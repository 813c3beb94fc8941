# SPDX-License-Identifier: MIT
"""The wire between two terminals: every byte, every key, every way to its end."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import pexpect
import pytest

from tests.support import eventually

PROGRAM: Final = str(Path(__file__).with_name("relaying.py"))

#: Only a relay that hangs takes so long.
PATIENCE: Final = 30.0

#: What a terminal without any line discipline is to carry, in both directions at once.
NOISE: Final = random.Random(1).randbytes(300_000)

ECHOING: Final = f"""
import hashlib, os, random, sys, threading, tty
tty.setraw(0)
print("ready", flush=True)
def shout():
    left = random.Random(1).randbytes(300_000)
    while left:
        left = left[os.write(1, left):]
shouting = threading.Thread(target=shout)
shouting.start()
heard = b""
while len(heard) < {len(NOISE)}:
    heard += os.read(0, 65536)
shouting.join()
print(hashlib.sha256(heard).hexdigest())
"""

#: Says how large it is, now and whenever that has changed, until it is small.
SIZES: Final = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
while True:
    size = tuple(os.get_terminal_size())
    print("size", *size, flush=True)
    if size == (77, 20):
        break
    signal.sigwait([signal.SIGWINCH])
"""

#: Asks for a line at a time.
LINES: Final = """
try:
    while True:
        print("heard", repr(input("say: ")))
except EOFError:
    print("nothing more is typed")
"""

#: Takes signals one by one, and is over at the third.
SIGNALS: Final = """
import signal
numbers = [signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP]
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("ready", flush=True)
for _ in range(3):
    print("got", signal.Signals(signal.sigwait(numbers)).name, flush=True)
"""


def relaying(script: str, *arguments: str) -> pexpect.spawn[bytes]:
    """The program at a terminal of 30 lines and 100 columns."""
    child: Any = pexpect.spawn(
        sys.executable,
        [PROGRAM, script, *arguments],
        dimensions=(30, 100),
        timeout=PATIENCE,
    )
    child.delaybeforesend = None
    return cast("pexpect.spawn[bytes]", child)


def rest(child: pexpect.spawn[bytes]) -> str:
    """What is on the screen until the program has ended."""
    child.expect(pexpect.EOF)
    child.close()
    assert isinstance(child.before, bytes)
    return child.before.decode(errors="replace")


def test_every_byte_crosses_in_both_directions_at_once() -> None:
    """What is pasted, and what is shown meanwhile, is larger than any terminal holds."""
    child = relaying(ECHOING)
    child.expect_exact("ready\n")
    # Not by send(), which would block while nobody reads: that is what the relay must not do.
    os.set_blocking(child.child_fd, False)
    typed, shown = memoryview(NOISE), child.buffer
    child.buffer = b""
    while typed or len(shown) < len(NOISE):
        try:
            typed = typed[os.write(child.child_fd, typed[:4096]) :]
        except BlockingIOError:
            pass
        try:
            shown += child.read_nonblocking(65536, timeout=0.01)
        except pexpect.TIMEOUT:
            pass
    os.set_blocking(child.child_fd, True)
    assert shown[: len(NOISE)] == NOISE
    last = shown[len(NOISE) :].decode() + rest(child)
    assert hashlib.sha256(NOISE).hexdigest() in last
    assert "over: ENDED, mode as before" in last


def test_what_was_written_last_is_shown(tmp_path: Path) -> None:
    """A program that has ended long ago, while nobody could read, has lost nothing.

    It is more than one read gives, and less than makes it wait.
    """
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = (
        "import os; print('ready', flush=True); "
        f"os.open({str(gate)!r}, os.O_WRONLY); os.write(1, b'x' * 6000 + b'last')"
    )
    child = relaying(script)
    child.expect_exact("ready")
    child.kill(signal.SIGSTOP)
    pid = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text(encoding="ascii").strip()
    gate.open("rb").close()
    stat = Path(f"/proc/{pid}/stat")
    assert eventually(lambda: stat.read_text(encoding="ascii").rpartition(")")[2][:2] == " Z")
    child.kill(signal.SIGCONT)
    shown = rest(child)
    assert shown.count("x") == 6000
    assert "xlast" in shown
    assert "over: ENDED" in shown


def test_lines_are_edited_inside() -> None:
    """What is rubbed out never reaches the program, and Ctrl-D ends its input."""
    child = relaying(LINES)
    child.expect_exact("say: ")
    child.send("onx\x7fe\r")
    child.expect_exact("heard 'one'")
    child.send("\x04")
    assert "nothing more is typed" in rest(child)


def test_keys_are_signals_inside_and_nowhere_else() -> None:
    """Ctrl-C, Ctrl-\\ and Ctrl-Z are for the foreground inside; the relay goes on."""
    child = relaying(SIGNALS)
    child.expect_exact("ready")
    for key, name in (("\x1a", "SIGTSTP"), ("\x1c", "SIGQUIT"), ("\x03", "SIGINT")):
        child.send(key)
        child.expect_exact(f"got {name}")
    assert "over: ENDED, mode as before" in rest(child)


def test_the_window_is_followed() -> None:
    """Its size is the same at the beginning, and after each change."""
    child = relaying(SIZES)
    child.expect_exact("size 100 30")
    child.setwinsize(20, 77)
    assert "size 77 20" in rest(child)


Ending = Callable[["pexpect.spawn[bytes]"], object]


@pytest.mark.parametrize(
    ("arguments", "ending", "expected"),
    [
        pytest.param((), lambda child: child.kill(signal.SIGTERM), "HUNG_UP", id="terminated"),
        pytest.param((), lambda child: child.kill(signal.SIGHUP), "HUNG_UP", id="hung-up"),
        pytest.param(("0.2",), lambda child: None, "LATE", id="late"),
        pytest.param(
            ("--broken",), lambda child: child.kill(signal.SIGUSR1), "BROKEN 10", id="broken"
        ),
    ],
)
def test_the_mode_is_given_back(arguments: tuple[str, ...], ending: Ending, expected: str) -> None:
    """However the relay ends, the user's terminal is as it was."""
    child = relaying(LINES, *arguments)
    child.expect_exact("say: ")
    raw = termios.tcgetattr(child.child_fd)[3]
    assert not raw & (termios.ICANON | termios.ECHO | termios.ISIG)
    ending(child)
    assert f"over: {expected}, mode as before" in rest(child)


def test_what_keys_do_signals_by_kill_do_too() -> None:
    """SIGINT and SIGQUIT for the relay alone go to the foreground inside, as by the keys."""
    child = relaying(SIGNALS)
    child.expect_exact("ready")
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGINT):
        child.kill(number)
        child.expect_exact(f"got {number.name}")
    assert "over: ENDED" in rest(child)


def test_a_terminal_that_goes_takes_the_inner_one_with_it(tmp_path: Path) -> None:
    """Who sits at the inner terminal gets SIGHUP when the user's window is closed."""
    said = tmp_path / "said"
    os.mkfifo(said)
    script = (
        "import os, signal\n"
        f"out = os.open({str(said)!r}, os.O_WRONLY)\n"
        "signal.signal(signal.SIGHUP, lambda *_: os.write(out, b'hung up'))\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    child = relaying(script)
    with said.open("rb") as heard:
        child.expect_exact("ready")
        child.close(force=False)
        assert heard.read() == b"hung up"


def test_a_program_may_close_its_terminal_and_open_it_again() -> None:
    """Nobody has it open for a while: the relay waits, and what comes later is shown."""
    script = (
        "import os, select\n"
        "name = os.ttyname(0)\n"
        "for fd in range(3): os.close(fd)\n"
        "select.select([], [], [], 0.3)\n"
        "os.write(os.open(name, os.O_WRONLY | os.O_NOCTTY), b'here again')\n"
    )
    shown = rest(relaying(script))
    assert "here again" in shown
    assert "over: ENDED" in shown
