# SPDX-License-Identifier: MIT
"""The scripts of ``nsisolate completion``, in the shells that they are for."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import pexpect
import pytest

from pytest_nsisolate.__main__ import make_parser
from pytest_nsisolate.cli.completion import SHELLS, commands_of, options_of
from tests.support import needs_program

COMMANDS: Final = {command.name: command for command in commands_of(make_parser())}

#: What is typed, and what of it there must be.
TYPED: Final[dict[str, set[str]]] = {
    "nsisolate ": {"doctor", "enter", "run", "completion"},
    "nsisolate do": {"doctor"},
    "nsisolate --ver": {"--version"},
    "nsisolate doctor --": {"--help", "--json", "--schema"},
    "nsisolate completion ": set(SHELLS),
    "nsisolate run --no-n": {"--no-net", "--no-new-privs"},
    "nsisolate run --user ": {"map", "same", "none"},
    "nsisolate run --user map --chdir /us": {"/usr"},
    "nsisolate run --hostname box -- setpri": {"setpriv"},
    "nsisolate run -- setpriv /etc/hostnam": {"/etc/hostname"},
    "nsisolate enter 1 -- setpri": {"setpriv"},
}

COMPLETE_IN_BASH: Final = """
source {script}
COMP_LINE=$1 COMP_POINT=${{#1}}
read -ra COMP_WORDS <<< "$1"
[[ $1 == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_nsisolate
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def script_for(shell: str, folder: Path) -> Path:
    """The script, as a file."""
    path = folder / f"nsisolate.{shell}"
    path.write_text(SHELLS[shell](make_parser()))
    return path


def test_the_command_prints_the_script() -> None:
    """For each shell, without starting anything."""
    for shell, make in SHELLS.items():
        command = (sys.executable, "-m", "pytest_nsisolate", "completion", shell)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, make(make_parser()), "")


@pytest.mark.parametrize("shell", SHELLS)
def test_each_option_of_each_command_is_in_it(shell: str) -> None:
    """What the parser has is completed; ``%`` would be argparse's, not text."""
    text = SHELLS[shell](make_parser())

    options = [*options_of(make_parser())]
    for command in COMMANDS.values():
        assert command.name in text
        options += command.options
    assert len(options) > 30
    for option in options:
        name = option.name if shell != "fish" else f" {option.name.lstrip('-')} "
        assert name in text
        assert "%" not in option.help


def test_what_takes_a_value_and_what_takes_a_command() -> None:
    """Read off argparse, whose inner names these depend on."""
    run = {option.name: option for option in COMMANDS["run"].options}

    assert {name for name, command in COMMANDS.items() if command.runs} == {"run", "enter"}
    assert {name for name, option in run.items() if option.value} == {
        *("--time", "--user", "--hostname", "--devices", "--caps", "--timeout"),
        *("--root", "--writable", "--hide", "--root-size", "--chdir"),
    }
    assert run["--user"].choices == ("map", "range", "same", "none")
    assert {name for name, option in run.items() if option.folder} == {"--chdir"}
    assert COMMANDS["completion"].words == tuple(SHELLS)


def test_bash(tmp_path: Path) -> None:
    """Exactly what fits, also without the package bash-completion."""
    script = script_for("bash", tmp_path)
    for typed, expected in TYPED.items():
        command = ("bash", "-euc", COMPLETE_IN_BASH.format(script=script), "bash", typed)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)

        found, word = set(done.stdout.split()), typed.rpartition(" ")[2]
        assert done.stderr == ""
        assert expected <= found, typed
        assert [name for name in found if not name.startswith(word)] == [], typed


@needs_program("fish")
def test_fish(tmp_path: Path) -> None:
    """What fish itself says that it would offer."""
    script = script_for("fish", tmp_path)
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    for typed, expected in TYPED.items():
        ask = f"source {script}; complete -C {shlex.quote(typed)}"
        command = ("fish", "--no-config", "-c", ask)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)

        found = {line.partition("\t")[0].rstrip("/") for line in done.stdout.splitlines()}
        assert expected <= found, (typed, done.stderr)


@needs_program("zsh")
def test_zsh(tmp_path: Path) -> None:
    """At a terminal: what Tab adds to the line, or lists below it."""
    script = script_for("zsh", tmp_path)
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "TERM": "dumb", "LC_ALL": "C"}
    zsh = pexpect.spawn(
        "zsh", ["-f", "-i"], env=environment, timeout=60, dimensions=(60, 200), encoding="utf-8"
    )
    try:
        prepare = "PS1=; unsetopt BEEP LIST_BEEP; autoload -U compinit; compinit -u -D"
        zsh.sendline(f"{prepare}; source {script}; echo re''ady")
        zsh.expect_exact("ready")
        for number, (typed, expected) in enumerate(TYPED.items()):
            # The first Tab adds what all have in common, the second one lists them.
            zsh.send(typed + "\t" * min(len(expected), 2))
            zsh.expect("(?s)" + "".join(f"(?=.*{re.escape(name)})" for name in expected))
            zsh.sendcontrol("u")
            zsh.sendline(f"echo mar''k{number}.")
            zsh.expect_exact(f"mark{number}.")
    finally:
        zsh.close(force=True)
