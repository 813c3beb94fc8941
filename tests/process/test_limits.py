# SPDX-License-Identifier: MIT
"""``limits=``: what it may say, how it is merged, and each limit met for real."""

from __future__ import annotations

import contextlib
import errno
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.host import examine
from pytest_nsisolate.kernel import cgroups, rlimits
from pytest_nsisolate.kernel.namespaces import NAMESPACES
from pytest_nsisolate.process.launcher import Launcher
from pytest_nsisolate.process.limit_mechanisms import LimitMechanisms
from pytest_nsisolate.process.limits import Bound
from pytest_nsisolate.process.plan import Fixed
from pytest_nsisolate.request import limits
from pytest_nsisolate.request.limits import LimitError, Limits
from tests.hosts import NEEDS_ROOT
from tests.inner_runs import (
    SIDES,
    Side,
    assert_expected,
    cases,
    run_batch,
    shared_batch,
    suite_folder,
)
from tests.support import INNER, NEEDS_NAMESPACES, ON_THE_HOST, eventually, inner_environment, needs

EVERYTHING = frozenset(NAMESPACES) - {"time"}

# What may be said ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (256, 256),
        ("5000000", 5_000_000),
        ("1024K", 1 << 20),
        ("256M", 256 << 20),
        ("256 MiB", 256 << 20),
        ("256mib", 256 << 20),
        ("1.5G", 3 << 29),
        ("2T", 2 << 40),
    ],
)
def test_sizes(said: object, found: int) -> None:
    """Bytes, or a number with a unit of 1,024."""
    assert limits.check({"file_size": said}) == {"file_size": found}


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"memroy": "1G"}, "knows no 'memroy', did you mean 'memory'?"),
        ({3: 4}, "knows no 3, allowed: cpu, file_size, files, memory, processes"),
        ({"memory": "256MB"}, "takes memory in K, M, G, T or KiB, MiB, ..., not '256MB'"),
        ({"memory": "much"}, "takes a size for memory, bytes or \"256M\", or None, not 'much'"),
        ({"memory": True}, 'takes a size for memory, bytes or "256M", or None, not True'),
        ({"memory": 1.5}, 'takes a size for memory, bytes or "256M", or None, not 1.5'),
        ({"memory": "5iB"}, "takes a size for memory, bytes or \"256M\", or None, not '5iB'"),
        ({"memory": 1000}, "takes memory from 1M on, not 1000"),
        ({"memory": "9999999999T"}, "takes memory up to 4611686018427387903, not '9999999999T'"),
        ({"cpu": 0.5}, "takes whole seconds for cpu, or None, not 0.5"),
        ({"cpu": "10"}, "takes whole seconds for cpu, or None, not '10'"),
        ({"processes": False}, "takes a whole number for processes, or None, not False"),
        ({"processes": 0}, "takes processes from 1 on, not 0"),
        ({"processes": 1 << 30}, "takes processes up to 4194304, not 1073741824"),
        ({"files": 3}, "takes files from 16 on, not 3"),
        ({"file_size": -1}, "takes file_size from 1 on, not -1"),
        ("256M", "takes a dict of memory, cpu, processes, files, file_size, or None to lift them"),
    ],
)
def test_what_is_not_allowed(said: object, complaint: str) -> None:
    """Each mistake is one clear sentence."""
    with pytest.raises(LimitError) as caught:
        limits.check(said)
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize(
    "said",
    [
        "memory=256M,processes=64",
        "memory=256M processes=64",
        ["memory=256M", "processes=64"],
        {"memory": "256M", "processes": 64},
    ],
)
def test_defaults(said: object) -> None:
    """An option, an ini key, a list and a table say the same."""
    assert limits.parse(said) == Limits(memory=256 << 20, processes=64)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("memory", "takes words like memory=256M, not 'memory'"),
        ("memory=", "takes a size for memory"),
        ("cpu=1.5", "takes whole seconds for cpu, or None, not '1.5'"),
        ("cpus=1", "knows no 'cpus', did you mean 'cpu'?"),
        (5, "takes a table or text like memory=256M, not 5"),
    ],
)
def test_defaults_that_are_not_allowed(said: object, complaint: str) -> None:
    """Likewise."""
    with pytest.raises(LimitError) as caught:
        limits.parse(said)
    assert str(caught.value).startswith(complaint)


def test_none_lifts() -> None:
    """A limit of the defaults by its name, or all of them."""
    default = limits.parse("memory=256M,cpu=5,processes=none")
    assert default == Limits(memory=256 << 20, cpu=5)
    assert limits.merged(default, limits.check({"cpu": None})) == Limits(memory=256 << 20)
    assert limits.merged(default, limits.check(None)) is None
    assert limits.parse("none") == Limits()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("memory", 256 << 20, "256M"), ("memory", (1 << 20) + 1, "1048577"), ("cpu", 1024, "1024")],
)
def test_values_are_said_as_one_would_write_them(name: str, value: int, said: str) -> None:
    """A size with the largest unit that it is a multiple of."""
    assert limits.spelled(name, value) == said


_SAID = {
    "pytest.ini": "[pytest]\nnsisolate_limits = memory=1G processes=500 cpu=50\n",
    "test_it.py": """
import pytest
pytestmark = pytest.mark.isolated(limits={"cpu": 40, "files": 400})

@pytest.mark.isolated(limits={"files": 300})
class TestOne:
    @pytest.mark.isolated(limits={"memory": None, "processes": 200})
    def test_it(self): ...

    @pytest.mark.isolated(limits=None)
    def test_lifted(self): ...

def test_module(): ...

@pytest.mark.isolated(False)
def test_none(): ...
""",
    "conftest.py": """
import pytest
@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session):
    from pytest_nsisolate.runner.run import RUN
    for item, request in session.config.stash[RUN].requests.items():
        print("SAID", item.name, request.limits and request.limits.given())
""",
}


def _collect(folder: Path, *arguments: str, **files: str) -> subprocess.CompletedProcess[str]:
    for name, text in {**_SAID, **files}.items():
        (folder / name).write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", *INNER, "--collect-only", "-qs", *arguments],
        cwd=folder,
        env=inner_environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )


def test_limits_are_merged_key_by_key(tmp_path: Path) -> None:
    """Function over class over module over the ini key; an option takes the ini key's place."""
    said = _collect(tmp_path).stdout
    one = {"cpu": 40, "processes": 200, "files": 300}
    module = {"memory": 1 << 30, "cpu": 40, "processes": 500, "files": 400}
    assert f"SAID test_it {one}" in said
    assert "SAID test_lifted None" in said
    assert f"SAID test_module {module}" in said
    assert "SAID test_none" not in said
    said = _collect(tmp_path, "--nsisolate-limits=file_size=1M").stdout
    assert f"SAID test_module {{'cpu': 40, 'files': 400, 'file_size': {1 << 20}}}" in said


def test_mistakes_are_found_at_collection(tmp_path: Path) -> None:
    """By the marker's test, or by the name of the ini key or option."""
    bad = "import pytest\n@pytest.mark.isolated(limits={'memroy': 1})\ndef test_bad(): ...\n"
    files = {"test_it.py": bad}
    said = _collect(tmp_path, **files).stderr
    assert (
        "isolated(limits={'memroy': 1}): limits knows no 'memroy', did you mean 'memory'?" in said
    )
    assert "  test_it.py::test_bad" in said
    files = {"pytest.ini": "[pytest]\nnsisolate_limits = cpu=x\n"}
    assert (
        "ini key nsisolate_limits: takes whole seconds for cpu"
        in _collect(tmp_path, **files).stderr
    )
    said = _collect(tmp_path, "--nsisolate-limits=cpu").stderr
    assert "--nsisolate-limits: takes words like memory=256M, not 'cpu'" in said


# What holds them ----------------------------------------------------------------------------------


@pytest.fixture
def limit_mechanisms(monkeypatch: pytest.MonkeyPatch) -> Iterator[LimitMechanisms]:
    """On a host that has no group to give, and whose root is not bound by RLIMIT_NPROC."""
    monkeypatch.setattr(cgroups, "places", lambda controller: [])
    monkeypatch.setattr(LimitMechanisms, "_nproc_binds", lambda self: False)
    launcher = Launcher(Fixed(()))
    yield launcher.limit_mechanisms
    launcher.close()


def _mechanism(
    limit_mechanisms: LimitMechanisms, said: Limits, namespaces: frozenset[str] = EVERYTHING
) -> Bound:
    (bound,) = limit_mechanisms.enforce(said, namespaces, init=False).bounds
    return bound


def test_a_limit_that_nothing_holds_is_refused(limit_mechanisms: LimitMechanisms) -> None:
    """With every mechanism that there might have been, and what was wrong with it."""
    with pytest.raises(StepError) as caught:
        _mechanism(limit_mechanisms, Limits(memory=1 << 30, processes=64))
    assert caught.value.step == "limit processes=64"
    assert caught.value.detail == (
        "cgroups: none here is the runner's to divide, ENODEV; "
        "RLIMIT_NPROC: does not bind this user here, EPERM; "
        "pid_max of its PID namespace: from 300 processes on, EINVAL"
    )


@needs(examine().kernel >= (6, 14), "pid_max is the host's before Linux 6.14")
def test_pid_max_comes_last_where_it_is_inexact(
    limit_mechanisms: LimitMechanisms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below 600 processes something else is better; from there on it is the first choice."""
    name = "pid_max of its PID namespace"
    assert _mechanism(limit_mechanisms, Limits(processes=300)) == ("processes", 300, name)
    monkeypatch.setattr(LimitMechanisms, "_nproc_binds", lambda self: True)
    assert _mechanism(limit_mechanisms, Limits(processes=599)).mechanism == "RLIMIT_NPROC"
    assert _mechanism(limit_mechanisms, Limits(processes=600)).mechanism == name
    monkeypatch.setattr(rlimits, "least_processes", lambda: 1023)
    assert _mechanism(limit_mechanisms, Limits(processes=600)).mechanism == "RLIMIT_NPROC"
    monkeypatch.setattr(LimitMechanisms, "_nproc_binds", lambda self: False)
    with pytest.raises(StepError, match="without a PID namespace"):
        _mechanism(limit_mechanisms, Limits(processes=600), frozenset({"mount"}))


def test_pid_max_is_not_touched_before_it_was_of_a_namespace(
    limit_mechanisms: LimitMechanisms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the same file is the whole machine's."""
    monkeypatch.setattr(rlimits, "FIRST_OWN_PID_MAX", (99, 0))
    with pytest.raises(StepError, match=r"needs Linux 6\.14"):
        _mechanism(limit_mechanisms, Limits(processes=1000))


def test_a_tighter_limit_of_the_runner_holds(
    limit_mechanisms: LimitMechanisms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody may raise it, so that is what a report names."""
    monkeypatch.setattr(rlimits, "hard_limit", lambda name: 700)
    assert _mechanism(limit_mechanisms, Limits(files=900)) == ("files", 700, "RLIMIT_NOFILE")
    with pytest.raises(StepError) as caught:
        _mechanism(limit_mechanisms, Limits(memory=1 << 30))
    assert caught.value.errno == errno.ENOMEM


def test_errnos_of_a_failure() -> None:
    """Of the exception, its causes and those of a group; EAGAIN of what starts something only."""

    def fail() -> None:
        try:
            raise OSError(errno.EMFILE, "files")
        except OSError as error:
            raise ExceptionGroup("both", [MemoryError(), BlockingIOError(11, "x")]) from error

    with pytest.raises(ExceptionGroup) as caught:
        fail()
    assert limits.errnos(caught.value) == sorted([errno.EMFILE, errno.ENOMEM])
    assert limits.errnos(RuntimeError("can't start new thread")) == [errno.EAGAIN]


# For real -----------------------------------------------------------------------------------------


def _works() -> bool:
    launcher = Launcher(Fixed(()))
    try:
        launcher.limit_mechanisms.enforce(
            Limits(memory=1 << 30, processes=64), EVERYTHING, init=False
        )
    except StepError:
        return False
    finally:
        launcher.close()
    return examine().kernel >= (6, 14)


def _abandoned() -> set[str]:
    """Groups of runners that are gone."""
    places = [*cgroups.places("memory"), *cgroups.places("pids")]
    names = {path for place in places for path in Path(place.folder).glob("nsisolate-*")}
    return {str(path) for path in names if not Path("/proc", path.name.split("-")[2]).exists()}


NEEDS_LIMITS = needs(_works(), "this host cannot hold every limit")


@NEEDS_NAMESPACES
@NEEDS_LIMITS
@ON_THE_HOST
@cases("limited")
def test_limit(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite is reported as its ``expect`` mark says."""
    assert_expected(shared_batch(tmp_path_factory, "limited", side), name, expected)


_REFUSED = """
import pytest
@pytest.mark.isolated(limits={"processes": 64})
def test_it(): ...
"""


@NEEDS_ROOT
@NEEDS_NAMESPACES
@ON_THE_HOST
def test_root_without_cgroups_is_refused() -> None:
    """RLIMIT_NPROC would not hold root: the report says so, and what to do."""
    script = 'umount --lazy /sys/fs/cgroup; exec "$@"'
    before = ("unshare", "--mount", "sh", "-c", script, "sh")
    result = run_batch({"test_it.py": _REFUSED}, "root", before=before)
    text = result.failure("test_it")
    assert text.startswith("isolation refused: limit processes=64: ")
    assert "RLIMIT_NPROC: does not bind this user here, EPERM" in text
    assert "cause: nothing here holds it" in text
    assert "remedy: ask for 300 processes or more" in text


_ALONE = """
import pytest
@pytest.mark.isolated(limits={"processes": 1})
def test_it(): ...
"""


@NEEDS_NAMESPACES
@NEEDS_LIMITS
@ON_THE_HOST
@pytest.mark.parametrize("side", SIDES)
def test_no_room_for_the_thread_of_the_fault_handler(side: Side) -> None:
    """It counts as a process of the test: without it there is room."""
    option = "faulthandler_timeout=100"
    text = run_batch({"test_it.py": _ALONE}, side, "-o", option).failure("test_it")
    step = "start the thread of faulthandler_timeout"
    assert text.startswith(f"isolation refused: {step}: EAGAIN")
    assert "remedy: raise that limit by one" in text
    assert run_batch({"test_it.py": _ALONE}, side).passed() == {"test_it"}


_HANGING = """
import pathlib, signal, pytest
@pytest.mark.isolated(limits={"processes": 64, "memory": "1G"})
def test_it():
    pathlib.Path("ready").touch()
    signal.pause()
"""


@NEEDS_ROOT
@NEEDS_NAMESPACES
@NEEDS_LIMITS
@ON_THE_HOST
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_group_is_left(number: signal.Signals) -> None:
    """Ctrl-C removes the groups; a runner that is killed leaves them to the next one's run."""
    with suite_folder({"test_it.py": _HANGING, "test_ok.py": _REFUSED}, "root") as folder:
        command = [sys.executable, "-m", "pytest", *INNER, "-p", "no:cacheprovider", "-q"]
        env = inner_environment(folder)
        (folder / ".recording").touch()
        runner = subprocess.Popen([*command, "test_it.py"], cwd=folder, env=env, text=True)
        assert eventually((folder / "ready").exists)
        runner.send_signal(number)
        runner.wait(10)
        mine = f"-{runner.pid}-"
        assert any(mine in name for name in _abandoned()) is (number == signal.SIGKILL)
        subprocess.run([*command, "test_ok.py"], cwd=folder, env=env, check=True)
        assert not any(mine in name for name in _abandoned())


@contextlib.contextmanager
def _fenced(side: Side) -> Iterator[tuple[str, ...]]:
    """What to put before a command that may do harm if its limit does not hold."""
    if side == "user":
        yield ("prlimit", "--nproc=2000")  # a shell's ulimit has another letter in each shell
        return
    place = next(place for place in cgroups.places("pids"))
    group = cgroups.make(place, 1_000_000)
    try:
        group.bound("pids", 2000)
        yield ("sh", "-c", f'echo $$ > {group.folder}/cgroup.procs; exec "$@"', "sh")
    finally:
        assert group.remove()


# One that does not die out when it is refused.
_BOMB = """
import os, subprocess, sys, pytest
BOMB = "import os, time\\nwhile True:\\n  try: os.fork()\\n  except OSError: time.sleep(0.05)"
@pytest.mark.isolated(limits={"processes": 64}, leftovers="ignore", timeout=30)
def test_bomb():
    subprocess.Popen([sys.executable, "-S", "-I", "-c", BOMB])
    while True:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
"""


@NEEDS_NAMESPACES
@NEEDS_LIMITS
@ON_THE_HOST
@pytest.mark.parametrize("side", SIDES)
def test_a_fork_bomb_does_not_keep_the_host_from_forking(side: Side) -> None:
    """It ends within its budget, with 64 processes; all the while the host forks."""
    done = threading.Event()
    forked: list[int] = []

    def fork() -> None:
        while not done.is_set():
            forked.append(subprocess.run(["true"], check=False).returncode)

    with _fenced(side) as fence:
        host = threading.Thread(target=fork)
        host.start()
        try:
            result = run_batch({"test_bomb.py": _BOMB}, side, before=fence)
        finally:
            done.set()
            host.join()
    assert "process limit 64 reached (" in result.failure("test_bomb"), result.text
    # Its own failure, and not that of its budget, which may meet the limit as well.
    assert "BlockingIOError" in result.failure("test_bomb"), result.text
    assert set(forked) == {0}
