# SPDX-License-Identifier: MIT
"""The command ``nsisolate`` and ``python -m pytest_nsisolate``: one parser, two names."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

import pytest_nsisolate
from pytest_nsisolate.__main__ import NAME, make_parser
from pytest_nsisolate.cli.completion import commands_of
from tests.support import NEEDS_NAMESPACES

ROOT: Final = Path(__file__).parents[2]

#: As pip writes the script of an entry point.
SCRIPT: Final = """\
#!{python}
import sys
from {module} import {function}
if __name__ == "__main__":
    sys.exit({function}())
"""

MODULE: Final = (sys.executable, "-m", "pytest_nsisolate")


@pytest.fixture
def script(tmp_path: Path) -> tuple[str, ...]:
    """The console script that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    ((name, target),) = project["scripts"].items()
    module, _, function = target.partition(":")
    path = tmp_path / name
    path.write_text(SCRIPT.format(python=sys.executable, module=module, function=function))
    return (sys.executable, str(path))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_version_is_that_of_the_package(script: tuple[str, ...]) -> None:
    """By either name, on standard output."""
    expected = (0, f"pytest-nsisolate {pytest_nsisolate.__version__}\n", "")

    for command in (script, MODULE):
        done = run(*command, "--version")
        assert (done.returncode, done.stdout, done.stderr) == expected


def test_each_name_is_the_one_that_the_user_typed(script: tuple[str, ...]) -> None:
    """In the usage, so that it can be copied."""
    assert run(*script).stderr.startswith(f"usage: {NAME} ")
    assert run(*MODULE).stderr.startswith("usage: python -m pytest_nsisolate ")


def test_the_commands_are_the_same(script: tuple[str, ...]) -> None:
    """Each has a help of its own."""
    names = [command.name for command in commands_of(make_parser())]

    assert names == ["doctor", "enter", "run", "completion"]
    for name in names:
        by_script, by_module = run(*script, name, "--help"), run(*MODULE, name, "--help")
        assert by_script.returncode == by_module.returncode == 0
        assert f"usage: {NAME} {name}" in by_script.stdout
        assert f"usage: python -m pytest_nsisolate {name}" in by_module.stdout


@NEEDS_NAMESPACES
def test_the_script_runs_a_command_as_pid_1(script: tuple[str, ...]) -> None:
    """Its exit status is the command's."""
    done = run(*script, "run", "--", "sh", "-c", "echo $$; exit 7")

    assert (done.returncode, done.stdout) == (7, "1\n"), done.stderr


def test_an_unknown_command_is_a_usage_error(script: tuple[str, ...]) -> None:
    """Status 2, and what there is."""
    done = run(*script, "docter")

    assert done.returncode == 2
    assert "invalid choice: 'docter'" in done.stderr
    assert "doctor" in done.stderr
