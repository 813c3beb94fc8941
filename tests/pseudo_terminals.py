# SPDX-License-Identifier: MIT
"""Inner runs at a real terminal: somebody types, and everything on the screen is kept.

A conversation is a list of steps, each a pattern to wait for and what is typed when it has come.
So nothing depends on time, and two runs of one conversation can be held against each other.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import pexpect

from tests.support import INNER, inner_environment

CTRL_C: Final = "\x03"
CTRL_D: Final = "\x04"
CTRL_Z: Final = "\x1a"

#: The debugger's prompt; coloured in Python 3.14.
PROMPT: Final = r"\(Pdb\) "

#: A pattern, and what to type (a text) or to do (a function) when it has come.
Step: TypeAlias = tuple[str, str | Callable[["pexpect.spawn[str]"], object]]

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
_SECONDS = re.compile(r"\b\d+\.\d\ds( \(\d+:\d\d:\d\d\))?")

#: How long a step may take; only a run that hangs waits so long.
_SECONDS_TO_WAIT: Final = 40.0


@dataclass(frozen=True)
class Transcript:
    """All that was on the screen, typed text included where the terminal echoed it."""

    status: int | None
    text: str

    @property
    def lines(self) -> list[str]:
        """Without times, addresses and the header's own line; colours stay."""
        lines = _SECONDS.sub("#s", _ADDRESS.sub("0x...", self.text)).split("\n")
        return [re.sub("={5,}", "=====", x) for x in lines if not x.startswith("nsisolate:")]


def pytest_command(*arguments: str, plugins: tuple[str, ...] = INNER) -> list[str]:
    """How an inner run is started."""
    options = ("-p", "no:cacheprovider", "--basetemp", ".temp")
    return [sys.executable, "-m", "pytest", *plugins, *options, *arguments]


@contextmanager
def at_terminal(
    folder: Path, command: Sequence[str], env: Mapping[str, str] | None = None
) -> Iterator[pexpect.spawn[str]]:
    """A command whose controlling terminal is ours; killed at the end if it still runs."""
    for name in (".recording", ".journal"):
        (folder / name).write_text("", encoding="ascii")
        (folder / name).chmod(0o666)
    # pytest colours a level of the log in the order of a set.
    # That of Python 3.15 edits lines by itself, with other keys and colours.
    basic = {"PYTHON_BASIC_REPL": "1"}
    fixed = {"TERM": "xterm", "INPUTRC": "/dev/null", "HOME": str(folder), "PYTHONHASHSEED": "0"}
    child = pexpect.spawn(
        command[0],
        list(command[1:]),
        cwd=str(folder),
        env={**inner_environment(folder), **basic, **fixed, **(env or {})},
        dimensions=(50, 100),
        encoding="utf-8",
        codec_errors="replace",
        timeout=_SECONDS_TO_WAIT,
    )
    child.delaybeforesend = None
    try:
        yield child
    finally:
        child.close(force=True)


def converse(
    folder: Path,
    steps: Sequence[Step],
    *arguments: str,
    prefix: Sequence[str] = (),
    plugins: tuple[str, ...] = INNER,
) -> Transcript:
    """Run pytest on a folder at a terminal, and type what the steps say.

    :param prefix: a command that starts the other one.
    """
    return hold(folder, [*prefix, *pytest_command(*arguments, plugins=plugins)], steps)


def hold(
    folder: Path,
    command: Sequence[str],
    steps: Sequence[Step],
    env: Mapping[str, str] | None = None,
) -> Transcript:
    """A conversation with any command, until it ends.

    :raises AssertionError: when what a step waits for does not come, with what came instead.
    """
    with at_terminal(folder, command, env) as child:
        seen = ""
        for pattern, action in [*steps, (None, "")]:
            try:
                child.expect(pexpect.EOF if pattern is None else pattern)
            except (pexpect.TIMEOUT, pexpect.EOF) as error:
                shown = f"{seen}{child.before}"
                raise AssertionError(f"{pattern!r} did not come, but:\n{shown}") from error
            seen += str(child.before) + (child.after if isinstance(child.after, str) else "")
            if isinstance(action, str):
                child.send(action)
            else:
                action(child)
        child.wait()
        status = child.exitstatus if child.signalstatus is None else -child.signalstatus
    return Transcript(status, seen.replace("\r\n", "\n"))


def interrupt(child: pexpect.spawn[str]) -> None:
    """SIGINT for the runner alone, as by ``kill -INT``."""
    child.kill(signal.SIGINT)
