# SPDX-License-Identifier: MIT
"""``isolate`` in whole runs: policies, coverage, workers, and a runner that is killed."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.coverage_helpers import PYTEST_COV, run_measured
from tests.hosts import HOSTS, NEEDS_HOSTS
from tests.inner_runs import SIDES, Side, assert_nothing_alive, run_batch, start, suite_folder
from tests.support import NEEDS_NAMESPACES, run_source, write_files

pytestmark = NEEDS_NAMESPACES

CALLS = """
import os, pytest
def test_it(isolate):
    assert isolate.using(net=True, pid=True)(os.getpid) == 1
    open("ran", "w").close()
@pytest.mark.isolated
def test_inside(isolate):
    assert isolate(os.getpid) == 1
"""


def test_nothing_runs_with_isolation_off(tmp_path: Path) -> None:
    """``--nsisolate=none``: who asks for ``isolate`` is left out, with --nsisolate-unsafe too."""
    for options in (["--nsisolate=none"], ["--nsisolate=none", "--nsisolate-unsafe"]):
        result = run_source(tmp_path, CALLS, *options, "-rs")
        assert result.summary == "2 skipped", result.text
        assert "left out by --nsisolate=none" in result.stdout
        assert not (tmp_path / "ran").exists()


LEAVING_OUT = """
import os
def count():
    with open("ran", "a") as file:
        file.write("x")
    return os.getpid()
def test_call(isolate): assert isolate(count) == 1
def test_box(isolate):
    with isolate.open() as box:
        assert "user" not in box.namespaces
        assert box.run(count) == 2
def test_named(isolate): isolate.using(user=True)(count)
"""


@NEEDS_HOSTS
def test_a_host_without_user_namespaces(tmp_path: Path) -> None:
    """Implied, it is left out, and the function runs once; named, it is a refusal."""
    result = run_source(tmp_path, LEAVING_OUT, prefix=HOSTS["no-user-root"])
    assert result.passed() == {"test_call", "test_box"}, result.text
    assert "unshare(CLONE_NEWUSER) for the user namespace" in result.failure("test_named")
    assert (tmp_path / "ran").read_text() == "xx"
    assert result.stdout.count("nsisolate: without user: ") == 1


@NEEDS_HOSTS
def test_a_host_that_refuses(tmp_path: Path) -> None:
    """A failure with cause and remedy; a skip where the options say so; never a run without."""
    source = CALLS.partition("@pytest.mark")[0]
    refused = run_source(tmp_path, source, prefix=HOSTS["no-net"])
    assert refused.summary == "1 failed", refused.text
    for said in ("unshare(CLONE_NEWNET) for the net namespace: ENOSPC", "cause: ", "remedy: "):
        assert said in refused.failure("test_it")
    assert "nsisolate: 1 test refused: unshare(CLONE_NEWNET)" in refused.stdout
    skipped = run_source(tmp_path, source, "--nsisolate-missing=skip", prefix=HOSTS["no-net"])
    assert skipped.summary == "1 skipped", skipped.text
    assert "nsisolate: 1 test refused" in skipped.stdout
    env = {"NSISOLATE_MUST_WORK": "1"}
    must = run_source(tmp_path, source, "--nsisolate-missing=skip", prefix=HOSTS["no-net"], env=env)
    assert must.summary == "1 failed", must.text
    assert not (tmp_path / "ran").exists()


FAILING = """
    import time
    from pathlib import Path
    import pytest

    FAILS = ["sh", "-c", "echo done; seq 100 >&2; exit 3"]
    HANGS = ["sh", "-c", "echo waits >&2; sleep 1000"]

    def wait():
        time.sleep(1000)

    @pytest.fixture
    def refusing():
        # In the test's own user namespace, whose limits it may set.
        Path("/proc/sys/user/max_uts_namespaces").write_text("0")

    def test_timeout(isolate): isolate.using(timeout=0.2)(wait)
    def test_box_timeout(isolate):
        with isolate.using(timeout=0.2).open() as box: box.run(wait)
    def test_command_timeout(isolate):
        with isolate.using(timeout=2).open() as box: box.command(HANGS)
    def test_command_late(isolate):
        with isolate.open() as box: box.command(HANGS, timeout=2)
    def test_command_fails(isolate):
        with isolate.open() as box: box.command(FAILS, check=True)
    def test_command_killed(isolate):
        with isolate.open() as box: box.command(["sh", "-c", "echo dying >&2; kill -9 -1"])
    def test_command_missing(isolate):
        with isolate.open() as box: box.command(["/no where"])
    def test_command_text(isolate):
        with isolate.open() as box: box.command("ls /")
    @pytest.mark.isolated(mount=True)
    def test_refused(isolate, refusing): isolate.using(uts=True)(wait)
    @pytest.mark.isolated(mount=True)
    def test_start_refused(isolate, refusing): isolate.using(uts=True).start(wait)
    @pytest.mark.isolated(mount=True)
    def test_box_refused(isolate, refusing): isolate.using(uts=True).open()
    @pytest.mark.isolated(mount=True)
    def test_skipped(isolate, refusing): isolate.using(uts=True, missing="skip")(wait)
"""

#: Test to what stands in the first line of its failure, and in the others.
TOLD = {
    "timeout": ("IsolatedTimeout: wait() timed out after 0.2 s", "in wait"),
    "box_timeout": ("IsolatedTimeout: wait() timed out after 0.2 s", "in wait"),
    "command_timeout": (
        "IsolatedTimeout: sh -c 'echo waits >&2; sleep 1000' timed out after 2 s",
        "S  sleep 1000",
        "Standard error:\nE       waits\n",
    ),
    "command_late": ("TimeoutExpired: Command ", "Standard error:\nE       waits\n"),
    "command_fails": (
        "CalledProcessError: Command ",
        "Standard output:\nE       done\n",
        "Standard error (its end):\nE       61\nE       62\n",
    ),
    "command_killed": (
        "IsolatedSignal: sh -c 'echo dying >&2; kill -9 -1' was killed by SIGKILL",
        "Standard error:\nE       dying\n",
    ),
    "command_missing": ("FileNotFoundError: [Errno 2] No such file or directory: '/no where'",),
    "command_text": ("TypeError: a command is a list of its words, ['ls /', ...], not 'ls /'",),
    "refused": (
        "IsolatedRefusal: wait(): isolation refused: unshare(CLONE_NEWUTS) for the uts namespace:",
        "remedy: ",
    ),
    "start_refused": ("IsolatedRefusal: wait(): isolation refused: unshare(CLONE_NEWUTS)",),
    "box_refused": ("IsolatedRefusal: isolate.using(uts=True).open(): isolation refused: unshare",),
}


def test_what_went_wrong_is_named_without_our_frames(tmp_path: Path) -> None:
    """The function or the command, and what it wrote; the test's own line is the last one."""
    result = run_source(tmp_path, FAILING, "-p", "no:randomly")
    for name, (first, *others) in TOLD.items():
        text = result.failure(f"test_{name}")
        assert re.search(rf"^E +(\w+\.)?{re.escape(first)}", text, re.MULTILINE), text
        for other in others:
            assert other in text
        assert not re.search(r"\b(isolate|process)/\w+\.py|_execute|subprocess\.py", text), text
    (skipped,) = (r["skip"] for r in result.of("test_skipped") if r["outcome"] == "skipped")
    assert "wait(): isolation refused: unshare(CLONE_NEWUTS)" in skipped
    assert "nsisolate: 4 tests refused: unshare(" in result.stdout, result.text


def test_with_workers_everywhere_and_without_capture(tmp_path: Path) -> None:
    """xdist (runners with threads), --nsisolate=all, -s and --capture=sys."""
    source = """
        import pytest
        @pytest.mark.parametrize("n", range(4))
        def test_it(isolate, n, capsys):
            def talk():
                print("word", n)
                return n
            assert isolate(talk) == n
            assert capsys.readouterr().out == f"word {n}\\n"
        def test_print(isolate):
            isolate(print, "SEEN")
            assert 0
    """
    for options in (
        ["-p", "xdist", "-n", "2"],
        ["-s"],
        ["--nsisolate=all", "--capture=sys"],
    ):
        result = run_source(tmp_path, source, "-W", "error", *options)
        assert result.summary == "1 failed, 4 passed", result.text
        assert result.stdout.count("SEEN\n") == 1, result.text


MEASURED = {
    "deeds.py": """
        def first(n):
            if n:
                return 1
            return 2
        def second(n):
            if n:
                return 1
            return 2
        def third(n):
            return n
        def never(n):
            return n
    """,
    "test_it.py": """
        import pytest, deeds
        def test_plain(isolate):
            assert isolate(deeds.first, 1) == 1
            deeds.first(0)
        @pytest.mark.isolated
        def test_isolated(isolate):
            isolate(deeds.second, 0)
            isolate(lambda: isolate(deeds.second, 1))
            with isolate.open() as box:
                box.run(deeds.third, 1)
    """,
}


@pytest.mark.parametrize("options", [(), ("--nsisolate=all",)], ids=["marked", "all"])
def test_coverage_counts(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Lines that only a call runs are measured, nested ones and those in a box as well."""
    write_files(tmp_path, MEASURED)
    measured = run_measured(tmp_path, *PYTEST_COV, "--cov=.", *options)
    assert measured.result.returncode == 0, measured.result.text
    assert set(range(2, 14)) - measured.lines("deeds.py") == {13}, "never() alone was never called"


HANGING = """
import os, select, time
def leave(mark):
    os.setsid() if os.getpid() != os.getsid(0) else None
    open(mark, "w").close()
    select.select([], [], [])
def change_ids(mark):
    open(mark + "~", "w").close()
    if SIDE == "root":
        os.setresuid(1, 1, 1)  # now it has no PR_SET_PDEATHSIG
    os.rename(mark + "~", mark)
    select.select([], [], [])
def test_it(isolate):
    box = isolate.using(net=True).open()
    tasks = [isolate.start(leave, "one"), isolate.using(uts=True).start(leave, "two"),
             isolate.using(init=True).start(leave, "three"), box.start(leave, "four")]
    tasks += [isolate.using(user=SIDE != "root").start(change_ids, "seven")]
    box.command(["sh", "-c", "sleep 1000 &"])
    def nested():
        isolate.start(leave, "five")
        leave("six")
    isolate(nested)
"""


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("marker", ["", "import pytest\npytestmark = pytest.mark.isolated\n"])
def test_a_runner_that_is_killed_takes_all_calls_along(side: Side, marker: str) -> None:
    """SIGKILL to the runner: tasks, boxes, what is in them and nested calls all end."""
    source = marker + HANGING.replace("SIDE", repr(side))
    with suite_folder({"test_it.py": source}, side) as folder:
        folder.chmod(0o777)  # one of them is another user then
        with start(folder, side) as running:
            for mark in ("one", "two", "three", "four", "five", "six", "seven"):
                running.wait_for(mark)
            os.kill(running.process.pid, signal.SIGKILL)
        assert_nothing_alive(folder)


@pytest.mark.parametrize("side", SIDES)
def test_ctrl_c_ends_a_call(side: Side) -> None:
    """The function gets the KeyboardInterrupt and its time to clean up; the run ends by it."""
    source = """
import os, select
from pytest_nsisolate.process import job_control
job_control.INTERRUPT_GRACE = 600.0
def wait():
    try:
        open("there", "w").close()
        select.select([], [], [])
    finally:
        open("cleaned", "w").close()
def test_it(isolate):
    isolate(wait)
"""
    with suite_folder({"test_it.py": source}, side) as folder:
        with start(folder, side) as running:
            running.wait_for("there")
            running.signal(signal.SIGINT)
            assert running.finish().returncode == pytest.ExitCode.INTERRUPTED, running.text()
        assert (folder / "cleaned").exists()
        assert_nothing_alive(folder)


@pytest.mark.parametrize("side", SIDES)
def test_ctrl_c_between_the_fork_and_the_call(side: Side) -> None:
    """The function works already, and the runner has not heard of it: seen on a busy machine."""
    source = """
import os, select, signal, time
from pytest_nsisolate.process import job_control, launch
job_control.INTERRUPT_GRACE = 600.0
def wait():
    try:
        open("there", "w").close()
        select.select([], [], [])
    finally:
        open("cleaned", "w").close()
open_pidfd = launch._pidfd
def slow(*args):
    while not os.path.exists("there"):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
    return open_pidfd(*args)
def test_it(isolate):
    # With a user namespace a child of root's waits for the runner, which writes its maps.
    call = isolate.using(USING)
    call(os.getpid)  # with all that is tried and started once
    launch._pidfd = slow
    call(wait)
"""
    using = "user=False" if side == "root" else ""
    with suite_folder({"test_it.py": source.replace("USING", using)}, side) as folder:
        with start(folder, side) as running:
            assert running.finish().returncode == pytest.ExitCode.INTERRUPTED, running.text()
        assert (folder / "cleaned").exists()
        assert_nothing_alive(folder)


def test_what_a_fixture_leaves_is_the_fixtures(tmp_path: Path) -> None:
    """A task of a module fixture is blamed on it, when it is torn down."""
    source = """
        import pytest, select
        @pytest.fixture(scope="module")
        def wide(isolate):
            isolate.start(select.select, [], [], [])
            yield
        def test_one(wide): pass
        def test_two(wide): pass
    """
    result = run_source(tmp_path, source)
    assert result.summary == "2 passed, 1 error", result.text
    assert result.phases("test_two")[-1] == "teardown failed"
    assert "never awaited: <Task select()" in result.failure("test_two")


def test_pickle_by_name_only(tmp_path: Path) -> None:
    """trusted=True brings anything that pickle takes, and says what it does not."""
    source = """
        import decimal, pytest, threading
        import pytest_nsisolate as nsi
        class Own(Exception):
            def __init__(self, what): super().__init__("text", what)
            def __reduce__(self): return Own, (self.args[1],)
        def fail(): raise Own(decimal.Decimal("1.5"))
        def test_it(isolate):
            number = decimal.Decimal("1.5")
            with pytest.raises(nsi.NotPlainError, match=r"result is of type decimal\\.Decimal"):
                isolate(lambda: number)
            trusting = isolate.using(trusted=True)
            assert trusting(lambda: number) == number
            with pytest.raises(Own) as caught: trusting(fail)
            assert caught.value.args[1] == number
            assert "In the isolated child" in caught.value.__notes__[0]
            with pytest.raises(nsi.IsolatedError): isolate(fail)
            with pytest.raises(nsi.NotPlainError, match="pickle refuses"):
                trusting(threading.Lock)
            with trusting.open() as box: assert box.run(lambda: number) == number
    """
    result = run_source(tmp_path, source)
    assert result.returncode == 0, result.text


def test_a_run_of_calls_only_leaves_nothing() -> None:
    """Without one marked test: no descriptor, no watchdog, no handler."""
    source = "import os\ndef test_it(isolate): assert isolate(os.getpid) == 1\n"
    result = run_batch({"test_it.py": source}, "user")
    assert result.returncode == 0, result.text


def test_anyio_on_both_of_its_backends(tmp_path: Path) -> None:
    """A task is awaited under trio as under asyncio; who is cancelled leaves it at work, and who
    waits for one that somebody else kills learns of it."""
    source = """
        import anyio, pytest, select
        import pytest_nsisolate as nsi
        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
        async def test_it(isolate, anyio_backend):
            ready = []
            async def wait_for(task):
                ready.append(await task)
            async with anyio.create_task_group() as group:
                for n in range(3):
                    group.start_soon(wait_for, isolate.start(pow, 2, n))
            assert sorted(ready) == [1, 2, 4]
            slow = isolate.start(select.select, [], [], [])
            with anyio.move_on_after(0.05) as scope:
                await slow
            assert scope.cancelled_caught
            assert not slow.done()
            async with anyio.create_task_group() as group:
                async def lost():
                    with pytest.raises(nsi.IsolatedSignal): await slow
                group.start_soon(lost)
                await anyio.wait_all_tasks_blocked()
                slow.kill()
            with pytest.raises(ZeroDivisionError):
                await isolate.start(divmod, 1, 0)
    """
    result = run_source(tmp_path, source, "-p", "anyio", "-W", "error")
    assert result.summary == "2 passed", result.text
