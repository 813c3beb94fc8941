# SPDX-License-Identifier: MIT
"""At a real terminal: what streams, and who answers when somebody types.

What un-isolated pytest shows in the same conversation is what is right: every test here but a few
holds the two transcripts against each other, colours included.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pexpect
import pytest

from tests.inner_runs import SIDES, Side, prefix, suite_folder
from tests.pseudo_terminals import (
    CTRL_C,
    CTRL_D,
    CTRL_Z,
    PROMPT,
    Step,
    Transcript,
    converse,
    hold,
    interrupt,
    pytest_command,
)
from tests.support import (
    INNER,
    NEEDS_NAMESPACES,
    eventually,
    run_parity,
    run_source,
    run_suite,
    terminal,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

#: Says READY when the caller has come to its next line, where it will stay.
READY: Final = """
import sys, threading, time

def ready_at_next_line():
    frame = sys._getframe(1)
    line = frame.f_lineno + 1
    def look():
        while frame.f_lineno != line:
            time.sleep(0.005)
        print("READY", flush=True)
    threading.Thread(target=look, daemon=True).start()
"""


def assert_same(
    folder: Path, source: str, steps: Sequence[Step], *arguments: str, status: int = 0
) -> Transcript:
    """The same conversation plain and isolated; the isolated one's transcript."""
    write_files(folder, {"test_it.py": source})
    plain = converse(folder, steps, *arguments)
    isolated = converse(folder, steps, *arguments, "--nsisolate=all")
    assert isolated.lines == plain.lines
    assert (plain.status, isolated.status) == (status, status), isolated.text
    return isolated


def journal(folder: Path) -> list[str]:
    """What the last run has noted, and on which side."""
    return (folder / ".journal").read_text(encoding="utf-8").splitlines()


# The debugger ------------------------------------------------------------------------------------

BREAKPOINTS: Final = """
import os, pdb, pytest

@pytest.fixture
def stops():
    before = "fixture"
    pdb.set_trace()
    yield before

def test_breakpoint():
    x = 41
    breakpoint()
    x += 1
    assert x == 42

def test_in_a_fixture(stops):
    assert stops == "fixture"

def test_own_breakpoints():
    import pdb; pdb.set_trace()
    for n in range(3):
        last = n
    assert last == 2

def test_interact():
    breakpoint()
    assert True
"""

TYPED: Final = (
    (PROMPT, "p y\x7fx\n"),  # edited on the line
    (PROMPT, "p x + 1\n"),
    (PROMPT, "\x1b[A\n"),  # from the history
    (PROMPT, CTRL_C),
    (PROMPT, "n\n"),
    (PROMPT, "p x\n"),
    (PROMPT, "c\n"),
    (PROMPT, "p before\n"),
    (PROMPT, "c\n"),
    (PROMPT, "b 22, n == 1\n"),
    (PROMPT, "c\n"),
    (PROMPT, "p n, last\n"),
    (PROMPT, "import time; time.sleep(0.01); print('here')\n"),
    (PROMPT, "cl 1\n"),
    (PROMPT, "c\n"),
    (PROMPT, "interact\n"),
    (r">>> ", "os.isatty(0), os.isatty(1)\n"),
    (r">>> ", CTRL_D),
    (PROMPT, "c\n"),
)


@pytest.mark.parametrize("arguments", [(), ("-v", "-s"), ("--capture=sys",)], ids=" ".join)
def test_breakpoints(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Line editing, history, Ctrl-C at the prompt, stepping and breakpoints set there."""
    seen = assert_same(tmp_path, BREAKPOINTS, TYPED, *arguments)
    assert "--KeyboardInterrupt--" in seen.text


POST_MORTEM: Final = """
import logging, pytest

@pytest.fixture
def fails_in_setup():
    a = 1
    raise ValueError(a)

@pytest.fixture
def fails_in_teardown():
    yield
    b = 2
    raise ValueError(b)

@pytest.fixture(scope="module")
def fails_in_the_runner():
    d = 4
    raise ValueError(d)

def test_setup(fails_in_setup): pass
def test_call():
    print("printed")
    logging.warning("logged")
    c = 3
    assert c == 4
def test_xfail(): pytest.xfail("known")
def test_module(fails_in_the_runner): pass
def test_pass(): pass
def test_teardown(fails_in_teardown): print("printed")
"""

POST_MORTEM_TYPED: Final = (
    *((PROMPT, "p a\n"), (PROMPT, "c\n")),
    *((PROMPT, "p c\n"), (PROMPT, CTRL_C), (PROMPT, "c\n")),
    *((PROMPT, "p d\n"), (PROMPT, "c\n")),
    *((PROMPT, "p b\n"), (PROMPT, "c\n")),
)


@pytest.mark.parametrize("arguments", [(), ("-v",), ("-v", "-s")], ids=" ".join)
def test_post_mortem(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """``--pdb`` after a failed set-up, call and tear-down, on either side, each where it belongs.

    The letter stands before the traceback, and the summary does not repeat what was shown.
    """
    seen = assert_same(tmp_path, POST_MORTEM, POST_MORTEM_TYPED, "--pdb", *arguments, status=1).text
    assert "= FAILURES =" not in seen
    assert "1 failed, 2 passed" in "".join(re.sub(r"\x1b\[\d*m", "", seen).splitlines())


LEAVING: Final = """
import pytest
from journal import note
@pytest.fixture(scope="module")
def module():
    yield
    note("module")
@pytest.fixture
def function(module):
    yield
    note("function")
    assert "teardown" not in {when!r}
def test_it(function):
    if {when!r} == "breakpoint":
        breakpoint()
    assert "call" not in {when!r}
def test_next(): pass
"""


@pytest.mark.parametrize("key", ["q\n", CTRL_D], ids=["q", "eof"])
@pytest.mark.parametrize("when", ["breakpoint", "call", "teardown"])
def test_leaving_the_debugger(tmp_path: Path, when: str, key: str) -> None:
    """ "quit" ends the session, Ctrl-D what it ends in pytest; fixtures are torn down once."""
    quits = key == "q\n" or when != "breakpoint" or sys.version_info >= (3, 14)
    status = 2 if quits else 1
    options = ("-s",) if when == "breakpoint" else ("-s", "--pdb")
    seen = assert_same(
        tmp_path, LEAVING.format(when=when), [(PROMPT, key)], *options, status=status
    )
    assert journal(tmp_path) == ["child function", "runner module"]
    assert ("Exit: Quitting debugger" in seen.text) == (status == 2)


def test_trace_and_a_debugger_of_ones_own(tmp_path: Path) -> None:
    """``--trace`` stops at each test's first line, and ``--pdbcls`` says in which debugger."""
    mine = (
        "import pdb\nclass Mine(pdb.Pdb):\n    prompt = property(lambda s: 'mine> ', lambda *a: 0)"
    )
    write_files(tmp_path, {"mine.py": mine})
    source = """
        def test_a():
            x = 1
            assert x == 1
        def test_b(tmp_path):
            assert tmp_path
    """
    steps = [("mine> ", "n\n"), ("mine> ", "p x\n"), ("mine> ", "c\n"), ("mine> ", "c\n")]
    options = ("--trace", "--pdbcls=mine:Mine", "-o", "pythonpath=.")
    assert_same(tmp_path, source, steps, *options)


@pytest.mark.parametrize("side", SIDES)
def test_the_child_has_no_terminal_of_its_own(side: Side) -> None:
    """It reads the runner's all the same; and nothing it does there reaches the runner's session.

    As root and without a right; the runner itself has that terminal.
    """
    source = """
import os, pytest
def no_terminal():
    with pytest.raises(OSError, match="No such device or address"):
        os.open("/dev/tty", os.O_RDWR)
    with pytest.raises(OSError):
        os.tcgetpgrp(0)
@pytest.mark.isolated
def test_child():
    no_terminal()
    breakpoint()
    assert os.getsid(0) in (0, 1)
def test_runner():
    os.close(os.open("/dev/tty", os.O_RDWR))
    assert os.tcgetpgrp(0) == os.getpgrp()
"""
    with suite_folder({"test_it.py": source}, side) as folder:
        steps = [(PROMPT, "p os.getpid()\n"), (PROMPT, CTRL_C), (PROMPT, "c\n")]
        seen = converse(folder, steps, "-s", prefix=prefix(side))
    assert seen.status == 0, seen.text
    assert "--KeyboardInterrupt--" in seen.text


# The clock ---------------------------------------------------------------------------------------

BUDGET: Final = """
import time, pytest
@pytest.fixture(autouse=True)
def limit(): pass
{mark}
def test_at_the_prompt():
    breakpoint()
{mark}
def test_after_the_prompt():
    breakpoint()
    time.sleep(100)
{mark}
def test_input():
    input("name? ")
def test_next(): pass
"""

WAIT: Final = "import time; time.sleep(1.5)\n"


@pytest.mark.parametrize(
    ("mark", "plugin"),
    [
        ("@pytest.mark.isolated(timeout=1)", ()),
        ("@pytest.mark.isolated\n@pytest.mark.timeout(1)", ("-p", "timeout")),
    ],
    ids=["own", "pytest-timeout"],
)
def test_the_budget_rests_while_a_prompt_is_open(
    tmp_path: Path, mark: str, plugin: tuple[str, ...]
) -> None:
    """It runs on after "continue"; and while ``input()`` waits, which nobody can know of."""
    write_files(tmp_path, {"test_it.py": BUDGET.format(mark=mark)})
    steps = [(PROMPT, WAIT), (PROMPT, "c\n"), (PROMPT, "c\n"), (r"name\? ", "")]
    seen = converse(tmp_path, steps, "-s", "-rA", "--color=no", plugins=(*INNER, *plugin))
    assert "2 failed, 2 passed" in seen.text
    for name in ("after_the_prompt", "input"):
        assert f"FAILED test_it.py::test_{name} - isolated test timed out after 1 s" in seen.text


# Ctrl-C ------------------------------------------------------------------------------------------

RUNNING: Final = f"""
import pytest
{READY}
from journal import note
@pytest.fixture(scope="module")
def module():
    yield
    note("module")
@pytest.fixture
def function(module):
    if WHERE == "setup":
        ready_at_next_line()
        time.sleep(100)
    yield
    note("function")
    if WHERE == "teardown":
        ready_at_next_line()
        time.sleep(100)
def test_it(function):
    z = 5
    if WHERE == "continued":
        breakpoint()
    if WHERE in ("call", "continued"):
        ready_at_next_line()
        time.sleep(100)
def test_next(): pass
"""


@pytest.mark.parametrize("how", [CTRL_C, interrupt], ids=["typed", "kill"])
@pytest.mark.parametrize("where", ["setup", "call", "teardown"])
def test_ctrl_c(tmp_path: Path, where: str, how: str) -> None:
    """One banner, that names the line of the test; each fixture torn down once; exit code 2."""
    source = f"WHERE = {where!r}\n{RUNNING}"
    seen = assert_same(tmp_path, source, [("READY", how)], "-s", status=2)
    assert seen.text.count("! KeyboardInterrupt !") == 1
    assert "test_it.py" in seen.text.partition("! KeyboardInterrupt !")[2]
    torn_down = ["child function", "runner module"]
    assert journal(tmp_path) == (torn_down[1:] if where == "setup" else torn_down)


def test_ctrl_c_opens_the_debugger(tmp_path: Path) -> None:
    """With ``--pdb`` at the line that was running; then the next test."""
    steps = [("READY", CTRL_C), (PROMPT, "p z\n"), (PROMPT, "c\n")]
    seen = assert_same(tmp_path, f"WHERE = 'call'\n{RUNNING}", steps, "-s", "--pdb", status=1)
    assert "1 failed" in seen.text


def test_ctrl_c_comes_back_to_the_debugger(tmp_path: Path) -> None:
    """After "continue" pdb takes it for the wish to see where the test is."""
    steps = [(PROMPT, "c\n"), ("READY", CTRL_C), (PROMPT, "p z\n"), (PROMPT, "q\n")]
    source = f"WHERE = 'continued'\n{RUNNING}".replace("time.sleep(100)", "loop()")
    source += "\ndef loop():\n    while True: time.sleep(0.01)\n"
    write_files(tmp_path, {"test_it.py": source})
    for options in ((), ("--nsisolate=all",)):
        seen = converse(tmp_path, steps, "-s", *options)
        assert seen.status == 2
        assert "Program interrupted." in seen.text
        assert "Exit: Quitting debugger" in seen.text


def test_a_child_that_ignores_ctrl_c_under_pdb(tmp_path: Path) -> None:
    """The first is its own affair; the second ends it, and the session."""
    source = f"""
import signal
{READY}
def test_it():
    signal.signal(signal.SIGINT, lambda *a: print("NO", flush=True))
    ready_at_next_line()
    while True: time.sleep(100)
def test_next(): pass
"""
    write_files(tmp_path, {"test_it.py": source})
    steps = [("READY", CTRL_C), ("NO", CTRL_C)]
    seen = converse(tmp_path, steps, "-s", "--pdb", "--nsisolate=all")
    assert seen.status == 2
    assert "Exit: KeyboardInterrupt" in seen.text


# Job control -------------------------------------------------------------------------------------

SHELL: Final = "SHELL> "

PAUSING: Final = f"""
import os
{READY}
def test_prompt():
    x = 7
    breakpoint()
def test_running():
    os.mkdir("inside")
    os.chdir("inside")
    ready_at_next_line()
    while not os.path.exists("../go"): time.sleep(0.01)
"""


def states_in(folder: Path) -> set[str]:
    """The states of the processes that have gone to a folder (proc(5), "State")."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("cwd").readlink() == folder:
                found.add(process.joinpath("stat").read_text().rpartition(") ")[2][0])
        except OSError:
            pass  # it has ended
    return found


#: A busy machine, where the init is not the next to run.
SLOW_INIT: Final = """
import time
from pytest_nsisolate.kernel.originals import signal
from pytest_nsisolate.kernel.signals import hold_signal

wait = signal.sigwait

def slow(signals):
    number = wait(signals)
    if number == hold_signal():
        time.sleep(0.3)
    return number

signal.sigwait = slow
"""


@pytest.mark.parametrize(
    ("mode", "conftest"),
    [
        ("--nsisolate=none", ""),
        ("--nsisolate=all", ""),
        ("--nsisolate=all", SLOW_INIT),
        ("-m=isolated", ""),
    ],
    ids=["none", "all", "slow", "marked"],
)
def test_ctrl_z_and_a_job_in_the_background(tmp_path: Path, mode: str, conftest: str) -> None:
    """Both sides stop, so the shell has the terminal; and no debugger reads it from behind.

    Un-isolated as a control, under an init, and as PID 1.
    """
    source = (
        PAUSING.replace("def test", "@pytest.mark.isolated\ndef test") if "-m" in mode else PAUSING
    )
    write_files(tmp_path, {"test_it.py": f"import pytest\n{source}", "conftest.py": conftest})
    command = " ".join(pytest_command("-s", mode))

    def is_held(child: pexpect.spawn[str]) -> None:
        # Now, not soon: the shell has its terminal.
        assert states_in(tmp_path / "inside") == {"T"}
        (tmp_path / "go").touch()
        child.send("fg\n")

    def stop_when_waiting(child: pexpect.spawn[str]) -> None:
        assert eventually(lambda: states_in(tmp_path) == {"S"})
        child.send(CTRL_Z)

    def is_stopped(child: pexpect.spawn[str]) -> None:
        assert eventually(lambda: "T" in states_in(tmp_path))
        child.send("\n")

    again = r"-m pytest[^\n]*\n"
    steps: list[Step] = [
        (SHELL, f"{command}\n"),
        (PROMPT, CTRL_Z),
        (SHELL, "echo answer $((40 + 2))\n"),
        ("answer 42", ""),
        (SHELL, "fg\n"),
        (again, "p x + 1\n"),
        ("8", "c\n"),
        ("READY", stop_when_waiting),
        (SHELL, is_held),
        ("2 passed", ""),
        (SHELL, f"rmdir inside; {command} -k prompt &\n"),
        ("PDB set_trace", is_stopped),
        (SHELL, "fg\n"),
        (again, "p x + 1\n"),
        ("8", "c\n"),
        ("1 passed", ""),
        (SHELL, "exit\n"),
    ]
    hold(tmp_path, ["sh", "-i"], steps, {"PS1": SHELL, "ENV": ""})


# Streams -----------------------------------------------------------------------------------------

STREAMS: Final = """
import logging, os, sys, pytest
log = logging.getLogger("streams")
@pytest.fixture(scope="module")
def module():
    log.warning("module set-up")
    yield
    log.warning("module tear-down")
@pytest.fixture
def function(module):
    print("print set-up")
    log.warning("function set-up")
    yield
    print("print tear-down")
    log.info("function tear-down")
def test_both(function):
    log.warning("in the call")
    print("print call")
def test_failing(function):
    assert 0
def test_log(): log.error("an error")
def test_descriptors(capfd):
    with capfd.disabled():
        print("shown")
    os.write(1, b"raw\\n")
    print("unfinished", end="")
def test_raw():
    os.write(1, b"raw\\n")
    print("unfinished", end="")
    sys.stderr.write("to stderr\\n")
def test_silent(): pass
@pytest.mark.skip
def test_skipped(): pass
@pytest.mark.xfail
def test_xfailed(function): assert 0
@pytest.mark.parametrize("n", range(30))
def test_many(n): pass
def test_last(function): pass
"""

MODES: Final = (
    ("-s",),
    ("-v", "-s"),
    ("-q", "-s"),
    ("--capture=tee-sys", "-v"),
    ("--log-cli-level=info",),
    ("-v", "-s", "--log-cli-level=warning", "--log-file=kept.log", "--log-file-level=info"),
    ("-o", "log_cli=true", "--log-cli-format=%(levelname)s %(message)s", "--no-showlocals"),
)


@pytest.mark.parametrize("arguments", MODES, ids=" ".join)
def test_what_streams_is_in_its_place(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Prints, live logs and the reporter's own lines, in one order, at a terminal and in a pipe."""
    assert_same(tmp_path, STREAMS, [], *arguments, status=1)
    kept = tmp_path / "kept.log"
    plain = run_suite(tmp_path, *arguments)
    logged = [kept.read_text()] if kept.exists() else []
    isolated = run_suite(tmp_path, *arguments, "--nsisolate=all")
    assert terminal(isolated) == terminal(plain)
    assert isolated.stderr == plain.stderr
    for text in logged:
        assert kept.read_text() == text
        assert text.count("module tear-down") == 1


def test_setup_show_is_in_its_place(tmp_path: Path) -> None:
    """As un-isolated, but for the side that each line names."""
    write_files(tmp_path, {"test_it.py": STREAMS})
    for arguments in (("--setup-show",), ("--setup-show", "-v", "-s")):
        plain, isolated = run_parity(tmp_path, *arguments)
        stripped = isolated.stdout.replace(" [runner]", "").replace(" [child]", "")
        assert "SETUP    M module [runner]" in isolated.stdout
        assert "TEARDOWN F function [child]" in isolated.stdout
        isolated.__dict__["stdout"] = stripped
        assert terminal(isolated) == terminal(plain)


@pytest.mark.parametrize(
    ("arguments", "say"),
    [
        (("-s",), "print('told', flush=True)"),
        (("--capture=tee-sys",), "print('told', flush=True)"),
        (("--log-cli-level=info",), "logging.warning('told')"),
        ((), "exec('with capsys.disabled(): print(\"told\", flush=True)')"),
    ],
    ids=["s", "tee", "log", "disabled"],
)
def test_it_streams_while_the_test_runs(
    tmp_path: Path, arguments: tuple[str, ...], say: str
) -> None:
    """The test waits for an answer to what it has said, which must have been seen by then."""
    source = f"""
        import logging, os, time
        def test_it(capsys):
            {say}
            until = time.monotonic() + 30
            while not os.path.exists("answer"):
                assert time.monotonic() < until
                time.sleep(0.01)
    """
    if "capsys" not in say:
        source = source.replace("capsys", "")
    write_files(tmp_path, {"test_it.py": source})
    steps: list[Step] = [("told", lambda _: (tmp_path / "answer").touch())]
    seen = converse(tmp_path, steps, *arguments, "--nsisolate=all")
    assert seen.status == 0, seen.text


def test_reading_from_the_terminal(tmp_path: Path) -> None:
    """``input()``, ``sys.stdin`` and an interpreter, with ``-s``; without it pytest says so."""
    source = """
        import code, sys
        def test_input(): assert input("name? ") == "me"
        def test_stdin(): assert sys.stdin.readline() == "a line\\n"
        def test_interact(): code.interact(banner="hello", local={"v": 7}, exitmsg="bye")
    """
    steps = [(r"name\? ", "me\n"), (r"\.", "a line\n"), (">>> ", "v\n"), (">>> ", CTRL_D)]
    assert_same(tmp_path, source, steps, "-s")
    assert_same(tmp_path, "def test_input(): input('name? ')", [], status=1)


def test_a_word_that_was_not_taken_is_not_for_the_next(tmp_path: Path) -> None:
    """A child that dies at its prompt does not have the next one run ahead of the runner."""
    source = """
        import os, pytest
        pytestmark = pytest.mark.isolated
        def test_dies():
            print("dies", flush=True)
            os._exit(3)
        @pytest.fixture
        def after():
            yield
            print("tear-down", flush=True)
        @pytest.mark.parametrize("n", range(10))
        def test_goes_on(after, n): print("call", flush=True)
    """
    result = run_source(tmp_path, source, "-s", "-v")
    assert result.summary == "1 failed, 10 passed"
    lines = [x.split(" ")[0] for x in result.stdout.splitlines() if "call" in x or "tear" in x]
    assert result.stdout.count("PASSEDtear-down") == 10, lines


@pytest.mark.parametrize("mode", ["--nsisolate=none", "--nsisolate=all"])
def test_a_debugger_s_words_in_a_pipe(tmp_path: Path, mode: str) -> None:
    """Where standard output is no terminal they wait in a buffer, and belong to nobody's output."""
    write_files(tmp_path, {"test_it.py": "def test_it():\n    x = 7\n    breakpoint()\n"})
    (tmp_path / "typed").write_text("p x + 1\nc\n")
    with open(tmp_path / "typed", "rb") as typed:
        done = run_suite(tmp_path, "-rA", mode, stdin=typed.fileno())
    before, _, after = done.stdout.partition("PDB continue")
    assert "(Pdb) 8" in before, done.text
    assert "Captured stdout" not in done.stdout
    assert "1 passed" in after
