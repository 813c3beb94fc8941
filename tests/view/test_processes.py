# SPDX-License-Identifier: MIT
"""Processes: what the view says is what ps says, of the test's own world."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import pty
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from pytest_nsisolate import Pid1View
from pytest_nsisolate.view import Process
from pytest_nsisolate.view.processes import as_trees
from tests.support import NEEDS_NAMESPACES, ON_THE_HOST, eventually
from tests.view.tools import NEEDS_PS, PATH, owned

pytestmark = NEEDS_NAMESPACES

STATES = {"running": "R", "sleeping": "S", "zombie": "Z", "stopped": "T", "disk-sleep": "D"}


def rows_of_ps(*columns: str) -> dict[int, list[str]]:
    """The columns of every process but ps itself, by number; the last one may have blanks."""
    names = [f"{name}:64=" if name in ("comm", "tty") else f"{name}=" for name in columns]
    with subprocess.Popen(
        ["ps", "-eww", *(part for name in ("pid=", *names) for part in ("-o", name))],
        env={**os.environ, "PATH": PATH, "LC_ALL": "C"},
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as ps:
        text = ps.communicate()[0]
    rows = [line.split(None, len(columns)) for line in text.splitlines()]
    return {
        int(row[0]): [cell.strip() for cell in row[1:]] for row in rows if int(row[0]) != ps.pid
    }


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[dict[str, int]]:
    """Processes of many kinds, by what is special about them."""
    sleep = shutil.which("sleep")
    assert sleep is not None
    odd = tmp_path / "odd) (name, quite long"
    shutil.copy(sleep, odd)
    parent, terminal = pty.openpty()
    started = {
        "plain": subprocess.Popen(["sleep", "60"]),
        "odd": subprocess.Popen([odd, "60"], cwd="/"),
        "session": subprocess.Popen(["sleep", "60"], start_new_session=True),
        "terminal": subprocess.Popen(["setsid", "--ctty", "sleep", "60"], stdin=terminal),
        "stopped": subprocess.Popen(["sleep", "60"]),
        "zombie": subprocess.Popen(["true"]),
    }
    os.close(terminal)
    os.kill(started["stopped"].pid, signal.SIGSTOP)
    os.waitid(os.P_PID, started["zombie"].pid, os.WEXITED | os.WNOWAIT)
    os.waitid(os.P_PID, started["stopped"].pid, os.WSTOPPED | os.WNOWAIT)
    name = Path(f"/proc/{started['terminal'].pid}/comm")
    assert eventually(lambda: name.read_text() == "sleep\n")
    stats = [
        Path(f"/proc/{started[key].pid}/stat") for key in ("plain", "odd", "session", "terminal")
    ]
    assert eventually(lambda: all(") S " in stat.read_text() for stat in stats))
    yield {key: process.pid for key, process in started.items()}
    for process in started.values():
        process.kill()
        process.wait()
    os.close(parent)


EVERY_WAY = [
    pytest.param(marks=pytest.mark.isolated(), id="default"),
    pytest.param(marks=pytest.mark.isolated(init=True), id="init"),
    pytest.param(marks=pytest.mark.isolated(pid=True, user="same"), id="same"),
    pytest.param(marks=pytest.mark.isolated(pid=True, time=86_400.0), id="time"),
]


@NEEDS_PS
@pytest.mark.parametrize((), EVERY_WAY)
def test_each_is_as_ps_says(pid1: Pid1View, crowd: dict[str, int]) -> None:
    """Numbers, user, group, session, terminal, name, state, arguments, folder and age."""
    seen = {process.pid: process for process in pid1.processes}
    facts = rows_of_ps("ppid", "uid", "pgid", "sid", "state", "tty", "comm")
    arguments = rows_of_ps("args")
    ages = rows_of_ps("etimes")

    assert set(seen) == set(facts)
    assert len(facts) == len(crowd) + len(pid1._own_pids)
    for pid, (ppid, uid, pgid, sid, state, tty, name) in facts.items():
        process = seen[pid]
        numbers = (process.ppid, process.uid, process.pgid, process.sid)
        assert numbers == (int(ppid), int(uid), int(pgid), int(sid))
        assert (process.tty or "?").removeprefix("/dev/") == tty
        assert process.name[:15] == name.removesuffix(" <defunct>")
        assert int(ages[pid][0]) <= process.age + 1 < int(ages[pid][0]) + 3
        if pid != pid1.pid:
            assert STATES[process.state] == state
        if not process.is_zombie:
            assert " ".join(process.argv) == arguments[pid][0]
            assert process.cwd == os.readlink(f"/proc/{pid}/cwd")


@pytest.mark.isolated
def test_what_is_special_shows(pid1: Pid1View, crowd: dict[str, int]) -> None:
    """The whole of a long name, a session, a terminal opened just now, a stop, an end."""
    seen = {process.pid: process for process in pid1.processes}
    named = {key: seen[pid] for key, pid in crowd.items()}

    assert named["odd"].name == "odd) (name, quite long"
    assert named["odd"].cwd == "/"
    assert named["session"].sid == named["session"].pid
    assert (named["terminal"].tty or "").startswith("/dev/pts/")
    assert named["stopped"].state == "stopped"
    assert (named["zombie"].argv, named["zombie"].cwd) == ((), None)
    assert pid1.zombies == (named["zombie"],)
    assert {process.pid for process in pid1.leftovers} == set(crowd.values()) - {crowd["zombie"]}


@pytest.mark.isolated
@pytest.mark.parametrize(
    "argv",
    [
        ("sh me", "-c", "read x"),
        ("sh", "-c", "read x", "a\r\nb\rc\n", "", " ", "\udcff", ""),
    ],
)
def test_arguments_are_what_they_are(pid1: Pid1View, argv: tuple[str, ...]) -> None:
    """Carriage returns, empty ones, bytes that are no text."""
    with owned(*argv, executable="/bin/sh", stdin=subprocess.PIPE) as process:
        assert pid1.assert_process(process).argv == argv


@pytest.mark.isolated
def test_a_single_argument_is_not_split(pid1: Pid1View) -> None:
    """At its blanks."""
    with owned("sh me", executable="/bin/sh", stdin=subprocess.PIPE) as process:
        assert pid1.assert_process(process).argv == ("sh me",)


@pytest.mark.isolated
@pytest.mark.parametrize("interpreter", ["/bin/sh", "/bin/sh -e"])
def test_a_script_with_a_long_name_is_found_by_it(
    pid1: Pid1View, tmp_path: Path, interpreter: str
) -> None:
    """The kernel keeps 15 bytes of it, and the first argument is the interpreter."""
    script = tmp_path / "backup-scheduler.sh"
    script.write_text(f"#!{interpreter}\nprintf started\nread x\n")
    script.chmod(0o755)
    with owned("./backup-scheduler.sh", cwd=tmp_path, stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.read(7)
        assert pid1.assert_process("backup-scheduler.sh").pid == process.pid


@pytest.mark.isolated(leftovers="ignore")
def test_the_proc_of_somebody_else_is_not_shown(pid1: Pid1View) -> None:
    """What lies below the test's own is the host's, and its PID 1 is not the test."""
    subprocess.run(["umount", "-l", "/proc"], check=True)
    for read in (
        lambda: pid1.processes,
        lambda: pid1.sockets,
        lambda: pid1.environment_of(1),
        pid1.assert_alone,
    ):
        with pytest.raises(OSError, match="/proc is that of another PID namespace"):
            read()
    subprocess.run(["mount", "-t", "tmpfs", "none", "/proc"], check=True)
    with pytest.raises(FileNotFoundError, match="no /proc of this PID namespace is mounted"):
        pid1.snapshot()


@pytest.mark.isolated(init=True, leftovers="ignore")
def test_a_chain_may_be_longer_than_python_s_stack(
    pid1: Pid1View,
) -> None:
    """The tree of it is made, walked, drawn, compared and told without a call for each."""
    (init, me) = pid1.processes
    chain = [dataclasses.replace(me, pid=n, ppid=n - 1) for n in range(me.pid + 1, 3000)]
    (tree,) = as_trees((init, me, *chain))
    assert [depth for depth, _ in tree.walk()] == [*range(len(chain) + 2)]
    assert len(str(tree).splitlines()) == len(chain) + 2
    assert repr(tree) == f"<ProcessTree of {init}, {len(chain) + 2} in all>"
    (again,) = as_trees((init, me, *chain))
    assert tree == again
    assert hash(tree) == hash(again)
    (other,) = as_trees((init, me, *chain[:-1]))
    assert tree != other


@pytest.mark.isolated
@NEEDS_PS
def test_ids_are_those_in_effect(pid1: Pid1View) -> None:
    """A process is known by what it may do: its effective user."""
    (row,) = rows_of_ps("euid").values()
    (process,) = pid1.processes
    assert process.uid == os.geteuid() == int(row[0])


@pytest.fixture(scope="module")
def at_home() -> set[tuple[int, float]]:
    """Everybody on the host, as the runner sees it: number and start."""
    return {(process.pid, process.started) for process in Pid1View().processes}


@ON_THE_HOST
def test_the_host_has_more(at_home: set[tuple[int, float]]) -> None:
    """The control: the same reading in the runner shows the runner and its ancestors."""
    numbers = {pid for pid, _ in at_home}
    assert {os.getpid(), os.getppid()} <= numbers
    assert len(numbers) > 2


@pytest.mark.parametrize((), EVERY_WAY)
def test_nobody_of_the_host_is_seen(pid1: Pid1View, at_home: set[tuple[int, float]]) -> None:
    """A fresh world has the test in it, and nobody who lived before."""
    pid1.assert_alone()
    assert not {(process.pid, process.started) for process in pid1.processes} & at_home


@pytest.fixture(scope="module")
def remembered() -> int:
    """psutil in the runner has seen every process of the host, and remembers them by number."""
    return len(list(psutil.process_iter()))


@pytest.mark.isolated
def test_psutil_of_one_s_own_sees_the_test_s_world(pid1: Pid1View, remembered: int) -> None:
    """It does not take PID 1 for the host's, which it has seen before."""
    names = {process.pid: process.name() for process in psutil.process_iter()}
    assert names == {process.pid: process.name for process in pid1.processes}
    assert len(names) < remembered


@pytest.mark.isolated(init=True)
class TestReaper:
    def test_numbers(self, pid1: Pid1View) -> None:
        """PID 1 is the init, which is no leftover, and the test its child."""
        init, me = pid1.processes
        assert (init.pid, init.ppid, me.pid, me.ppid) == (1, 0, pid1.pid, 1)
        assert pid1.leftovers == pid1.orphans == ()
        (tree,) = pid1.process_tree
        assert [(depth, process.pid) for depth, process in tree.walk()] == [(0, 1), (1, me.pid)]

    @pytest.mark.isolated(leftovers="ignore")
    def test_orphans_are_exact(self, pid1: Pid1View) -> None:
        """The child of a shell that has ended is one, the test's own child is not."""
        with owned("sleep", "60") as own:
            subprocess.run(["sh", "-c", "sleep 61 &"], check=True)
            pid1.assert_process(lambda p: p.argv == ("sleep", "61"), within=10)
            (orphan,) = pid1.orphans
            assert (orphan.argv, orphan.ppid) == (("sleep", "61"), 1)
            own.kill()

    def test_no_zombie_of_an_orphan_stays(self, pid1: Pid1View) -> None:
        """The init waits for them."""
        subprocess.run(["sh", "-c", "true & true &"], check=True)
        pid1.assert_no_zombies(within=10)


@pytest.mark.isolated
class TestPid1:
    @pytest.mark.isolated(leftovers="ignore")
    def test_orphans_with_a_foreign_session_or_group(self, pid1: Pid1View) -> None:
        """What somebody else has put into a session or group of its own is known for an orphan."""
        with owned("sleep", "60", start_new_session=True) as own:
            subprocess.run(["sh", "-c", "sleep 61 &"], check=True, start_new_session=True)
            subprocess.run(["sh", "-c", "sleep 62 &"], check=True, process_group=0)
            pid1.assert_process(lambda p: p.argv == ("sleep", "61"), within=10)
            pid1.assert_process(lambda p: p.argv == ("sleep", "62"), within=10)
            assert {process.argv[1] for process in pid1.orphans} == {"61", "62"}
            own.kill()

    @pytest.mark.isolated(leftovers="ignore")
    def test_orphans_by_their_order(self, pid1: Pid1View) -> None:
        """An older child behind a younger one was somebody else's first."""
        shell = subprocess.Popen(["sh", "-c", "sleep 61 & read x"], stdin=subprocess.PIPE)
        pid1.assert_process("sleep", within=10)
        assert list(pid1.orphans) == []
        own = subprocess.Popen(["sleep", "62"])
        shell.communicate(b"\n")
        assert [process.argv for process in pid1.orphans] == [("sleep", "61")]
        own.kill()
        own.wait()

    @pytest.mark.isolated(leftovers="ignore")
    def test_tree(self, pid1: Pid1View) -> None:
        """Children below their parents, drawn with their depth."""
        shell = subprocess.Popen(["sh", "-c", "sleep 61; true"])
        pid1.assert_process("sleep", within=10)
        (tree,) = pid1.process_tree
        assert [depth for depth, _ in tree.walk()] == [0, 1, 2]
        lines = str(tree).splitlines()
        assert lines[1:] == [f"  {shell.pid} sh -c sleep 61; true", f"    {shell.pid + 1} sleep 61"]
        shell.kill()
        shell.wait()

    def test_multiprocessing_s_own_are_no_leftovers(self, pid1: Pid1View) -> None:
        """The fork server and the resource tracker end with the test."""
        context = multiprocessing.get_context("forkserver")
        process: BaseProcess = context.Process(target=os.getpid)
        process.start()
        process.join()
        assert len(pid1.processes) > 1
        assert pid1.leftovers == ()
        pid1.assert_no_leftovers()

    def test_what_it_gives_cannot_be_changed(self, pid1: Pid1View) -> None:
        """Frozen, and equal to another reading but for the age."""
        (first,) = pid1.processes
        time.sleep(0.02)
        (second,) = pid1.processes
        assert first == second
        assert first.age < second.age
        with pytest.raises(AttributeError):
            first.pid = 2  # type: ignore[misc]


def started_here(pid1: Pid1View) -> list[Process]:
    return [process for process in pid1.processes if process.pid not in pid1._own_pids]


@pytest.mark.parametrize(
    (),
    [
        pytest.param(marks=pytest.mark.isolated(net=True), id="plain"),
        pytest.param(marks=pytest.mark.isolated(net=True, init=True), id="init"),
    ],
)
@pytest.mark.isolated(leftovers="ignore")
def test_without_a_pid_namespace_the_world_is_what_the_test_started(
    pid1: Pid1View, at_home: set[tuple[int, float]]
) -> None:
    """Its children and orphans, not the host's other processes."""
    pid1.assert_alone()
    child = subprocess.Popen(["sleep", "60"])
    subprocess.run(["sh", "-c", "setsid sleep 61 &"], check=True)
    pid1.assert_process(lambda p: p.argv == ("sleep", "61"), within=10)
    assert {process.argv for process in started_here(pid1)} == {("sleep", "60"), ("sleep", "61")}
    assert [process.argv[1] for process in pid1.orphans] == ["61"]
    assert not {(process.pid, process.started) for process in pid1.processes} & at_home
    child.kill()
    child.wait()
