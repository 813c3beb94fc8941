# SPDX-License-Identifier: MIT
"""Worlds that tests share: what they have in common, how they end, what is reported where."""

from __future__ import annotations

import signal
from pathlib import Path
from textwrap import dedent
from typing import Final

import pytest

from tests.coverage_helpers import PLAIN, differences, run_measured
from tests.inner_runs import (
    SIDES,
    Side,
    assert_expected,
    assert_nothing_alive,
    captured,
    cases,
    run_batch,
    said,
    shared_batch,
    start,
    suite_folder,
    verdict,
)
from tests.integrations.plugins.installed import needs
from tests.support import NEEDS_NAMESPACES, Result, run_suite, write_files

pytestmark = NEEDS_NAMESPACES

#: A module whose world has a fixture, and what that fixture says in the journal.
SERVER: Final = """
import os, signal, time
from pathlib import Path
import pytest
from journal import note
HERE = Path(__file__).parent

def world(): return os.readlink("/proc/self/ns/pid")

@pytest.fixture(scope="module")
def server():
    note("server up")
    yield world()
    note("server down")

pytestmark = pytest.mark.isolated(share="module", inside="server", timeout=60)
"""


def module(source: str) -> str:
    """A module with :data:`SERVER`."""
    lines = source.strip("\n").split("\n")
    indent = len(lines[0]) - len(lines[0].lstrip())
    return SERVER + "\n".join(line[indent:] for line in lines) + "\n"


@pytest.fixture
def sharing(tmp_path_factory: pytest.TempPathFactory, side: Side) -> Result:
    return shared_batch(tmp_path_factory, "sharing", side)


@cases("sharing")
def test_test(sharing: Result, name: str, expected: tuple[str, ...]) -> None:
    assert_expected(sharing, name, expected)


@pytest.mark.parametrize("side", SIDES)
def test_fixtures_live_once(sharing: Result) -> None:
    """In the world, but for the runner's; a class's as long as the class, a parameter's in turn."""
    once = ["server up", "server down", "broken up", "class up", "class down"]
    once += [f"number {number} {what}" for number in (1, 2) for what in ("up", "down")]
    journal = sharing.journal
    assert sorted(journal) == sorted(["runner early up", *(f"child {what}" for what in once)])
    assert journal[0] == "runner early up"
    assert journal.index("child class down") < journal.index("child number 1 up")
    assert journal.index("child number 1 down") < journal.index("child number 2 up")


@pytest.mark.parametrize("side", SIDES)
def test_what_fixtures_say_has_an_owner(sharing: Result) -> None:
    """Set-up belongs to the first test that uses it, tear-down to the last one."""
    assert captured(sharing, "test_last")["Captured stdout teardown"] == (
        "said by the server's tear-down\n"
    )
    found = {w["text"]: w["nodeid"].rpartition("::")[2] for w in sharing.warnings}
    assert {text: name for text, name in found.items() if "server's" in text} == {
        "warned by the server's set-up": "test_first",
        "warned by the server's tear-down": "test_last",
    }


# The end of a world ------------------------------------------------------------------------------

ENDS: Final = {
    "test_a_killed.py": module("""
        def test_before(server): pass
        def test_kills_the_keeper(server):
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        def test_after(server): pass
        def test_after_that(): pass
    """),
    "test_b_hangs.py": module("""
        @pytest.fixture(scope="module")
        def slow():
            def waits_for_ever(): time.sleep(3600)
            waits_for_ever()
        pytestmark = pytest.mark.isolated(share="module", inside=["slow", "server"], timeout=1)
        def test_before(server): pass
        def test_slow(server, slow): pass
        def test_after(server): pass
    """),
    "test_c_dies.py": module("""
        @pytest.fixture(scope="module")
        def deadly(): os._exit(3)
        pytestmark = pytest.mark.isolated(share="module", inside="deadly")
        def test_deadly(deadly): pass
        def test_after(): pass
    """),
    "test_d_tear_down.py": module("""
        @pytest.fixture(scope="module")
        def bad():
            yield
            print("said at the end")
            raise RuntimeError("bad end")
        pytestmark = pytest.mark.isolated(share="module", inside=["bad", "server"])
        def test_first(server, bad): pass
        def test_final(): pass
    """),
    "test_e_plain.py": module("""
        def test_one(server): note(f"world {server}")
        @pytest.mark.isolated(False)
        def test_plain(): note("plain")
        def test_two(server): note(f"world {server}")
        @pytest.mark.isolated(False)
        def test_plain_end(): pass
    """),
    "test_f_own.py": dedent("""
        import os, pytest
        from pathlib import Path
        pytestmark = pytest.mark.isolated
        @pytest.mark.parametrize("number", range(2))
        def test_own(number):
            assert os.getpid() == 1
            assert not Path("/dev/shm/mark").exists()
            Path("/dev/shm/mark").touch()
    """),
    "test_g_classes.py": dedent("""
        import os, pytest
        from pathlib import Path
        @pytest.mark.isolated(share="class")
        class TestOne:
            def test_leaves(self): Path("/dev/shm/mark").touch()
            def test_finds(self): assert Path("/dev/shm/mark").exists()
        @pytest.mark.isolated(share="class")
        class TestTwo:
            def test_finds_not(self): assert not Path("/dev/shm/mark").exists()
    """),
}


@pytest.fixture(scope="module", params=SIDES)
def ends(request: pytest.FixtureRequest) -> Result:
    return run_batch(ENDS, request.param, timeout=240)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_kills_the_keeper", ("call failed", "the world that it shares by module", "SIGKILL")),
        ("test_after_that", ("setup failed", "test_a_killed.py has ended: killed by SIGKILL")),
        ("test_slow", ("setup failed", "timed out after 1 s in setup", "in waits_for_ever")),
        ("test_deadly", ("setup failed", "test_c_dies.py has ended: exit status 3")),
        ("test_final", ("teardown failed", "RuntimeError: bad end", "said at the end")),
        ("test_plain_end", ("passed",)),
        ("test_own[0]", ("passed",)),
        ("test_own[1]", ("passed",)),
        ("TestOne::test_finds", ("passed",)),
        ("TestTwo::test_finds_not", ("passed",)),
    ],
)
def test_end(ends: Result, name: str, expected: tuple[str, ...]) -> None:
    assert_expected(ends, name, expected)


def test_an_end_hits_the_rest_of_its_world_only(ends: Result) -> None:
    """Before it all passes; after it nothing does, and says why."""
    before = [verdict(ends, name) for name in ("test_before", "test_first")]
    assert before == ["passed", "passed"]
    hit = [report for report in ends.of("test_after") if report["outcome"] == "failed"]
    assert [report["when"] for report in hit] == ["setup", "setup", "setup"]
    assert all("has ended: " in report["text"] for report in hit), said(ends, "test_after")


def test_a_plain_test_in_between(ends: Result) -> None:
    """The world goes on beside it, and ends with the module."""
    at = ends.journal.index("runner plain")
    assert ends.journal[at - 1] == ends.journal[at + 1]
    assert ends.journal[at - 2] == "child server up"
    assert ends.journal[at + 2] == "child server down"


# The end of a run --------------------------------------------------------------------------------

STOPPED: Final = {
    "test_it.py": module("""
        @pytest.fixture(scope="class")
        def narrow():
            note("narrow up")
            yield
            note("narrow down")
        class TestIt:
            def test_first(self, server, narrow): pass
            def test_second(self, server): STOP
            def test_third(self, server): note("third")
    """)
}


@pytest.mark.parametrize(
    ("stop", "options", "status"),
    [
        ("assert False", ("-x",), 1),
        ("pytest.exit('enough', 5)", (), 5),
        ("raise KeyboardInterrupt", (), 2),
    ],
    ids=["fail-fast", "exit", "interrupt"],
)
def test_a_run_that_stops_tears_down(stop: str, options: tuple[str, ...], status: int) -> None:
    """What a world has set up is torn down in it, once, before the run ends."""
    files = {"test_it.py": STOPPED["test_it.py"].replace("STOP", stop)}
    result = run_batch(files, "user", *options, clean=False, gone=True)
    assert result.returncode == status, result.text
    ups = ["child server up", "child narrow up"]
    assert sorted(result.journal[:2]) == sorted(ups)
    assert result.journal[2:] == ["child narrow down", "child server down"], result.text


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
@pytest.mark.parametrize("where", ["fixture", "test"])
def test_nothing_outlives_the_run(side: Side, number: int, where: str) -> None:
    """The runner is interrupted or killed while a test of a world, or its fixture, is at work."""
    source = f"""
        import subprocess
        def at_work(place):
            if place == {where!r}:
                subprocess.Popen(["setsid", "sleep", "3600"])
                (HERE / "there").touch()
                time.sleep(3600)
        @pytest.fixture(scope="module")
        def busy(server):
            subprocess.Popen(["setsid", "sleep", "3600"])
            at_work("fixture")
        pytestmark = pytest.mark.isolated(share="module", inside=["server", "busy"])
        def test_first(server): pass
        @pytest.mark.isolated(False)
        def test_plain(): pass
        def test_it(busy): at_work("test")
    """
    # The watchdog of these is gone again when the world begins.
    before = """
import pytest
@pytest.mark.isolated(uts=True)
@pytest.mark.parametrize("number", range(2))
def test_own(number): pass
"""
    with suite_folder({"test_a.py": before, "test_it.py": module(source)}, side) as folder:
        with start(folder, side) as running:
            running.wait_for("there")
            running.signal(number)
            result = running.finish()
            assert result.returncode == (2 if number == signal.SIGINT else -9), result.text
        assert_nothing_alive(folder)


# Beside others -----------------------------------------------------------------------------------

BESIDE: Final = {
    f"test_{name}.py": module("""
        @pytest.mark.parametrize("number", range(3))
        def test_shared(server, number):
            assert server == world()
        @pytest.mark.isolated(share="module", inside="server")
        def test_fails(server): assert not server
        @pytest.mark.parametrize("number", range(3))
        def test_last(server, number): note("last")
    """)
    for name in "ab"
}
BESIDE["test_own.py"] = dedent("""
    import pytest
    @pytest.mark.isolated(uts=True)
    @pytest.mark.parametrize("number", range(4))
    def test_own(number): pass
""")


@pytest.mark.parametrize(
    "options",
    [
        ("--nsisolate-jobs=4",),
        pytest.param(
            ("-p", "xdist", "-n2", "--dist=loadfile", "--nsisolate-jobs=2"),
            marks=needs("pytest-xdist"),
        ),
        ("-p", "no:warnings", "--setup-show", "-s", "--capture=sys"),
    ],
    ids=["jobs", "workers", "shown"],
)
def test_beside_others(options: tuple[str, ...]) -> None:
    """One world for each module, whatever else is at work."""
    result = run_batch(BESIDE, "user", *options, clean=False, gone=True)
    assert "2 failed, 16 passed" in result.stdout, result.text
    assert sorted(result.journal) == sorted(
        ["child server up", "child server down", *(["child last"] * 3)] * 2
    )


def test_coverage(tmp_path: Path) -> None:
    """What the fixtures of a world run counts as if there were none."""
    code = """
        def in_set_up(x):
            return x
        def in_test(x):
            if x:
                return 1
            return 2
        def in_tear_down(x):
            return x
        def never():
            return 3
    """
    source = """
        import pytest, tested
        @pytest.fixture(scope="module")
        def wide():
            tested.in_set_up(1)
            yield
            tested.in_tear_down(1)
        pytestmark = pytest.mark.isolated(share="module", inside="wide")
        def test_one(wide): tested.in_test(1)
        def test_two(wide): tested.in_test(0)
    """
    folder = write_files(tmp_path, {"tested.py": code, "test_it.py": source})
    run = ("--source=.", "--branch")
    plain = run_measured(folder, *PLAIN, run=run)
    found = run_measured(folder, run=run)
    assert found.result.summary == "2 passed", found.result.text
    assert found.left == plain.left
    assert differences(plain.data, found.data) == []


WIDE: Final = """
    import os, pytest
    from journal import note
    from pathlib import Path
    def world(): return os.readlink("/proc/self/ns/pid")
    @pytest.fixture(scope="module")
    def narrow():
        note("narrow up")
        yield
        note("narrow down")
    @pytest.mark.isolated(share="cluster", inside="server")
    def test_cluster(server, narrow): note(f"cluster {server == world()} {world()}")
    @pytest.mark.isolated(share="session", inside="server")
    def test_session(server): note(f"session {server == world()} {world()}")
    @pytest.mark.isolated(share="package")
    def test_package():
        # Not its number: the kernel gives that of a world which has ended to the next one.
        before = len(list(Path("/dev/shm").glob("seen*")))
        Path(f"/dev/shm/seen{before}").touch()
        note(f"package {before}")
"""


def test_wide_worlds(tmp_path: Path) -> None:
    """Of the session, of a name, of a package: each once, and their fixtures too."""
    conftest = """
        import os, pytest
        @pytest.fixture(scope="session")
        def server(): return os.readlink("/proc/self/ns/pid")
    """
    files = {f"{folder}/__init__.py": "" for folder in ("one", "two")}
    files |= {f"{name}.py": WIDE for name in ("one/test_a", "one/test_b", "two/test_c")}
    result = run_suite(write_files(tmp_path, {"conftest.py": conftest, **files}))
    assert result.summary == "9 passed", result.text
    lines = [line.split()[1:] for line in result.journal]
    assert [line[1] for line in lines if line[0] == "narrow"] == ["up", "down"] * 3
    worlds = {name: [line for line in lines if line[0] == name] for name in ("cluster", "session")}
    for found in worlds.values():
        assert found[0][1] == "True"
        assert found == [found[0]] * 3
    assert [line[1] for line in lines if line[0] == "package"] == ["0", "1", "0"]


@needs("pytest-rerunfailures")
def test_another_attempt_finds_the_same_world(tmp_path: Path) -> None:
    source = module("""
        @pytest.mark.flaky(reruns=2)
        def test_flaky(server):
            tries = len(list(Path("/dev/shm").glob("try*")))
            Path(f"/dev/shm/try{tries}").touch()
            assert tries == 2
    """)
    folder = write_files(tmp_path, {"test_it.py": source})
    result = run_suite(folder, "-p", "pytest_rerunfailures")
    assert result.summary == "1 passed, 2 rerun", result.text
    assert result.journal == ["child server up", "child server down"]


@needs("pytest-rerunfailures")
def test_another_attempt_sets_a_fixture_up_that_has_failed(tmp_path: Path) -> None:
    source = """
        from pathlib import Path
        import pytest
        @pytest.fixture(scope="module")
        def late():
            tries = len(list(Path("/dev/shm").glob("try*")))
            Path(f"/dev/shm/try{tries}").touch()
            assert tries == 1
        @pytest.mark.flaky(reruns=2)
        @pytest.mark.isolated(share="module", inside="late")
        def test_flaky(late): pass
    """
    result = run_suite(write_files(tmp_path, {"test_it.py": source}), "-p", "pytest_rerunfailures")
    assert result.summary == "1 passed, 1 rerun", result.text


NEIGHBOURS: Final = """
import pytest
from journal import note
pytestmark = pytest.mark.isolated(share="module")

@pytest.fixture(scope="session")
def missing(): pytest.skip("no docker")
@pytest.fixture(scope="session")
def broken(): pytest.fail("no server")
@pytest.fixture(scope="session")
def costly(): note("costly")

def test_opens(): pass
def test_is_red(): assert False
def test_skips(missing): pass
def test_fails(broken): pass
@pytest.mark.skip
def test_left_out(costly): pass
@pytest.mark.parametrize("x", [1, 2], scope="module")
@pytest.mark.isolated(share="parameter", inside="x")
def test_parameter(x): assert x
"""


@pytest.mark.parametrize("side", SIDES)
def test_what_a_neighbour_needs_decides_nothing(side: Side) -> None:
    """A world is begun with what its tests need of the runner; each says itself what it lacks."""
    result = run_batch({"test_it.py": NEIGHBOURS}, side, clean=False, gone=True)
    assert result.passed() == {"test_opens", "test_parameter[1]", "test_parameter[2]"}, result.text
    assert verdict(result, "test_is_red") == "call failed"
    assert verdict(result, "test_skips") == "setup skipped"
    assert verdict(result, "test_fails") == "setup failed"
    assert result.journal == []


ITEMS: Final = """
import pytest

class Own(pytest.Item):
    def runtest(self): assert self.name != "bad"

class Module(pytest.Module):
    def collect(self):
        for name in ("good", "bad"):
            item = Own.from_parent(self, name=name)
            item.add_marker(pytest.mark.isolated(share="module"))
            yield item

def pytest_pycollect_makemodule(module_path, parent):
    return Module.from_parent(parent, path=module_path)
"""


def test_items_without_fixtures(tmp_path: Path) -> None:
    folder = write_files(tmp_path, {"conftest.py": ITEMS, "test_it.py": ""})
    result = run_suite(folder)
    assert result.summary == "1 failed, 1 passed", result.text


# Usage -------------------------------------------------------------------------------------------


def test_usage_errors(tmp_path: Path) -> None:
    """Each names the test, at collection; nothing runs."""
    source = """
        import pytest
        isolated = pytest.mark.isolated
        @pytest.fixture(scope="session", params=[1, 2])
        def several(): pass
        @isolated(share=True)
        def test_value(): pass
        @isolated(share="class")
        def test_class(): pass
        @isolated(share="module", pid=False)
        def test_pid(): pass
        @isolated(share="module", init=False)
        def test_init(): pass
        @isolated(share="module", limits={"memory": "1G"})
        def test_limits(): pass
        @isolated(share="module", tty=True)
        def test_tty(): pass
        @isolated(share="module", reach=8080)
        def test_reach(): pass
        @isolated(share="module")
        def test_first(): pass
        @isolated(share="module", net=True, root="overlay")
        def test_differs(): pass
        @isolated(share="module", inside="unknown")
        def test_unknown(): pass
        @isolated(share="module")
        def test_parameter(several): pass
    """
    result = run_suite(write_files(tmp_path, {"test_it.py": source}))
    assert result.returncode == 4, result.text
    for line in (
        'isolated(share=True): share takes "class", "module", "package", "session", or a name',
        "isolated(share='class'): this test is in no class",
        "isolated(share='module', pid=False): the end of its PID 1 ends a world",
        "isolated(share='module', init=False): PID 1 of a world is an init",
        "tty is of one test, not of a world that tests share",
        "reach is of one test, not of a world that tests share",
        "isolated(share='module'): limits are of one test, not of a world",
        "these differ in namespaces, root from test_it.py::test_first",
        "isolated(inside='unknown'): this test knows no fixture 'unknown'",
        "the fixture 'several' has a parameter",
    ):
        assert line in result.stderr, result.text
    assert result.reports == []
