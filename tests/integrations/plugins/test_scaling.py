# SPDX-License-Identifier: MIT
"""Scale-out: several workers, and shards of a suite whose results are joined."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import coverage
import yaml

from tests.integrations.plugins.installed import needs
from tests.support import NEEDS_NAMESPACES, inner_environment, run_suite, write_files

pytestmark = [NEEDS_NAMESPACES, needs("pytest-xdist")]

PAGE: Final = Path(__file__).parents[3] / "docs" / "howto" / "scaling.md"

#: Says in whose namespaces it is.
WHERE = """
    import os, socket
    from journal import note
    NAMES = ("pid", "net", "uts", "mnt", "ipc")
    def where(what):
        ids = [os.stat(f"/proc/self/ns/{name}").st_ino for name in NAMES]
        note((what, os.environ["PYTEST_XDIST_WORKER"], ids))
"""

CONFTEST = """
    import pytest
    from where import where
    @pytest.fixture(scope="session", autouse=True)
    def worker(): where("worker")
"""

MEETING = """
    import os, time, pytest, socket
    from pathlib import Path
    from where import where
    HERE = Path(__file__).parent

    def meet(name):
        # Both are alive until each has seen the other.
        (HERE / name).touch()
        until = time.monotonic() + 60
        while len(list(HERE.glob("met-*"))) < 2:
            assert time.monotonic() < until, "the other test does not run at the same time"
            time.sleep(0.01)
        where(name)
        (HERE / f"done-{name}").touch()
        while len(list(HERE.glob("done-*"))) < 2:
            assert time.monotonic() < until
            time.sleep(0.01)

    @pytest.mark.isolated
    @pytest.mark.parametrize("n", [
        pytest.param(n, marks=pytest.mark.xdist_group(str(n))) for n in range(2)
    ])
    def test_meets(n):
        with socket.create_server(("127.0.0.1", 8080)): meet(f"met-{n}")
"""


def told(journal: list[str]) -> list[tuple[str, str, list[int]]]:
    """(what, worker, ids of namespaces) of each line."""
    return [ast.literal_eval(line.partition(" ")[2]) for line in journal]


def test_tests_of_two_workers_at_the_same_moment(tmp_path: Path) -> None:
    """Each has namespaces of its own, and one port for both."""
    write_files(tmp_path, {"where.py": WHERE, "conftest.py": CONFTEST, "test_meeting.py": MEETING})
    options = ("-p", "xdist", "-n", "2", "--dist=loadgroup")
    result = run_suite(tmp_path, *options, env={"PYTHONPATH": python_path(tmp_path)})
    assert result.summary == "2 passed", result.text
    entries = told(result.journal)
    workers = [entry for entry in entries if entry[0] == "worker"]
    tests = [entry for entry in entries if entry[0] != "worker"]
    assert {worker for _, worker, _ in tests} == {"gw0", "gw1"}
    assert [ids for _, _, ids in workers] == [workers[0][2]] * 2
    for first, second, outside in zip(tests[0][2], tests[1][2], workers[0][2], strict=True):
        assert len({first, second, outside}) == 3


SHARDED = {
    "where.py": WHERE,
    "conftest.py": CONFTEST,
    **{
        f"test_{letter}.py": """
            import os, pytest, socket
            import acts
            from where import where
            @pytest.mark.isolated
            @pytest.mark.parametrize("n", range(4))
            def test_isolated(n):
                acts.of[__name__]()
                socket.sethostname("shard")
                with socket.create_server(("127.0.0.1", 8080)): where("isolated")
            @pytest.mark.parametrize("n", range(2))
            def test_plain(n): where("plain")
        """
        for letter in "abc"
    },
    "acts.py": """
        def a():
            return 1
        def b():
            return 2
        def c():
            return 3
        of = {"test_a": a, "test_b": b, "test_c": c}
    """,
    "test_crash.py": """
        import os, pytest
        @pytest.mark.isolated
        def test_crash(): os._exit(5)
    """,
}


@needs("pytest-split", "junitparser", "pytest-regressions")
def test_the_shards_of_the_page_run_every_test_once(tmp_path: Path) -> None:
    """Durations, three groups of two workers, and from all of them one report and one coverage."""
    suite = Suite(tmp_path)
    assert suite.run(commands("--store-durations")[0]) == 1  # the crash
    stored = tmp_path / ".test_durations"
    durations = json.loads(stored.read_text("utf-8"))
    assert sum("test_isolated" in test for test in durations) == 12
    # On a busy machine one slow test may be a third of all, and a shard have nothing isolated.
    stored.write_text(json.dumps(dict.fromkeys(durations, 0.1)))
    suite.journal()

    jobs = workflow()["jobs"]
    groups = jobs["shard"]["strategy"]["matrix"]["group"]
    assert groups == [1, 2, 3]
    statuses, seen = [], []
    for group in groups:
        statuses.append(suite.run(step(jobs["shard"], "test"), group=group))
        seen.append(told(suite.journal()))
    assert suite.run(step(jobs["report"], "merge")) == 0

    cases = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in ElementTree.parse(tmp_path / "junit.xml").getroot().iter("testcase")
    ]
    expected = [f"test_{a}::test_isolated[{n}]" for a in "abc" for n in range(4)]
    expected += [f"test_{a}::test_plain[{n}]" for a in "abc" for n in range(2)]
    assert Counter(cases) == Counter([*expected, "test_crash::test_crash"])
    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("19", "1", "0")
    assert sorted(statuses) == [0, 0, 1]
    assert lines_of(tmp_path, "acts.py") == {2, 3, 4, 5, 6, 7, 8}
    for entries in seen:
        assert_isolated(entries)


def lines_of(folder: Path, name: str) -> set[int]:
    """Lines of a file that were executed, by the data that all shards together have left."""
    data = coverage.CoverageData(str(folder / ".coverage"))
    data.read()
    found = set(data.lines(str(folder / name)) or ())
    data.close(force=True)
    return found


def assert_isolated(entries: list[tuple[str, str, list[int]]]) -> None:
    """Of one shard: both workers had tests, and no isolated one was in a worker's namespaces."""
    assert {worker for _, worker, _ in entries} == {"gw0", "gw1"}
    outside = {tuple(ids) for what, _, ids in entries if what != "isolated"}
    assert len(outside) == 1  # the workers, and their plain tests
    inside = [ids for what, _, ids in entries if what == "isolated"]
    assert inside
    (their,) = outside
    for ids in inside:
        assert not set(ids) & set(their)


class Suite:
    """A folder in which the page's commands are run by a shell."""

    def __init__(self, folder: Path) -> None:
        self.folder = write_files(folder, SHARDED)
        bin_ = folder / "bin"
        bin_.mkdir()
        for name in ("pytest", "junitparser", "coverage"):
            (bin_ / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {name} "$@"\n')
            (bin_ / name).chmod(0o755)
        plugins = "-p nsisolate -p xdist -p pytest_cov -p pytest_split.plugin -p no:cacheprovider"
        self._env = inner_environment(folder, {"PYTEST_ADDOPTS": plugins})
        self._env["PATH"] = f"{bin_}:{self._env['PATH']}"
        self._env["PYTHONPATH"] = python_path(folder)

    def run(self, command: str, group: int = 0) -> int:
        """The exit status of a command of the page."""
        (self.folder / ".journal").write_text("")
        line = command.replace("${{ matrix.group }}", str(group))
        assert "${{" not in line
        done = subprocess.run(
            ["sh", "-ec", line], cwd=self.folder, env=self._env, capture_output=True, text=True
        )
        assert "INTERNALERROR" not in done.stdout + done.stderr
        return done.returncode

    def journal(self) -> list[str]:
        """What the last command's tests have noted."""
        return (self.folder / ".journal").read_text("utf-8").splitlines()


def python_path(folder: Path) -> str:
    """With the suite's own modules."""
    return f"{inner_environment(folder)['PYTHONPATH']}:{folder}"


def blocks(language: str) -> list[str]:
    """The fenced blocks of the page in one language."""
    parts = PAGE.read_text("utf-8").split(f"```{language}\n")[1:]
    return [part.partition("```")[0] for part in parts]


def commands(word: str) -> list[str]:
    """The shell commands of the page that have a word in them."""
    return [line for block in blocks("sh") for line in block.splitlines() if word in line]


def workflow() -> dict[str, Any]:
    """The workflow of the page."""
    (text,) = blocks("yaml")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def step(job: dict[str, Any], name: str) -> str:
    """The command of one step."""
    (found,) = (part for part in job["steps"] if part.get("name") == name)
    return str(found["run"])
