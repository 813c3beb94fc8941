# SPDX-License-Identifier: MIT
"""``--nsisolate-trace``: a file that is whole at every moment, and says when what ran."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import NEEDS_NAMESPACES, run_source

pytestmark = NEEDS_NAMESPACES

SUITE: Final = """
import json
import os
import pathlib
import time

import pytest

@pytest.fixture(scope="module")
def server():
    time.sleep(0.01)

@pytest.fixture
def inside():
    pass

@pytest.mark.isolated
def test_passes(server, inside):
    # What the file has by now is whole.
    assert json.loads(pathlib.Path("trace.json").read_text())

@pytest.mark.isolated
def test_crashes():
    os.abort()

@pytest.mark.isolated
def test_fails():
    assert False

@pytest.mark.isolated
def test_skips():
    pytest.skip("not today")

def test_in_the_runner(inside):
    pass

@pytest.mark.isolated(timeout=0.5)
def test_hangs():
    time.sleep(60)
"""

#: What becomes of each.
OUTCOMES: Final = {
    "test_passes": "passed",
    "test_crashes": "failed",
    "test_fails": "failed",
    "test_skips": "skipped",
    "test_in_the_runner": "passed",
    "test_hangs": "failed",
}


def read(folder: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads((folder / "trace.json").read_text("utf-8"))
    return events


#: One, for what the tests ask about the order.
IN_A_WORKER: Final = ("-n", "1", "-p", "xdist")

#: The categories of what has steps of a way in.
STEPPED: Final = {"launch", "call", "command", "box"}


def holds(outer: dict[str, Any], inner: dict[str, Any]) -> bool:
    """Whether one span lies in another, but for what a number in JSON loses."""
    ends = [event["ts"] + event["dur"] for event in (outer, inner)]
    return bool(outer["ts"] <= inner["ts"] + 1 and ends[1] <= ends[0] + 1)


def steps(events: list[dict[str, Any]], of: dict[str, Any]) -> list[str]:
    """The steps that lie in a span, of which there is more than one: by name, in their order."""
    found = [e for e in events if e.get("cat") == "step" and e["tid"] == of["tid"]]
    own = [e for e in found if holds(of, e)]
    for before, after in pairwise(own):
        assert abs(before["ts"] + before["dur"] - after["ts"]) < 1  # nothing is between them
    return [e["name"] for e in own]


def check(events: list[dict[str, Any]]) -> None:
    """The fields of the format, and spans that lie in one another or apart, lane by lane."""
    lanes: dict[int, list[tuple[float, float, str]]] = defaultdict(list)
    for event in events:
        assert event["ph"] in ("X", "M", "i")
        assert isinstance(event["pid"], int)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
            continue
        assert isinstance(event["name"], str)
        assert isinstance(event["cat"], str)
        assert isinstance(event["tid"], int)
        assert isinstance(event["args"], dict)
        if event["ph"] == "i":
            assert event["s"] == "t"
            continue
        assert event["dur"] >= 0
        lanes[event["tid"]].append((event["ts"], event["ts"] + event["dur"], event["name"]))
    named = {event["tid"] for event in events if event["name"] == "thread_name"}
    assert set(lanes) <= named
    spans_of = {n: [e for e in events if "dur" in e and e["tid"] == n] for n in lanes}
    for event in events:
        if event.get("cat") == "step":
            around = [e for e in spans_of[event["tid"]] if e["cat"] in STEPPED and holds(e, event)]
            assert around, event
        elif event.get("cat") == "process":
            whole = [e for e in events if e.get("cat") == "test" and holds(e, event)]
            assert event["args"]["nodeid"] in [e["args"]["nodeid"] for e in whole], event
    slack = 1000.0  # a millisecond: the two sides of a clone read the clock one after the other
    for spans in lanes.values():
        stack: list[tuple[float, float, str]] = []
        for span in sorted(spans, key=lambda span: (span[0], -span[1])):
            while stack and stack[-1][1] <= span[0] + slack:
                stack.pop()
            assert not stack or span[1] <= stack[-1][1] + slack, (stack[-1], span)
            stack.append(span)


#: Steps that every launch has, by the names that the doctor has for them.
IN_EACH: Final = ("make / private", "mount /dev", "mount sysfs", "mount proc", "set lo up")


def test_spans_of_every_end(tmp_path: Path) -> None:
    """Tests, phases, wider fixtures and the way into the namespaces, each with its outcome."""
    result = run_source(tmp_path, SUITE, "--nsisolate-trace=trace.json")
    assert "test_passes" in result.passed(), result.text
    events = read(tmp_path)
    check(events)
    tests = {e["name"]: e["args"]["outcome"] for e in events if e.get("cat") == "test"}
    assert tests == OUTCOMES
    phases = [e["name"] for e in events if e.get("cat") == "phase"]
    assert phases.count("setup") == len(OUTCOMES)
    launches = [e for e in events if e.get("cat") == "launch"]
    assert len(launches) == len(OUTCOMES) - 1
    assert "pid" in launches[0]["args"]["namespaces"]
    for launch in launches:
        own = steps(events, launch)
        assert own[0] == "prepare"
        assert own[1] in ("clone", "fork")
        assert own[-1] == "settle in"
        assert {*IN_EACH} <= {*own}, own
        assert len({*own} - {"fork"}) == len([name for name in own if name != "fork"])
    fixtures = [(e["name"], e["args"]["scope"]) for e in events if e.get("cat") == "fixture"]
    assert {("fixture server", "module"), ("fixture inside", "function")} <= {*fixtures}
    assert {e["args"]["name"] for e in events if e["name"] == "thread_name"} == {"runner"}


WITHIN: Final = """
import os
import time

import pytest

def keeping():
    pass

@pytest.fixture(scope="module")
def shared(isolate):
    isolate(keeping)

@pytest.fixture
def inside():
    time.sleep(0.01)

def nothing():
    pass

def fails():
    raise LookupError

@pytest.mark.isolated
def test_calls(isolate, inside):
    isolate(nothing)
    tasks = [isolate.start(time.sleep, 0.05) for _ in range(2)]
    for task in tasks:
        task.result()
    with pytest.raises(LookupError):
        isolate(fails)
    with isolate.open() as box:
        box.command(["true"])
        box.run(nothing)

def test_calls_of_the_runner(isolate):
    isolate(isolate, nothing)

@pytest.mark.isolated
def test_wires(testbed):
    net = testbed.network("10.53.0.0/24")
    a, b = testbed.host("a", net), testbed.host("b", net)
    a.wire.cut()
    a.wire.mend()
    a.wire.impair(delay=0.001)
    a.wire.drop(lambda packet: False).stop()
    a.wire.hold()
    a.wire.release()
    a.wire.clear()
    testbed.partition({a}, {b})
    testbed.heal()

@pytest.mark.isolated(net=True)
def test_lo(pid1):
    pid1.loopback.hold()
    pid1.loopback.release()

@pytest.mark.isolated(share="module", inside="shared")
@pytest.mark.parametrize("n", range(2))
def test_shared(n, shared, inside, isolate):
    isolate(nothing)

@pytest.mark.isolated
def test_lies(request):
    trace = request.config.pluginmanager.get_plugin("nsisolate-trace")
    trace._within = [
        ("nan", "call", 0.0, float("nan"), {}), ("late", "call", 9.0, 1.0, {}), 7, ("short",),
        ("keys", "call", 1.0, 2.0, {"n": 1.5}),
    ]

@pytest.mark.isolated
def test_crashes(inside):
    os.abort()
"""


@pytest.mark.parametrize(
    "options", [(), ("--nsisolate-jobs=2",), IN_A_WORKER], ids=["one", "jobs", "worker"]
)
def test_what_runs_within_a_test(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Its fixtures, what it calls by isolate, its boxes and what becomes of its wires."""
    result = run_source(tmp_path, WITHIN, "--nsisolate-trace=trace.json", *options)
    passed = {"test_calls", "test_calls_of_the_runner", "test_wires", "test_lo", "test_lies"}
    assert result.passed() == passed | {"test_shared[0]", "test_shared[1]"}, result.text
    events = read(tmp_path)
    check(events)
    lanes = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}

    def of(test: str, category: str) -> list[dict[str, Any]]:
        mine = [e for e in events if e["args"].get("nodeid", "").endswith(f"::{test}")]
        return [e for e in mine if e["cat"] == category]

    calls = of("test_calls", "call")
    assert [(e["name"], e["args"]["outcome"]) for e in calls if e["name"] != "sleep()"] == [
        ("nothing()", "returned"),
        ("fails()", "LookupError"),
        ("nothing()", "returned"),
    ]
    both = [e for e in calls if e["name"] == "sleep()"]
    assert len({e["tid"] for e in both}) == 2  # they overlap
    assert all("calls" in lanes[e["tid"]] for e in calls)
    assert [e["name"] for e in of("test_calls", "command")] == ["true"]
    (box,) = of("test_calls", "box")
    assert box["args"]["outcome"] == "closed"
    assert {*IN_EACH} <= {*steps(events, box)}
    for call in of("test_calls", "call"):
        # In the box, and elsewhere.
        assert {"setns", "mount proc"} & {*steps(events, call)}
    assert "setns" in steps(events, *of("test_calls", "command"))
    for host in of("test_wires", "box"):
        assert host["name"] in ("host a", "host b")
        assert {"mount sysfs", "mount proc", "set lo up", "sethostname"} <= {*steps(events, host)}
    world = next(e for e in of("test_shared[0]", "launch"))
    assert "fork the test" in steps(events, world)
    assert not of("test_shared[1]", "launch")
    on_a = ("cut", "mended", "impaired", "drops packets", "drops no more")
    wires = [f"a.eth0 {what}" for what in (*on_a, "held", "released", "cleared")]
    wires += ["partition", "healed"]
    assert [e["name"] for e in of("test_wires", "wire")] == wires
    assert [e["name"] for e in of("test_lo", "wire")] == ["lo held", "lo released"]
    assert "fixture inside" in [e["name"] for e in of("test_calls", "fixture")]
    assert [e["name"] for e in of("test_lies", "call")] == ["keys"]
    assert of("test_shared[0]", "test")
    # What the keeper has done is told by the test that it has forked next.
    shared = [e for e in events if e["name"] == "fixture shared"]
    assert [e["args"]["nodeid"].rpartition("::")[2] for e in shared] == ["test_shared[0]"]
    for test, there in ((0, ["keeping()", "nothing()"]), (1, ["nothing()"])):
        assert [e["name"] for e in of(f"test_shared[{test}]", "call")] == there
        assert "fixture inside" in [e["name"] for e in of(f"test_shared[{test}]", "fixture")]
    # A call of a call is not seen. Of a test in the runner it is the runner's, in a worker its own.
    others = [e for e in events if e.get("cat") == "call" and "nodeid" not in e["args"]]
    assert len(others + of("test_calls_of_the_runner", "call")) == 1


#: A thread of the runner's, so that no child is cloned directly.
LONG_WAY: Final = """
import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
"""

#: Of its last test a step of the way in is refused.
REFUSES: Final = """
import errno

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.process import supervisor

def refuse():
    raise StepError("set lo up", "net", errno.EPERM)

def pytest_nsisolate_configure(item):
    if item.name == "test_is_refused":  # the last one to be launched
        supervisor.network.bring_loopback_up = refuse
"""

STEPS_SUITE: Final = """
import pytest

@pytest.mark.isolated(time={"boottime": 5000})
def test_has_a_clock():
    pass

@pytest.mark.isolated(init=True, files={"/etc/motd": "hi"}, hostname="h")
def test_has_an_init():
    pass

@pytest.mark.isolated
def test_is_refused():
    pass
"""


@pytest.mark.parametrize(
    "options", [(), ("--nsisolate-jobs=2",), IN_A_WORKER], ids=["one", "jobs", "worker"]
)
def test_steps_of_the_long_way(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Each namespace by its call; of a refused way those that have ended."""
    (tmp_path / "conftest.py").write_text(LONG_WAY + REFUSES, encoding="utf-8")
    given = ("--nsisolate-trace=trace.json", "-p", "no:randomly", *options)
    result = run_source(tmp_path, STEPS_SUITE, *given)
    assert result.passed() == {"test_has_a_clock", "test_has_an_init"}, result.text
    assert "isolation refused: set lo up" in result.text
    events = read(tmp_path)
    check(events)
    launches = {
        e["args"]["nodeid"].rpartition("::")[2]: steps(events, e)
        for e in events
        if e.get("cat") == "launch"
    }
    unshared = [f"unshare(CLONE_NEW{kind})" for kind in ("NS", "NET", "IPC", "UTS")]
    of_clock = [*("prepare", "fork", "unshare(CLONE_NEWUSER)", "unshare(CLONE_NEWTIME)", "fork")]
    assert launches["test_has_a_clock"][:9] == [*of_clock, *unshared]
    assert launches["test_has_a_clock"][-1] == "settle in"
    assert {"fork the test", "enter the root", "sethostname"} <= {*launches["test_has_an_init"]}
    refused = launches["test_is_refused"]
    assert refused[-1].startswith("mount ")
    assert "unshare(CLONE_NEWNET)" in refused
    assert not {"set lo up", "settle in"} & {*refused}


#: Each look leaves a mark, and each process that it has seen a file of its arguments.
SEES: Final = """
import pathlib

from pytest_nsisolate.runner import sightings

here = pathlib.Path(__file__).parent
look_at = sightings._look_at

def look_and_tell(one):
    look_at(one)
    for found in one.seen.values():
        if found is not None and found.name == "sleep" and found.command:
            (here / "new").write_text(str(found.pid))
            (here / "new").replace(here / found.command)  # whole, for who waits for it
    with open(here / "looks", "a") as looks:
        looks.write("x")

sightings._look_at = look_and_tell
"""

PROCESSES: Final = """
import os
import pathlib
import subprocess
import time

import pytest

here = pathlib.Path(__file__).parent
pytestmark = pytest.mark.isolated(leftovers="ignore")

def await_look(name):
    until = time.monotonic() + 60
    while not (here / name).exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    return int((here / name).read_text())

def await_looks():
    looks = here / "looks"
    count = looks.stat().st_size if looks.exists() else 0
    until = time.monotonic() + 60
    while not looks.exists() or looks.stat().st_size < count + 3:
        assert time.monotonic() < until
        time.sleep(0.01)

def start(seconds):
    process = subprocess.Popen(["sleep", seconds])
    assert await_look(f"sleep {seconds}") == process.pid
    process.kill()
    process.wait()

def test_starts():
    start("61.1")
    start("61.2")

@pytest.mark.isolated(init=True)
def test_has_an_init():
    start("62.1")

@pytest.mark.isolated(time={"boottime": 5000})
def test_has_a_clock():
    start("63.1")

def test_daemon():
    subprocess.run(["sh", "-c", "sh -c 'sleep 64.1 & exit' & wait"])
    await_look("sleep 64.1")

@pytest.mark.isolated(pid=False)
def test_shares_pids():
    subprocess.run(["sh", "-c", "sh -c 'sleep 65.1 & exit' & wait"])
    await_look("sleep 65.1")

def test_crashes():
    subprocess.Popen(["sleep", "66.1"])
    await_look("sleep 66.1")
    os.abort()

@pytest.mark.isolated(share="module")
def test_in_a_world():
    start("67.1")

def test_calls(isolate):
    isolate(await_looks)
    isolate.using(pid=False)(await_looks)
    with isolate.open() as box:
        box.run(await_looks)

@pytest.mark.isolated(False)
def test_in_the_runner():
    subprocess.run(["true"])
"""

#: The processes of each, by their arguments; a shell may have been seen or not.
STARTED: Final = {
    "test_starts": ["sleep 61.1", "sleep 61.2"],
    "test_has_an_init": ["sleep 62.1"],
    "test_has_a_clock": ["sleep 63.1"],
    "test_daemon": ["sleep 64.1"],
    "test_shares_pids": ["sleep 65.1"],
    "test_crashes": ["sleep 66.1"],
    "test_in_a_world": ["sleep 67.1"],
    "test_calls": [],
    "test_in_the_runner": [],
}


@pytest.mark.parametrize(
    "options", [(), ("--nsisolate-jobs=3",), IN_A_WORKER], ids=["one", "jobs", "worker"]
)
def test_processes_of_a_test(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Those that the runner has seen: no call's, and none of another test's."""
    (tmp_path / "conftest.py").write_text(SEES, encoding="utf-8")
    given = ("--nsisolate-trace=trace.json", "-p", "no:randomly", *options)
    result = run_source(tmp_path, PROCESSES, *given)
    assert result.passed() == STARTED.keys() - {"test_crashes"}, result.text
    events = read(tmp_path)
    check(events)
    lanes = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    found: dict[str, list[str]] = {name: [] for name in STARTED}
    for event in events:
        if event.get("cat") == "process":
            args = event["args"]
            assert ", processes" in lanes[event["tid"]]
            name = args["nodeid"].rpartition("::")[2]
            if event["name"] == "sleep":
                found[name].append(args["command"])
                assert str(args["pid"]) == (tmp_path / args["command"]).read_text()
            else:  # a shell, or what was seen between its fork and its exec only
                assert STARTED[name], event
    assert found == STARTED, result.text


def test_a_lane_for_each_worker(tmp_path: Path) -> None:
    """The controller writes; no worker does."""
    result = run_source(tmp_path, SUITE, "--nsisolate-trace=trace.json", "-n", "2", "-p", "xdist")
    assert "test_passes" in result.passed(), result.text
    events = read(tmp_path)
    check(events)
    names = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {"gw0", "gw1"}
    assert {e["name"] for e in events if e.get("cat") == "test"} == set(OUTCOMES)


#: Two meet, so they overlap; what ends early, late or badly follows.
JOBS: Final = """
import os
import pathlib
import time

import pytest

pytestmark = pytest.mark.isolated

def meet(own, other):
    pathlib.Path(own).touch()
    until = time.monotonic() + 60
    while not pathlib.Path(other).exists():
        assert time.monotonic() < until
        time.sleep(0.01)

def test_first():
    meet("one", "two")

def test_second():
    meet("two", "one")

def test_crashes():
    os.abort()

@pytest.mark.isolated(timeout=0.5)
def test_hangs():
    time.sleep(60)

@pytest.mark.parametrize("n", range(4))
def test_fails(n):
    assert n % 2

@pytest.mark.isolated(False)
def test_in_the_runner():
    pass

def test_last():
    pass
"""

#: What becomes of each of these.
JOBS_OUTCOMES: Final = {
    "test_first": "passed",
    "test_second": "passed",
    "test_crashes": "failed",
    "test_hangs": "failed",
    "test_fails[0]": "failed",
    "test_fails[1]": "passed",
    "test_fails[2]": "failed",
    "test_fails[3]": "passed",
    "test_in_the_runner": "passed",
    "test_last": "passed",
}


def test_a_lane_for_each_job(tmp_path: Path) -> None:
    """Crashes and timeouts too: each test is on one lane, and no lane has two at a time."""
    result = run_source(
        tmp_path, JOBS, "--nsisolate-trace=trace.json", "--nsisolate-jobs=2", "-p", "no:randomly"
    )
    events = read(tmp_path)
    check(events)
    tests = {e["name"]: e for e in events if e.get("cat") == "test"}
    assert {name: e["args"]["outcome"] for name, e in tests.items()} == JOBS_OUTCOMES, result.text
    lanes = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert set(lanes.values()) == {"runner", "job 1", "job 2"}
    on = {name: lanes[e["tid"]] for name, e in tests.items()}
    assert {on["test_first"], on["test_second"]} == {"job 1", "job 2"}
    assert on.pop("test_in_the_runner") == "runner"
    assert "runner" not in on.values()
    for name, test in tests.items():
        phases = [e for e in events if e.get("cat") == "phase" and name in e["args"]["nodeid"]]
        assert [e["name"] for e in phases] == ["setup", "call", "teardown"], name
        assert {e["tid"] for e in phases} == {test["tid"]}
    launched = [e for e in events if e.get("cat") == "launch"]
    assert len(launched) == len(on)
    assert "pid" in launched[-1]["args"]["namespaces"]


def test_workers_with_jobs(tmp_path: Path) -> None:
    """What overlaps in a worker is on a lane beside the worker's first."""
    options = ("--nsisolate-trace=trace.json", "--nsisolate-jobs=2", "-n", "1", "-p", "xdist")
    result = run_source(tmp_path, JOBS, *options, "-p", "no:randomly")
    events = read(tmp_path)
    check(events)
    tests = {e["name"]: e["args"]["outcome"] for e in events if e.get("cat") == "test"}
    assert tests == JOBS_OUTCOMES, result.text
    names = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert {"gw0", "gw0, job 2"} <= names


def test_it_is_whole_when_the_runner_is_killed(tmp_path: Path) -> None:
    """SIGKILL in the middle of the run; what had ended before that test is there."""
    source = SUITE + "\ndef test_kills():\n    os.kill(os.getpid(), 9)\n"
    result = run_source(tmp_path, source, "--nsisolate-trace=trace.json")
    assert result.returncode == -9, result.text
    events = read(tmp_path)
    check(events)
    tests = {e["name"]: e["args"]["outcome"] for e in events if e.get("cat") == "test"}
    assert tests == OUTCOMES, result.text


#: Each wait is one in which it writes, and nothing else is.
EACH_WAIT: Final = """
from pytest_nsisolate.runner import trace

trace._EVERY_WAIT, trace._EVERY = 0.0, float("inf")
"""


@pytest.mark.parametrize(
    ("mark", "options"),
    [("()", ()), ("(share='module')", ()), ("()", ("--nsisolate-jobs=2",))],
    ids=["one", "world", "jobs"],
)
def test_it_is_written_while_the_runner_waits(
    tmp_path: Path, mark: str, options: tuple[str, ...]
) -> None:
    """For an isolated test: what ended before is in the file."""
    source = f"""
import pathlib
import time

import pytest

@pytest.mark.isolated
def test_one():
    pass

@pytest.mark.isolated{mark}
def test_looks():
    for _ in range(300):
        if '"name": "test_one", "cat": "test"' in pathlib.Path("trace.json").read_text():
            return
        time.sleep(0.1)
    raise AssertionError
"""
    (tmp_path / "conftest.py").write_text(EACH_WAIT, encoding="utf-8")
    given = ("--nsisolate-trace=trace.json", "-p", "no:randomly", *options)
    result = run_source(tmp_path, source, *given)
    assert result.passed() == {"test_one", "test_looks"}, result.text


@pytest.mark.parametrize("path", ["nowhere/trace.json", "."])
def test_a_file_that_cannot_be_written_is_a_usage_error(tmp_path: Path, path: str) -> None:
    """Before any test runs."""
    result = run_source(tmp_path, SUITE, f"--nsisolate-trace={path}")
    assert result.returncode == 4
    assert "ERROR: --nsisolate-trace: [Errno" in result.text
    assert not result.reports


def test_a_file_that_is_taken_away_ends_nothing(tmp_path: Path) -> None:
    """A picture of the run is no reason to end it."""
    source = "import os\ndef test_it():\n    os.remove('trace.json')\ndef test_next():\n    pass\n"
    result = run_source(tmp_path, source, "--nsisolate-trace=trace.json")
    assert result.passed() == {"test_it", "test_next"}, result.text
