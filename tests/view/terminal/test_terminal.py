# SPDX-License-Identifier: MIT
"""Programs at a terminal: what they show, what is typed, and what a failure tells."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from pytest_nsisolate import Terminal
from tests.inner_runs import SIDES, THREADED, Side, run_batch
from tests.support import NEEDS_NAMESPACES, needs, needs_program

pytestmark = [
    NEEDS_NAMESPACES,
    needs(importlib.util.find_spec("pyte") is not None, "needs pyte (the extra terminal)"),
]

isolated = pytest.mark.isolated


def python(source: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(source)]


EVERY_WAY: Final = [
    pytest.param(marks=isolated(), id="default"),
    pytest.param(marks=isolated(init=True), id="init"),
    pytest.param(marks=isolated(user="same"), id="same"),
    pytest.param(marks=isolated(pid=False), id="no-pid"),
]


# Real programs ------------------------------------------------------------------------------------


@needs_program("bash")
@pytest.mark.parametrize((), EVERY_WAY)
def test_bash_has_job_control(terminal: Terminal) -> None:
    """Ctrl-C, Ctrl-Z and ``fg``: a controlling terminal, and a foreground that changes."""
    shell = terminal.start(["bash", "--norc", "--noprofile", "-i"], env={"PS1": "ready> "})
    terminal.assert_screen("ready> ")
    terminal.type("tty; sh -c 'true </dev/tty && echo started; exec sleep 1000'\n")
    terminal.assert_screen(re.compile(r"^/dev/pts/\d+\nstarted$", re.MULTILINE))
    terminal.press("ctrl-z")
    terminal.assert_screen(re.compile(r"\[1\]\+\s+Stopped\s+sh -c"))
    terminal.type("fg\n")
    terminal.assert_screen(re.compile(r"fg\nsh -c"))
    terminal.press("ctrl-c")
    terminal.assert_screen(re.compile(r"\^C\nready> $"))
    terminal.type("exit 3\n")
    assert terminal.wait() == shell.returncode == 3
    assert "job control" not in terminal.screen.text


@needs_program("less")
@isolated
def test_less(terminal: Terminal, tmp_path: Path) -> None:
    """Keys, a search, the size of the window, and a change of it."""
    text = tmp_path / "text"
    text.write_text("".join(f"line {n}\n" for n in range(1000)), encoding="ascii")
    terminal.resize(10, 40)
    terminal.start(["less", str(text)], env={"LESS": "", "LC_ALL": "C.UTF-8"})
    first = terminal.assert_screen("line 8")
    assert first.lines[:9] == tuple(f"line {n}" for n in range(9))
    assert (first.rows, first.columns) == (10, 40)
    terminal.press("space")
    assert terminal.assert_screen("line 17").lines[0] == "line 9"
    terminal.type("/line 500\n")
    assert terminal.assert_screen("line 508").lines[0] == "line 500"
    terminal.resize(20, 40)
    terminal.assert_screen("line 518")
    terminal.press("up", "page-down", "home")
    terminal.type("q")
    assert terminal.wait() == 0


@needs_program("nano")
@isolated
def test_nano(terminal: Terminal, tmp_path: Path) -> None:
    """An editor of the whole screen, by its keys; reverse video at the top."""
    saved = tmp_path / "saved"
    # Where the name is long, its title has no room for more.
    terminal.start(["nano", "--ignorercfiles", saved.name], cwd=tmp_path)
    screen = terminal.assert_screen("GNU nano")
    assert screen.cells[0][5].reverse
    terminal.type("typed by hand")
    terminal.assert_screen("typed by hand")
    terminal.press("ctrl-x")
    terminal.assert_screen("Save modified buffer?")
    terminal.type("y")
    terminal.press("enter")
    assert terminal.wait() == 0
    assert saved.read_text(encoding="ascii") == "typed by hand\n"


@needs_program("vi")
@pytest.mark.parametrize("kind", ["linux", "xterm-256color"])
@isolated
def test_vi(terminal: Terminal, tmp_path: Path, kind: str) -> None:
    """Modes, Escape, and a command line; to an xterm it says more than the emulator knows."""
    saved = tmp_path / "saved"
    os.chdir(tmp_path)  # what it says of a long name does not fit into a line
    terminal.start(["vi", "-u", "NONE", "saved"], env={**os.environ, "TERM": kind})
    screen = terminal.assert_screen("~")
    assert not any(cell.underlined for row in screen.cells for cell in row)
    terminal.type("ifirst\nsecond")
    terminal.press("escape")
    terminal.assert_screen("second")
    terminal.type(":wq\n")
    assert terminal.wait() == 0
    assert saved.read_text(encoding="ascii") == "first\nsecond\n"


@needs_program("top")
@isolated
def test_top_shows_this_world(terminal: Terminal) -> None:
    """Two processes: the test and top."""
    terminal.start(["top", "-d", "100"])
    screen = terminal.assert_screen("top - ")
    assert re.search(r"Tasks:\s+2 total", screen.text)
    terminal.type("q")
    assert terminal.wait() == 0


CURSES: Final = """
    import curses

    def main(screen):
        # SIGWINCH is not seen by a getch() that is just about to wait.
        screen.timeout(50)
        curses.start_color()
        curses.init_pair(1, curses.COLOR_RED, curses.COLOR_BLACK)
        screen.addstr(2, 4, "alarm", curses.color_pair(1) | curses.A_BOLD)
        screen.addstr(4, 0, "%d x %d" % screen.getmaxyx())
        while True:
            screen.refresh()
            key = screen.getch()
            if key == curses.KEY_RESIZE:
                screen.addstr(4, 0, "%d x %d" % screen.getmaxyx())
            elif key == curses.KEY_F5:
                screen.addstr(5, 0, "key F5")
            elif key == ord("q"):
                return

    curses.wrapper(main)
"""


@isolated
def test_a_curses_program(terminal: Terminal) -> None:
    """Places, colours, attributes, the cursor, function keys, and the new size."""
    terminal.start(python(CURSES))
    screen = terminal.assert_screen("24 x 80")
    assert screen.lines[2] == "    alarm"
    cell = screen.cells[2][4]
    assert (cell.text, cell.foreground, cell.bold) == ("a", "red", True)
    assert screen.cursor == (4, 7)
    terminal.press("f5")
    terminal.assert_screen("key F5")
    terminal.resize(30, 100)
    terminal.assert_screen("30 x 100")
    terminal.type("q")
    assert terminal.wait() == 0


@isolated
def test_a_password_is_not_shown(terminal: Terminal) -> None:
    """``getpass`` opens ``/dev/tty`` itself; then the echo is there again."""
    source = "import getpass; print(len(getpass.getpass())); input('name? ')"
    terminal.start(python(source))
    terminal.assert_screen("Password: ")
    terminal.assert_no_echo()
    terminal.type("secret\n")
    assert "secret" not in terminal.assert_screen("6\nname?").text
    terminal.type("anna")
    terminal.assert_screen("name? anna")
    with pytest.raises(AssertionError, match="what is typed is shown"):
        terminal.assert_no_echo(within=0)
    terminal.press("enter")
    assert terminal.wait() == 0


HANGING: Final = """
    import os, signal, sys, time
    def hang_up(*_):
        open(sys.argv[1], "w").close()
        os._exit(7)
    signal.signal(signal.SIGHUP, hang_up)
    print("ready", flush=True)
    while True:
        time.sleep(0.01)  # a signal just before pause() would not end it
"""


@isolated
def test_hangup(terminal: Terminal, tmp_path: Path) -> None:
    """Closing the window is SIGHUP for the program."""
    terminal.start([*python(HANGING), str(tmp_path / "done")])
    terminal.assert_screen("ready")
    terminal.hangup()
    assert terminal.wait() == 7
    assert (tmp_path / "done").exists()
    with pytest.raises(RuntimeError, match="is closed"):
        terminal.type("x")


def in_tmux(tmp_path: Path, command: list[str], shown: str) -> list[str]:
    """What ``tmux capture-pane`` shows of a program, when a text has come."""

    def tmux(*args: str) -> str:
        line = ["tmux", "-S", str(tmp_path / "tmux"), "-f", "/dev/null", *args]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout

    tmux("new-session", "-d", "-x", "80", "-y", "24", "env", "TERM=linux", *command)
    tmux("set-option", "-g", "status", "off")
    try:
        until = time.monotonic() + 20
        while shown not in (text := tmux("capture-pane", "-p")):
            assert time.monotonic() < until, text
        return [line.rstrip() for line in text.split("\n")]
    finally:
        tmux("kill-server")


@needs_program("tmux")
@pytest.mark.parametrize(
    ("make", "shown"),
    [
        pytest.param(lambda path: python(CURSES), "alarm", id="curses"),
        pytest.param(
            lambda path: ["less", "-M", str(path)],
            "line 21",
            id="less",
            marks=needs_program("less"),
        ),
        pytest.param(
            lambda path: ["nano", "--ignorercfiles", str(path)],
            "line 18",
            id="nano",
            marks=needs_program("nano"),
        ),
        pytest.param(
            lambda path: ["vi", "-u", "NONE", str(path)],
            "line 21",
            id="vi",
            marks=needs_program("vi"),
        ),
    ],
)
@isolated
def test_the_screen_is_as_tmux_shows_it(
    terminal: Terminal, tmp_path: Path, make: Callable[[Path], list[str]], shown: str
) -> None:
    """Another emulator, line by line."""
    path = tmp_path / "text"
    path.write_text("".join(f"line {n} \twith a tab and ä\n" for n in range(100)), "utf-8")
    os.environ.update(LC_ALL="C.UTF-8", LESS="", HOME=str(tmp_path))
    command = make(path)
    expected = in_tmux(tmp_path, command, shown)
    terminal.resize(len(expected) - 1, 80)
    terminal.start(command)
    screen = terminal.assert_screen(shown)
    until = time.monotonic() + 10
    while list(screen.lines) != expected[:-1] and time.monotonic() < until:
        screen = terminal.screen
    assert list(screen.lines) == expected[:-1]


# The terminal itself ------------------------------------------------------------------------------


@isolated
def test_another_screen_is_given_back(terminal: Terminal) -> None:
    """As full-screen programs do under xterm: what stood there before is seen again."""
    source = r"""
        import sys
        print("before", end="", flush=True)
        print("\033[?1049h\033[2J\033[Hother", end="", flush=True)
        input()
        print("\033[?1049l", end="", flush=True)
        input()
    """
    terminal.start(python(source))
    assert "before" not in terminal.assert_screen("other").text
    terminal.press("enter")
    assert terminal.assert_screen("before").text == "before"


@isolated
def test_questions_of_the_program_are_answered(terminal: Terminal) -> None:
    """Where is the cursor? (DSR)"""
    source = r"""
        import os, sys, termios, tty
        tty.setraw(0)
        os.write(1, b"xx\033[6n")
        answer = os.read(0, 20)
        os.write(1, repr(answer).encode())
    """
    terminal.start(python(source))
    assert terminal.wait() == 0
    assert r"b'\x1b[1;3R'" in terminal.screen.text


@isolated
def test_one_program_after_the_other(terminal: Terminal) -> None:
    """Each begins with a clear screen; two at a time are refused."""
    terminal.start(["sh", "-c", "echo first; read line"])
    terminal.assert_screen("first")
    with pytest.raises(RuntimeError, match="has a program at work"):
        terminal.start(["true"])
    terminal.press("ctrl-c")
    assert terminal.wait() == -signal.SIGINT
    terminal.start(["echo", "second"])
    assert terminal.wait() == 0
    assert terminal.screen.text == "second"
    assert terminal.output == b"second\r\n"


@isolated
def test_much_is_read_while_it_waits(terminal: Terminal) -> None:
    """More than the kernel keeps: the program would wait for ever."""
    terminal.start(["sh", "-c", "seq 100000; echo over"])
    assert terminal.wait(60) == 0
    assert "99998\n99999\n100000\nover" in terminal.screen.text


@isolated
def test_what_the_program_finds(terminal: Terminal) -> None:
    """A session of its own, TERM, and no size from the environment."""
    os.environ["COLUMNS"] = "10"
    source = """
        import os
        print(os.environ.get('COLUMNS'), os.environ['TERM'], os.getsid(0) == os.getpid())
    """
    terminal.start(python(source))
    assert terminal.wait() == 0
    assert terminal.screen.text == "None linux True"


@isolated
def test_usage_errors(terminal: Terminal) -> None:
    """At the call, in words."""
    with pytest.raises(RuntimeError, match=r"no program was started .* terminal.start"):
        _ = terminal.screen
    with pytest.raises(TypeError, match="args is a list of a program's words, not 'ls -l'"):
        terminal.start("ls -l")
    with pytest.raises(FileNotFoundError):
        terminal.start(["/nonexistent"])
    terminal.start(["cat"])
    with pytest.raises(ValueError, match=r"no key is called 'entr': did you mean enter\?"):
        terminal.press("x", "entr")
    with pytest.raises(ValueError, match="rows is from 1 to 1000, not 0"):
        terminal.resize(0, 80)
    with pytest.raises(TypeError, match="columns is a whole number"):
        terminal.resize(24, 8.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected is text or a compiled expression"):
        terminal.assert_screen(b"x")  # type: ignore[arg-type]
    terminal.press("alt-x", "ctrl-space")
    assert "x" in terminal.assert_screen("x").text


@isolated
def test_a_failed_assertion_shows_the_screen(terminal: Terminal) -> None:
    """What was expected, the state of the program, and every line."""
    terminal.resize(3, 12)
    terminal.start(["sh", "-c", "echo hello; exit 4"])
    with pytest.raises(AssertionError) as raised:
        terminal.assert_screen("goodbye", within=5)
    assert str(raised.value) == (
        "the screen does not show 'goodbye'\n"
        "expected: 'goodbye' within 5 s\n"
        "seen: sh -c echo hello; exit 4, ended with status 4\n"
        "  +------------+\n"
        "  |hello       |\n"
        "  |            |\n"
        "  |            |\n"
        "  +------------+"
    )
    terminal.start(["cat"])
    with pytest.raises(AssertionError, match="the program at the terminal goes on: cat"):
        terminal.wait(0.01)


SUITE: Final = """
import pytest

@pytest.mark.isolated
def test_fails(terminal):
    terminal.start(["sh", "-c", "echo hello; sleep 1000"])
    terminal.assert_screen("hello")
    assert 1 == 2

@pytest.mark.isolated
def test_leaves_a_program(terminal):
    terminal.start(["cat"])

@pytest.mark.isolated
def test_next(terminal):
    terminal.start(["true"])
    assert terminal.wait() == 0

def test_not_isolated(terminal):
    pass
"""


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("head", ["", THREADED], ids=["short", "long"])
def test_a_failed_test_shows_its_last_screen(side: Side, head: str) -> None:
    """In a section of its report; nothing is left of it."""
    result = run_batch({"test_it.py": head + SUITE}, side)
    assert result.passed() == {"test_leaves_a_program", "test_next"}, result.text
    shown = result.stdout.partition("Terminal ---")[2]
    assert "sh -c echo hello; sleep 1000, at work" in shown
    assert "|hello " in shown
    assert result.stdout.count("Terminal ---") == 1
    assert "the terminal fixture is for isolated tests" in result.failure("test_not_isolated")


def test_without_pyte_one_sentence_says_so() -> None:
    """And nothing of the test has run."""
    head = "import sys\nsys.modules['pyte'] = None\n"
    result = run_batch({"test_it.py": head + SUITE}, "user")
    said = result.failure("test_next")
    assert "the fixture terminal needs pyte" in said
    assert "pip install 'pytest-nsisolate[terminal]'" in said
