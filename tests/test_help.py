# SPDX-License-Identifier: MIT
"""What pytest tells of the plugin: ``--help``, ``--markers`` and ``--fixtures -v``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

import pytest_nsisolate
from pytest_nsisolate import Box, Isolate, IsolateKeywords, Pid1View, Task, Terminal
from tests.support import run_source

ROOT: Final = Path(__file__).parents[1]

#: Columns of an ordinary terminal.
WIDTH: Final = 80


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Our part of what each of these prints."""
    folder = tmp_path_factory.mktemp("help")
    parts = {
        "--help": r"^Linux namespace isolation (.*\n)+?(?=\n)",
        "--markers": r"^@pytest\.mark\.isolated(.*\n)+?(?=\n)",
        "--fixtures": r"^-+ fixtures defined from pytest_nsisolate\.plugin.*\n(.*\n)+?(?=\n\n|=)",
    }
    found = {}
    for option, part in parts.items():
        result = run_source(folder, "", option, "-v", env={"COLUMNS": str(WIDTH)})
        match = re.search(part, result.stdout, re.MULTILINE)
        assert match is not None, result.text
        found[option] = match[0]
    return found


def public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


@pytest.mark.parametrize("option", ["--help", "--markers", "--fixtures"])
def test_it_fits_and_says_where_to_read_on(told: dict[str, str], option: str) -> None:
    """The documents that it names are there, and so is what pydoc is to show."""
    lines = [line for line in told[option].splitlines() if "/plugin.py:" not in line]
    prefix = len("@pytest.mark.") if option == "--markers" else 0
    assert [line for line in lines if len(line) > WIDTH + prefix] == []
    documents = re.findall(r"\bdocs/\S+?\.md\b", told[option])
    assert documents
    assert [name for name in documents if not (ROOT / name).is_file()] == []
    for name in re.findall(r"pydoc pytest_nsisolate\.(\w+)", told[option]):
        assert getattr(pytest_nsisolate, name).__doc__


def test_every_keyword_of_the_marker_with_type_and_default(told: dict[str, str]) -> None:
    text = told["--markers"]
    shown = re.findall(r"(?:^| )(\w+)=(?= |$)", text, re.MULTILINE)
    only_here = {"inside", "leftovers", "exclusive", "share", "reach", "tty"}
    assert sorted(shown) == sorted({*IsolateKeywords.__annotations__, *only_here})
    after_switches = re.split(r"^  \w+=  ", text.partition("cgroup=\n")[2], flags=re.MULTILINE)
    assert len(after_switches) == len(shown) - 5
    for entry in after_switches:
        assert re.match(r' *("fail"|"host"|"ignore"|True:|(bool|str|float|dict)\b)', entry), entry
        assert "(default:" in entry


def test_every_option_with_its_values_and_its_default(told: dict[str, str]) -> None:
    entries = re.split(r"\n  (?=--)", told["--help"])[1:]
    assert len(entries) == 18
    for entry in entries:
        if "=" in entry.split()[0] or "--nsisolate-init" in entry:
            assert "default" in entry, entry


def test_every_part_of_the_fixtures(told: dict[str, str]) -> None:
    """All data, all assertions, and what a call, a task and a box can do."""
    parts = re.split(r"^(\w+) .*/plugin\.py:\d+$", told["--fixtures"], flags=re.MULTILINE)
    of = dict(zip(parts[1::2], parts[2::2], strict=True))
    pid1, isolate, terminal = of["pid1"], of["isolate"], of["terminal"]
    every = {name for kind in Pid1View.__mro__ for name in public(kind)} - public(object)
    assert {name for name in every if not re.search(rf"\b{name}\b", pid1)} == set()
    calls = (public(Isolate) | public(Box) | public(Task)) - {
        *("settled", "child", "end", "helpers", "over", "pid", "name", "namespaces"),
        # for the testbed, which is made of boxes
        *("begin", "begin_to_close", "processes", "furnished", "refused", "launcher"),
    }
    assert {name for name in calls if not re.search(rf"\b{name}\b", isolate)} == set()
    assert {name for name in public(Terminal) if not re.search(rf"\b{name}\b", terminal)} == set()
