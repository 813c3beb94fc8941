# SPDX-License-Identifier: MIT
"""Who is measured: each contender's packages, marker and plugins, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

# Two of the peers break on newer ones (peers.py shows how), and a comparison needs one pytest.
PYTEST = "8.4.2"


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to run a test.

    ``key`` names it on the command line and in the JSON file; ``environment`` is the virtual
    environment that it shares with others of the same packages; ``mark`` is the decorator of each
    test ("" for none); ``module`` is the plugin's import name ("" for none), needed only where
    plugin autoload is off; ``plugins`` are loaded with ``-p``; ``weight`` is how many tests are
    run for each ten asked for, because a slow peer needs fewer for the same precision.
    """

    key: str
    title: str
    environment: str
    requirements: tuple[str, ...] = ()
    mark: str = ""
    module: str = ""
    plugins: tuple[str, ...] = ()
    weight: int = 10
    unprivileged: bool = False
    expects: str = "own process"

    def count(self, tests: int) -> int:
        """Tests to run when ``tests`` are asked for; at least two, one is the start-up run."""
        return max(2, tests * self.weight // 10)


OURS = "pytest_nsisolate"
ENGINE = f"{OURS}.plugin"

PLAIN = Contender("plain", "plain pytest", "plain", expects="runner")
FLOOR = Contender("floor", "floor: fork, protocol, exit", "plain", plugins=("bench_floor",))
FORKED = Contender(
    "forked",
    "pytest-forked 1.7.5",
    "forked",
    ("pytest-forked==1.7.5",),
    mark="@pytest.mark.forked",
    module="pytest_forked",
)
ISOLATE = Contender(
    "isolate",
    "pytest-isolate 0.0.17",
    "isolate",
    ("pytest-isolate==0.0.17",),
    # Without a keyword this marker isolates nothing, and says nothing (peers.py has the row).
    mark="@pytest.mark.isolate(timeout=30)",
    module="pytest_isolate.plugin",
)
ISOLATED = Contender(
    "isolated",
    "pytest-isolated 0.6.0",
    "isolated",
    ("pytest-isolated==0.6.0",),
    mark="@pytest.mark.isolated",
    module="pytest_isolated.plugin",
    weight=1,
)
PID_ALONE = Contender(
    "nsisolate-pid",
    "pytest-nsisolate, pid",
    "nsisolate",
    (OURS,),
    mark="@pytest.mark.isolated(pid=True)",
    module=ENGINE,
    expects="pid mnt",
)
DEFAULT_SET = Contender(
    "nsisolate",
    "pytest-nsisolate, default set",
    "nsisolate",
    (OURS,),
    mark="@pytest.mark.isolated",
    module=ENGINE,
    expects="pid mnt net uts ipc cgroup",
)
UNPRIVILEGED = Contender(
    "nsisolate-user",
    "pytest-nsisolate, default set, no privileges",
    "nsisolate",
    (OURS,),
    mark="@pytest.mark.isolated",
    module=ENGINE,
    unprivileged=True,
    expects="pid mnt net uts ipc cgroup",
)
LONG_WAY = Contender(
    "nsisolate-long",
    "pytest-nsisolate, in a runner with a thread",
    "nsisolate",
    (OURS,),
    mark="@pytest.mark.isolated",
    module=ENGINE,
    plugins=("bench_thread",),
    expects="pid mnt net uts ipc cgroup",
)
IDLE = Contender(
    "idle", "plugin installed, no marker", "nsisolate", (OURS,), module=ENGINE, expects="runner"
)

EVERYONE = (
    *(PLAIN, FLOOR, FORKED, ISOLATE, ISOLATED),
    *(PID_ALONE, DEFAULT_SET, LONG_WAY, UNPRIVILEGED),
)
#: What one environment for all of them has.
PACKAGES = tuple(dict.fromkeys(name for one in EVERYONE for name in one.requirements))
BY_KEY = {contender.key: contender for contender in (*EVERYONE, IDLE)}


def suite(mark: str, count: int) -> str:
    """The text of a test module with ``count`` empty tests.

    Each test carries its own marker: pytest-isolated runs everything below a module's marker in
    one process, which would be another question.
    """
    lines = ["import pytest", ""]
    for number in range(count):
        lines += ["", mark, f"def test_{number:05}():", "    pass", ""]
    return "\n".join(lines)


def witness(path: str, mark: str) -> str:
    """The text of a test module whose one test writes where it ran to ``path``, as JSON."""
    return f"""\
import json, os
import pytest

{mark}
def test_where():
    names = ("pid", "mnt", "net", "uts", "ipc", "cgroup", "user")
    where = {{name: os.stat("/proc/self/ns/" + name).st_ino for name in names}}
    where["process"] = os.getpid()
    with open({path!r}, "w") as out:
        json.dump(where, out)
"""
