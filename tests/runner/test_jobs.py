# SPDX-License-Identifier: MIT
"""Several isolated tests at the same time: what overlaps, what never does, what is reported."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Final

import pexpect
import pytest

from tests.inner_runs import (
    SIDES,
    THREADED,
    Side,
    assert_nothing_alive,
    run_batch,
    start,
    suite_folder,
    verdict,
)
from tests.pseudo_terminals import CTRL_Z, PROMPT, Step, hold, pytest_command
from tests.support import (
    NEEDS_NAMESPACES,
    Result,
    differences,
    eventually,
    run_source,
    run_suite,
    terminal,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

#: ``meet(name, count)`` is true if so many tests have come before the time is over.
MEETING: Final = """
import os, time
from pathlib import Path
HERE = Path(__file__).parent

def arrive(name):
    os.close(os.open(HERE / f"{name}.{os.urandom(8).hex()}", os.O_CREAT | os.O_WRONLY, 0o666))

def meet(name, count, seconds=60):
    arrive(name)
    return seen(name, count, seconds)

def seen(name, count, seconds=60):
    until = time.monotonic() + seconds
    while len(list(HERE.glob(f"{name}.*"))) < count:
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True
"""


def suite(source: str) -> dict[str, str]:
    """A suite whose tests can meet."""
    lines = source.strip("\n").split("\n")
    indent = len(lines[0]) - len(lines[0].lstrip())
    text = "\n".join(line[indent:] for line in lines)
    return {"test_it.py": f"import pytest\nfrom journal import note\n{MEETING}\n{text}\n"}


def together(journal: list[str]) -> int:
    """How many tests were at work at the same time, at most, by their notes of begin and end."""
    most = now = 0
    for line in journal:
        now += {"begin": 1, "end": -1}.get(line.split()[1], 0)
        most = max(most, now)
    return most


# What overlaps -----------------------------------------------------------------------------------

THREE: Final = """
    pytestmark = pytest.mark.isolated(uts=True)
    @pytest.mark.parametrize("number", range(3))
    def test_meets(number):
        assert meet("here", 3, SECONDS)
"""


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("way", ["short", "long"])
def test_tests_overlap(side: Side, way: str) -> None:
    """Each waits for the others, on the short way and on the long one."""
    files = suite(THREE.replace("SECONDS", "20"))
    files["conftest.py"] = THREADED if way == "long" else ""
    result = run_batch(files, side, "--nsisolate-jobs=3", clean=way == "short")
    assert result.summary == "3 passed", result.text


def test_one_job_does_not_overlap(tmp_path: Path) -> None:
    """The negative control: the first one waits in vain."""
    result = run_suite(write_files(tmp_path, suite(THREE.replace("SECONDS", "0.2"))), "-x")
    assert result.summary == "1 failed", result.text


def test_no_more_than_were_asked_for(tmp_path: Path) -> None:
    """Two of eight at a time: each second one lets the pair end."""
    source = """
        pytestmark = pytest.mark.isolated(uts=True)
        @pytest.mark.parametrize("number", range(8))
        def test_pair(number):
            note("begin")
            assert seen("here", number // 2 * 2)
            arrive("here")
            assert seen("here", number // 2 * 2 + 2)
            note("end")
    """
    result = run_suite(write_files(tmp_path, suite(source)), "--nsisolate-jobs=2")
    assert result.summary == "8 passed", result.text
    assert together(result.journal) == 2


def test_a_long_test_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """The first one ends when the last one has run: the others take turns beside it."""
    source = """
        pytestmark = pytest.mark.isolated(uts=True)
        def test_long():
            assert seen("others", 6)
        @pytest.mark.parametrize("number", range(6))
        def test_other(number):
            arrive("others")
    """
    result = run_suite(write_files(tmp_path, suite(source)), "--nsisolate-jobs=2")
    assert result.summary == "7 passed", result.text
    assert result.reports[0]["nodeid"].endswith("::test_long")


def test_modules_and_classes_without_fixtures_overlap(tmp_path: Path) -> None:
    """Folders, modules and classes that own nothing are no border."""
    source = f"""
        import sys; sys.path.insert(0, {str(tmp_path)!r})
        import meeting, pytest
        pytestmark = pytest.mark.isolated(uts=True)
        class TestOne:
            def test_in_class(self): assert meeting.meet("here", 4)
        def test_bare(): assert meeting.meet("here", 4)
    """
    files = {"meeting.py": MEETING, "one/test_a.py": source, "two/test_b.py": source}
    result = run_suite(write_files(tmp_path, files), "--nsisolate-jobs=4", "one", "two")
    assert result.summary == "4 passed", result.text


def test_classes_of_unittest_overlap(tmp_path: Path) -> None:
    """But for those with a set-up of their own, which is done once, in the runner, alone."""
    source = """
        import unittest
        pytestmark = pytest.mark.isolated(uts=True)
        class TestOne(unittest.TestCase):
            def setUp(self): self.addClassCleanup(note, "cleaned up")
            def test_it(self): assert meet("here", 3)
        class TestTwo(unittest.TestCase):
            def test_it(self): assert meet("here", 3)
        class TestThree(TestTwo): pass
        class TestFour(unittest.TestCase):
            @classmethod
            def setUpClass(cls): note("class up")
            @classmethod
            def tearDownClass(cls): note("class down")
            def test_it(self): assert meet("there", 2)
            def test_too(self): assert meet("there", 2)
    """
    result = run_suite(write_files(tmp_path, suite(source)), "--nsisolate-jobs=3")
    assert result.summary == "5 passed", result.text
    assert result.journal == ["child cleaned up", "runner class up", "runner class down"]


def test_the_first_user_of_a_wide_fixture_overlaps_with_the_next(tmp_path: Path) -> None:
    """The runner sets it up for the first one, and looks ahead when that one is at work."""
    source = """
        pytestmark = pytest.mark.isolated(uts=True)
        @pytest.fixture(scope="module")
        def wide():
            note("set up")
            yield
            note("torn down")
        @pytest.mark.parametrize("number", range(3))
        def test_meets(wide, number):
            assert meet("here", 3)
    """
    result = run_suite(write_files(tmp_path, suite(source)), "--nsisolate-jobs=3")
    assert result.summary == "3 passed", result.text
    assert result.journal == ["runner set up", "runner torn down"]


# What never does ---------------------------------------------------------------------------------


def test_exclusive_tests_do_not_overlap(tmp_path: Path) -> None:
    """By a name in common; the others go on beside them."""
    source = """
        @pytest.mark.isolated(uts=True, exclusive="db")
        @pytest.mark.parametrize("number", range(3))
        def test_db(number):
            note("begin")
            assert number or seen("others", 2)
            note("end")
        @pytest.mark.isolated(uts=True, exclusive=["cache", "queue"])
        def test_cache(): arrive("others")
        @pytest.mark.isolated(uts=True)
        def test_free(): arrive("others")
    """
    result = run_suite(write_files(tmp_path, suite(source)), "--nsisolate-jobs=4")
    assert result.summary == "5 passed", result.text
    assert together(result.journal) == 1


def test_a_test_that_is_alone(tmp_path: Path) -> None:
    """``"*"`` excludes every other one, those before and those behind."""
    source = """
        @pytest.fixture
        def noted():
            note("begin")
            yield
            note("end")
        @pytest.mark.isolated(uts=True)
        def test_before(noted): assert meet("here", 2)
        @pytest.mark.isolated(uts=True, exclusive="*")
        def test_alone(): note("alone")
        @pytest.mark.isolated(uts=True)
        def test_behind(noted): assert meet("here", 2)
    """
    result = run_suite(write_files(tmp_path, suite(source)), "--nsisolate-jobs=4")
    assert result.summary == "3 passed", result.text
    at = result.journal.index("child alone")
    assert together(result.journal[:at]) == 2
    assert together(result.journal[at:]) == 0


BORDERS: Final = {
    "meeting.py": MEETING,
    "conftest.py": """
        import os, pytest
        from journal import note
        @pytest.fixture(scope="session")
        def session_wide():
            note("session up")
            yield
            note("session down")
        @pytest.fixture(scope="module")
        def module_wide(session_wide):
            os.environ["WIDE"] = "here"
            note("module up")
            yield
            del os.environ["WIDE"]
            note("module down")
        @pytest.fixture(scope="class", params="xy")
        def of_class(request):
            note(f"class up {request.param}")
            yield request.param
            note(f"class down {request.param}")
        @pytest.fixture
        def noted():
            note("begin")
            yield
            note("end")
    """,
    "test_a.py": """
        import os, pytest
        pytestmark = pytest.mark.isolated(uts=True)
        @pytest.mark.parametrize("number", range(3))
        def test_wide(module_wide, noted, number): assert os.environ["WIDE"] == "here"
    """,
    "test_b.py": """
        import os, pytest
        pytestmark = pytest.mark.isolated(uts=True)
        @pytest.mark.parametrize("number", range(3))
        def test_bare(noted, number):
            assert "WIDE" not in os.environ
            if os.environ.get("MEET"):
                import meeting
                assert meeting.meet("here", 2)
        @pytest.mark.isolated(False)
        def test_in_the_runner(noted): pass
        class TestIt:
            def test_one(self, noted, of_class): assert of_class in "xy"
            def test_two(self, noted, of_class, session_wide): pass
    """,
}


def test_code_of_wider_fixtures_runs_alone(tmp_path: Path) -> None:
    """Set up once, torn down when the last of its tests has ended, and no other test sees it.

    Nor does a test run beside one that is not isolated. All this in the order of one job.
    """
    folder = write_files(tmp_path, BORDERS)
    one = run_suite(folder)
    four = run_suite(folder, "--nsisolate-jobs=4", env={"MEET": "1"})
    assert four.summary == "11 passed", four.text
    assert not differences(one, four)

    def borders(result: Result) -> list[str]:
        return [line for line in result.journal if line not in ("child begin", "child end")]

    assert borders(one) == borders(four)
    now = 0
    for line in four.journal:
        now += {"begin": 1, "end": -1}.get(line.split()[1], 0)
        assert not now or line in ("child begin", "child end", "runner begin"), four.journal
        assert line != "runner begin" or now == 1, four.journal
    assert together(four.journal) > 1


def test_a_failed_wide_fixture_fails_every_user(tmp_path: Path) -> None:
    """In the runner, and no child is launched for what comes behind it."""
    source = """
        pytestmark = pytest.mark.isolated(uts=True)
        @pytest.fixture(scope="module")
        def broken():
            note("set up")
            raise ValueError("no")
        @pytest.mark.parametrize("number", range(3))
        def test_it(broken, number): note("ran")
    """
    result = run_suite(write_files(tmp_path, suite(source)), "--nsisolate-jobs=4")
    assert result.summary == "3 errors", result.text
    assert result.journal == ["runner set up"]


# What the session knows --------------------------------------------------------------------------

HOOKS: Final = """
    import os, pytest, warnings
    from journal import note
    failed = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(item):
        print("before set-up of", item.name)
        warnings.warn(f"set-up of {item.name}")
        if item.get_closest_marker("after_failure") and not failed:
            pytest.skip("nothing has failed")
        if item.get_closest_marker("while_good") and failed:
            pytest.xfail("something has failed")

    def pytest_runtest_makereport(item, call):
        if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
            failed.append(item.name)

    def pytest_configure(config):
        config.addinivalue_line("markers", "after_failure:")
        config.addinivalue_line("markers", "while_good:")
"""


def test_what_hooks_know_of_earlier_tests_counts(tmp_path: Path) -> None:
    """A child that was launched ahead does not know it: the runner's hooks decide.

    What a set-up hook prints and warns of is reported once.
    """
    source = """
        import pytest
        pytestmark = pytest.mark.isolated(uts=True)
        def test_good(): pass
        @pytest.mark.while_good
        def test_still_good(): pass
        def test_bad(): assert 0
        @pytest.mark.after_failure
        def test_after(): print("in the test")
        @pytest.mark.while_good
        def test_no_longer_good(): pass
        def test_end(): assert 0
    """
    folder = write_files(tmp_path, {"conftest.py": HOOKS, "test_it.py": source})
    options = ("-rA", "--nsisolate-postmortem=none")
    one, four = (run_suite(folder, f"--nsisolate-jobs={jobs}", *options) for jobs in (1, 4))
    assert four.summary.startswith("2 failed, 3 passed, 1 xfailed"), four.text
    assert not differences(one, four)
    assert terminal(one) == terminal(four)


def test_what_hooks_change_for_one_item_no_other_sees(tmp_path: Path) -> None:
    """The first user of a wider fixture is launched at its turn, when its hooks are in force."""
    conftest = """
        import os, pytest
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_protocol(item):
            if item.get_closest_marker("special"): os.environ["SPECIAL"] = item.name
            try: return (yield)
            finally: os.environ.pop("SPECIAL", None)
        def pytest_configure(config): config.addinivalue_line("markers", "special:")
    """
    source = """
        pytestmark = pytest.mark.isolated(uts=True)
        @pytest.fixture(scope="module")
        def wide(): pass
        @pytest.mark.special
        @pytest.mark.parametrize("number", range(2))
        def test_special(wide, number):
            assert "test_special" in os.environ["SPECIAL"]
            time.sleep(0.1)
        @pytest.mark.parametrize("number", range(4))
        def test_ordinary(wide, number): assert "SPECIAL" not in os.environ
    """
    folder = write_files(tmp_path, {**suite(source), "conftest.py": conftest})
    result = run_suite(folder, "--nsisolate-jobs=4")
    assert result.summary == "6 passed", result.text


def test_a_filter_of_one_test_is_none_of_anothers(tmp_path: Path) -> None:
    """A child may be launched while the marks of the current test are in force in the runner."""
    source = """
        pytestmark = pytest.mark.isolated(uts=True)
        import warnings
        @pytest.fixture(scope="module")
        def wide(): pass
        @pytest.mark.filterwarnings("error:mine")
        def test_with_filter(wide): assert meet("here", 2)
        def test_without(wide):
            assert meet("here", 2)
            warnings.warn("mine")
    """
    result = run_suite(write_files(tmp_path, suite(source)), "--nsisolate-jobs=2")
    assert result.summary == "2 passed, 1 warning", result.text


def test_durations_are_those_of_the_tests(tmp_path: Path) -> None:
    """A test that was over before its turn has not taken no time."""
    source = """
        pytestmark = pytest.mark.isolated(uts=True)
        def test_first(): assert seen("second", 1)
        def test_second():
            time.sleep(0.3)
            arrive("second")
    """
    result = run_suite(
        write_files(tmp_path, suite(source)), "--nsisolate-jobs=2", "--durations=0", "-vv"
    )
    assert result.summary == "2 passed", result.text
    (line,) = (line for line in result.stdout.splitlines() if "call " in line and "second" in line)
    assert float(line.split("s ")[0]) >= 0.3, result.text


def test_xdist_has_jobs_in_each_worker(tmp_path: Path) -> None:
    """The tests of one worker overlap too."""
    source = """
        pytestmark = pytest.mark.isolated(uts=True)
        @pytest.mark.parametrize("number", range(8))
        def test_it(number):
            worker = os.environ["PYTEST_XDIST_WORKER"]
            note(f"begin {worker}")
            meet(worker, 2, 5)
            note(f"end {worker}")
    """
    result = run_suite(
        write_files(tmp_path, suite(source)), "-p", "xdist", "-n2", "--nsisolate-jobs=2"
    )
    assert result.summary == "8 passed", result.text
    for worker in ("gw0", "gw1"):
        assert together([line for line in result.journal if line.endswith(worker)]) == 2


def test_nothing_is_imported_in_a_child(tmp_path: Path) -> None:
    """Neither before the test nor after it; the import of the test itself is the control."""
    conftest = """
        import sys
        from journal import note
        class Finder:
            def find_spec(self, name, path=None, target=None): note(f"imports {name}")
        sys.meta_path.insert(0, Finder())
    """
    source = """
        pytestmark = pytest.mark.isolated(uts=True)
        @pytest.mark.parametrize("number", range(4))
        def test_it(number):
            if number == 3: import colorsys
            assert meet("here", 2)
    """
    folder = write_files(tmp_path, {**suite(source), "conftest.py": conftest})
    result = run_suite(folder, "--nsisolate-jobs=2")
    assert result.summary == "4 passed", result.text
    imported = [line for line in result.journal if line.startswith("child")]
    assert imported == ["child imports colorsys"]


# Ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_each_end_is_that_of_one_test(side: Side) -> None:
    """A crash, an exit, a timeout and a leftover beside tests that pass."""
    source = """
        import signal, subprocess
        pytestmark = pytest.mark.isolated(init=True)
        def test_good(): assert meet("here", 3)
        def test_crash():
            assert meet("here", 3)
            os.kill(os.getpid(), signal.SIGSEGV)
        def test_exit():
            assert meet("here", 3)
            os._exit(3)
        @pytest.mark.isolated(timeout=0.5)
        def test_timeout(): time.sleep(60)
        @pytest.mark.isolated(leftovers="fail")
        def test_leaves(): subprocess.Popen(["sleep", "60"])
        def test_end(): pass
    """
    result = run_batch(suite(source), side, "--nsisolate-jobs=3")
    assert result.summary == "3 failed, 3 passed, 1 error", result.text
    assert verdict(result, "test_good") == verdict(result, "test_end") == "passed"
    assert "SIGSEGV" in result.failure("test_crash")
    assert "exit status 3" in result.failure("test_exit")
    assert "timed out" in result.failure("test_timeout"), result.text


STOPPING: Final = """
    pytestmark = pytest.mark.isolated(uts=True)
    @pytest.fixture
    def noted():
        yield
        note("torn down")
    def test_stops():
        assert seen("late", 2)
        STOP
    @pytest.mark.parametrize("number", range(2))
    def test_late(noted, number):
        arrive("late")
        time.sleep(60)
    def test_never(): note("never")
"""


#: The seconds that a child has to tear down are few for a machine with much to do.
PATIENT: Final = """
from pytest_nsisolate.runner import jobs
jobs.INTERRUPT_GRACE = 60
"""


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("stop", "option", "said"),
    [
        ("assert 0", "-x", "1 failed"),
        ("pytest.exit('enough')", "-v", "no tests ran"),
    ],
    ids=["x", "exit"],
)
def test_what_is_at_work_ends_unreported(side: Side, stop: str, option: str, said: str) -> None:
    """After ``-x`` and ``pytest.exit`` the others tear down, say nothing, and are gone."""
    files = suite(STOPPING.replace("STOP", stop))
    files["conftest.py"] = PATIENT
    result = run_batch(files, side, "--nsisolate-jobs=3", option)
    assert said in result.stdout, result.text
    assert {report["nodeid"].partition("::")[2] for report in result.reports} <= {"test_stops"}
    assert sorted(result.journal) == ["child torn down", "child torn down"]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_nothing_outlives_the_run(side: Side, number: int) -> None:
    """Three tests at work, and the runner is interrupted or killed."""
    source = """
        pytestmark = pytest.mark.isolated(uts=True)
        @pytest.mark.parametrize("number", range(3))
        def test_it(number):
            if meet("here", 3): (HERE / "all").touch()
            time.sleep(60)
    """
    with suite_folder(suite(source), side) as folder:
        with start(folder, side, "--nsisolate-jobs=3") as running:
            running.wait_for("all")
            running.signal(number)
            result = running.finish()
            assert result.returncode == (2 if number == signal.SIGINT else -9), result.text
        assert_nothing_alive(folder)


def test_few_descriptors(tmp_path: Path) -> None:
    """The runner looks ahead as far as its descriptors reach."""
    source = """
        pytestmark = pytest.mark.isolated(uts=True)
        @pytest.mark.parametrize("number", range(40))
        def test_it(number): pass
    """
    limit = ("prlimit", "--nofile=96:96")
    result = run_suite(write_files(tmp_path, suite(source)), "--nsisolate-jobs=16", prefix=limit)
    assert result.summary == "40 passed", result.text


def test_what_others_hold_refuses_no_test(tmp_path: Path) -> None:
    """Where a test cannot be launched beside the others, it is launched without them."""
    source = """
        pytestmark = pytest.mark.isolated(uts=True)
        def test_first(): pass
        @pytest.fixture(scope="module")
        def greedy():
            files = []
            while not files or files[-1].fileno() < 200: files.append(open("/dev/null"))
            yield
            for file in files: file.close()
        @pytest.mark.parametrize("number", range(12))
        def test_it(greedy, number): note(number)
    """
    limit = ("prlimit", "--nofile=256:256")
    result = run_suite(write_files(tmp_path, suite(source)), "--nsisolate-jobs=8", prefix=limit)
    assert result.summary == "13 passed", result.text
    assert len({*result.journal}) == 12


def test_a_test_has_no_descriptor_of_another(tmp_path: Path) -> None:
    """What the runner holds of the others is covered, as with one job."""
    source = """
        pytestmark = pytest.mark.isolated(uts=True)
        @pytest.mark.parametrize("number", range(3))
        def test_it(number):
            assert meet("here", COUNT)
            targets = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                       if os.path.exists(f"/proc/self/fd/{fd}")]
            kinds = [target for target in targets if "nsisolate-" in target or "socket" in target
                     or "pipe" in target or "eventfd" in target or "pidfd" in target]
            note(f"{len(kinds)}")
    """
    counts = []
    for jobs in (1, 3):
        folder = tmp_path / str(jobs)
        files = suite(source.replace("COUNT", str(jobs)))
        result = run_suite(write_files(folder, files), f"--nsisolate-jobs={jobs}")
        assert result.summary == "3 passed", result.text
        counts.append({int(line.split()[1]) for line in result.journal})
    assert max(counts[1]) <= max(counts[0]) + 1, counts


def test_a_limit_of_files_is_a_tests_own(tmp_path: Path) -> None:
    """What the runner holds for other tests does not count, and is no reason for a refusal."""
    source = """
        pytestmark = pytest.mark.isolated(uts=True)
        @pytest.mark.parametrize("number", range(12))
        def test_before(number): pass
        @pytest.mark.isolated(limits={"files": 48})
        def test_few():
            files = [open("/dev/zero") for _ in range(16)]
            assert seen("behind", 12)
        @pytest.mark.parametrize("number", range(12))
        def test_behind(number): arrive("behind")
    """
    result = run_suite(write_files(tmp_path, suite(source)), "--nsisolate-jobs=4")
    assert result.summary == "25 passed", result.text


# At a terminal -----------------------------------------------------------------------------------


def test_each_debugger_has_its_turn(tmp_path: Path) -> None:
    """Both tests are at a breakpoint; the prompts come one after the other, in their order."""
    source = """
        pytestmark = pytest.mark.isolated
        @pytest.mark.parametrize("number", range(2))
        def test_it(number):
            assert meet("here", 2)
            breakpoint()
    """
    write_files(tmp_path, suite(source))
    steps: list[Step] = [
        (PROMPT, "p number + 40\n"),
        (r"\n40\s+\(Pdb\) ", "c\n"),
        (PROMPT, "p number + 40\n"),
        (r"\n41\s+\(Pdb\) ", "c\n"),
        ("2 passed", ""),
    ]
    hold(tmp_path, pytest_command("--nsisolate-jobs=2"), steps)


def test_ctrl_z_stops_every_test(tmp_path: Path) -> None:
    """They stand still with the runner, and go on with it."""
    source = """
        pytestmark = pytest.mark.isolated
        @pytest.mark.parametrize("number", range(2))
        def test_it(number):
            os.chdir(HERE / "inside")
            while not os.path.exists("../go"): time.sleep(0.01)
    """
    write_files(tmp_path, {**suite(source), "inside/empty": ""})

    def states() -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if process.joinpath("cwd").readlink() == tmp_path / "inside":
                    found.append(process.joinpath("stat").read_text().rpartition(") ")[2][0])
        return found

    def stop_when_both_wait(child: pexpect.spawn[str]) -> None:
        assert eventually(lambda: len(states()) == 2)
        child.send(CTRL_Z)

    def are_held(child: pexpect.spawn[str]) -> None:
        assert states() == ["T", "T"]
        (tmp_path / "go").touch()
        child.send("fg\n")

    command = " ".join(pytest_command("--nsisolate-jobs=2"))
    steps: list[Step] = [
        ("SHELL> ", f"{command}\n"),
        ("collected 2 items", stop_when_both_wait),
        ("SHELL> ", are_held),
        ("2 passed", ""),
        ("SHELL> ", "exit\n"),
    ]
    hold(tmp_path, ["sh", "-i"], steps, {"PS1": "SHELL> ", "ENV": ""})


# Options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("-q", None),
        ("-s", "one job, because of --capture=no"),
        ("--capture=tee-sys", "one job, because of --capture=tee-sys"),
        ("--setup-show", "one job, because of --setup-show"),
        ("--pdb", "one job, because of --pdb"),
        ("--log-cli-level=INFO", "one job, because of live logs"),
    ],
)
def test_what_is_shown_as_it_runs_means_one_job(
    tmp_path: Path, option: str, said: str | None
) -> None:
    """The header says which option it was; the tests run one after the other."""
    source = """
        pytestmark = pytest.mark.isolated(uts=True)
        @pytest.mark.parametrize("number", range(3))
        def test_it(number):
            note("begin")
            meet("here", 2, 0.1)
            note("end")
    """
    result = run_suite(
        write_files(tmp_path, suite(source)),
        *("--nsisolate-jobs=2", option, "-v"),
        *(("-o", "log_cli=true") if "log-cli" in option else ()),
    )
    assert result.returncode == 0, result.text
    assert (said or "; 2 jobs") in result.stdout, result.text
    assert together(result.journal) == (2 if said is None else 1)


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "", "10000", "²"])
def test_no_number_of_jobs(tmp_path: Path, value: str) -> None:
    """A usage error that names the option, or the ini key."""
    result = run_source(tmp_path, "def test(): pass", f"--nsisolate-jobs={value}")
    assert result.returncode == 4, result.text
    assert f"--nsisolate-jobs: {value!r} is not a number from 1 to 9999, nor auto" in result.stderr
    result = run_source(tmp_path, "def test(): pass", "-o", f"nsisolate_jobs={value}")
    assert result.returncode == 4, result.text
    assert "ini key nsisolate_jobs" in result.stderr


def test_the_ini_key_and_auto(tmp_path: Path) -> None:
    """``auto`` counts the processors that the run may use."""
    one = ("taskset", "--cpu-list", "0")
    source = "import pytest\n@pytest.mark.isolated(uts=True)\ndef test(): pass"
    result = run_source(tmp_path, source, "-o", "nsisolate_jobs=3")
    assert "; 3 jobs" in result.stdout, result.text
    result = run_source(tmp_path, source, "--nsisolate-jobs=auto", prefix=one)
    assert "jobs" not in result.stdout, result.text


def test_what_is_no_name(tmp_path: Path) -> None:
    """``exclusive`` takes names, and is no keyword of a call."""
    source = """
        import pytest
        @pytest.mark.isolated(exclusive=3)
        def test(): pass
    """
    result = run_source(tmp_path, source)
    assert result.returncode == 4, result.text
    assert "isolated(exclusive=3): exclusive takes a name, or names" in result.stderr
