# SPDX-License-Identifier: MIT
"""Post-mortem: what the report of a failed test says about the world in which it failed."""

from __future__ import annotations

import errno
import html
import json
import re
import socket
import types
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.process import deadline
from pytest_nsisolate.view.postmortem import limits, listeners, outsiders, refusals, section
from pytest_nsisolate.view.postmortem.section import HINT_TITLE, TITLE
from tests.inner_runs import SIDES, Side, shared_batch
from tests.integrations.plugins.installed import needs
from tests.support import NEEDS_NAMESPACES, NEEDS_ROOT, Result, run_source, run_suite, write_files

LO_ONLY = "network: lo only (up, 127.0.0.1/8, ::1/128), no routes"
ALONE = f"no other processes; no listening sockets; {LO_ONLY}"


def view_of(result: Result, name: str, at: int = 0) -> str:
    """The section in the text of a test's failure, without its title; empty for none."""
    failed = [r for r in result.of(name) if r["outcome"] == "failed"]
    return re.sub(r"\b\d+ s\b", "0 s", section_of(failed[at]["text"]))


def section_of(text: str) -> str:
    for title in (TITLE, HINT_TITLE):
        if title in text:
            return text.partition(title)[2].partition("\n")[2].strip("\n")
    return ""


# Worlds ------------------------------------------------------------------------------------------


@pytest.fixture(params=SIDES)
def worlds(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The suite of ``tests/inner/failing.py``."""
    side: Side = request.param
    return shared_batch(tmp_path_factory, "failing", side, "-p", "no:randomly")


@NEEDS_NAMESPACES
def test_everything_that_a_test_has_made_is_shown(worlds: Result) -> None:
    """The tree of processes, sockets of both kinds, addresses, routes and mounts."""
    shown = view_of(worlds, "test_world")
    assert shown.startswith("3 processes:\n  PID  PPID  STATE     UID  AGE  COMMAND\n")
    parts = [
        *("  1    0     running   0    0 s  (this test)\n", "  2    1     sleeping  0    0 s    /"),
        "  3    1     zombie    0    0 s    [python",
        "2 listening sockets:\n  PROTO  STATE   LOCAL              PEER  HELD BY\n",
        "  tcp    listen  203.0.113.7:80     -     1 (python",
        "  unix   listen  @the abstract one  -     1 (python",
        "127.0.0.1/8 203.0.113.7/32 ::1/128\n",
        "1 route:\n",
        "  198.51.100.0/24  unicast  -    lo   -    -       main\n",
        "2 mounts added by the test:\n  TARGET    FSTYPE  SOURCE  PROPAGATION  OPTIONS\n",
        "  /mnt      tmpfs   new     private",
        "  /dev/shm  tmpfs   again   private",
    ]
    assert [part for part in parts if part not in shown] == [], shown


@NEEDS_NAMESPACES
def test_a_world_in_which_nothing_was_done_is_short(worlds: Result) -> None:
    """One line; no mount is taken for new, in the first test of a run and in a later one."""
    later = view_of(worlds, "test_unspeakable")
    assert (view_of(worlds, "test_first"), later) == (ALONE, ALONE)


@NEEDS_NAMESPACES
@NEEDS_ROOT
def test_a_test_that_has_become_somebody_else_is_shown(tmp_path: Path) -> None:
    """Its new user explains what it is refused; behind an init it is the test that counts."""
    source = """
        import os, pytest
        @pytest.mark.isolated(init=True)
        def test_somebody_else(): os.setuid(4321); assert 0
        @pytest.mark.isolated(init=True)
        def test_same(): assert 0
    """
    result = run_source(tmp_path, source)
    lines = view_of(result, "test_somebody_else").splitlines()
    assert lines[0] == "2 processes:"
    assert re.fullmatch(r"  \d+ +1 +running +4321 +0 s +\(this test\)", lines[3])
    assert lines[4:] == [f"no listening sockets; {LO_ONLY}"]
    assert view_of(result, "test_same") == ALONE


@NEEDS_NAMESPACES
def test_a_limit_is_no_mount_of_the_test_s(worlds: Result) -> None:
    """In a group of its own the mounts of cgroups have another root."""
    assert view_of(worlds, "test_limited") == ALONE


@NEEDS_NAMESPACES
def test_a_network_that_is_not_the_test_s_own_is_not_shown(worlds: Result) -> None:
    """Neither its interfaces and routes, nor sockets of processes outside."""
    shown = view_of(worlds, "test_shares_the_network")
    assert shown == ALONE.partition("; network")[0]


@NEEDS_NAMESPACES
def test_each_phase_that_fails_has_its_own(worlds: Result) -> None:
    """Set-up and tear-down as well as the call; what passed has none."""
    assert "2 processes:" in view_of(worlds, "test_setup_fails")
    assert view_of(worlds, "test_setup_fails").endswith(f"\nno listening sockets; {LO_ONLY}")
    assert view_of(worlds, "test_teardown_fails") == ALONE


@NEEDS_NAMESPACES
def test_only_failures_have_a_view(worlds: Result) -> None:
    """Not what passed, was skipped or failed as expected; nor a crash, which nobody could ask."""
    quiet = [r for r in worlds.reports if r["outcome"] != "failed" or "crashes" in r["nodeid"]]
    assert {r["outcome"] for r in quiet} == {"passed", "skipped", "failed"}
    assert [r["nodeid"] for r in quiet if TITLE in f"{r['text']}{r['sections']}"] == []


@NEEDS_NAMESPACES
def test_a_failure_whose_text_takes_no_section_has_it_beside(worlds: Result) -> None:
    """A missing fixture, for example: it stands with the captured output."""
    (report,) = (r for r in worlds.of("test_knows_no_fixture") if r["outcome"] == "failed")
    assert TITLE not in report["text"]
    assert [title for title, _ in report["sections"]] == [TITLE]


@NEEDS_NAMESPACES
def test_of_subtests_the_first_that_fails_has_it(worlds: Result) -> None:
    """And neither the next one nor the test that has failed by them."""
    views = [TITLE in r["text"] for r in worlds.of("test_two_fail") if r["outcome"] == "failed"]
    assert views[0]
    assert not any(views[1:])


@NEEDS_NAMESPACES
def test_it_is_bounded(worlds: Result) -> None:
    """101 processes and 500 sockets are 20 lines each, and the count of the rest."""
    shown = view_of(worlds, "test_many")
    assert "101 processes:" in shown
    assert "  ... and 81 more (81 sleeping)\n" in shown
    assert "500 listening sockets:" in shown
    assert "  ... and 480 more\n" in shown
    assert len(shown.splitlines()) == 2 * 23 + 1

    long = view_of(worlds, "test_long_names")
    assert max(map(len, long.splitlines())) < 110
    assert "stopped  0    0 s    /bin/sh -c kill -STOP $$ # xxx" in long
    assert "\x1b" not in long


@NEEDS_NAMESPACES
def test_limits_that_were_hit(worlds: Result) -> None:
    """Open files, also where none can be opened for looking, and the size of a file."""
    assert "limits:\n  open files: 60 of 60 (RLIMIT_NOFILE)" in view_of(worlds, "test_open_files")
    assert view_of(worlds, "test_open_files").startswith(f"{ALONE}\nlimits:")
    hard = view_of(worlds, "test_open_files_to_the_hard_limit")
    assert "limits:\n  open files: 60 of 60 (RLIMIT_NOFILE)\n" in hard
    assert "[Errno 24]" in hard.partition("(RLIMIT_NOFILE)")[2]
    large = view_of(worlds, "test_too_large_a_file")
    assert large.endswith("limits:\n  size of a file: at most 4 KiB (RLIMIT_FSIZE)")


@NEEDS_NAMESPACES
def test_whatever_the_test_has_done_its_report_stands(worlds: Result) -> None:
    """Mocks of what reads, no /proc, another root: each part says what kept it."""
    # The first child that fails has to import what it reads with.
    unread = "the view: could not be read (RuntimeError: this is a mock)"
    assert view_of(worlds, "test_mocks") in (ALONE, unread)
    without = view_of(worlds, "test_no_proc")
    assert "processes: could not be read (" in without
    assert "1 interface:\n" in without
    assert "could not be read (" in view_of(worlds, "test_other_root")


# Hints -------------------------------------------------------------------------------------------

REFUSED = """
import asyncio, http.client, socket, urllib.request
import pytest

SERVER = socket.create_server(("127.0.0.1", 0))
PORT = SERVER.getsockname()[1]
SIXTH = socket.create_server(("::1", 0), family=socket.AF_INET6)
V6 = SIXTH.getsockname()[1]
FREE = 1  # of a service that nobody has any more

isolated = pytest.mark.isolated
class Client: pass
class Wrapped(Exception):
    def __init__(self, inner): super().__init__("no good", inner)

@pytest.fixture(scope="module")
def server(): return SERVER

@isolated
def test_connect(server):
    with socket.socket() as client: client.connect(("127.0.0.1", PORT))
@isolated
def test_attribute():
    client = Client()
    client.address = ("127.0.0.1", PORT)
    with socket.socket() as connection: connection.connect(client.address)
@isolated
def test_create_connection(): socket.create_connection(("localhost", PORT))
@isolated
def test_urllib(): urllib.request.urlopen(f"http://127.0.0.1:{PORT}/")
@isolated
def test_http(): http.client.HTTPConnection("localhost", PORT).request("GET", "/")
@isolated
def test_wrapped():
    try: socket.create_connection(("127.0.0.1", PORT))
    except OSError as error: raise Wrapped(error) from None
@isolated
def test_text(): raise RuntimeError(f'server at "127.0.0.1", port {PORT}: Connection refused')
@isolated
def test_asyncio():
    async def main(): await asyncio.open_connection("localhost", PORT)
    asyncio.run(main())
@isolated
def test_group():
    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.open_connection("127.0.0.1", PORT))
    asyncio.run(main())
@isolated
def test_ipv6(): socket.create_connection(("::1", V6))
@isolated
def test_subtest(request):
    if hasattr(pytest, "Subtests"):
        subtests = request.getfixturevalue("subtests")
        for number in range(2):
            with subtests.test(number=number): socket.create_connection(("127.0.0.1", PORT))
    else: socket.create_connection(("127.0.0.1", PORT))
def test_unmarked(): socket.create_connection(("127.0.0.1", PORT))

@isolated
def test_nobody_listens(): socket.create_connection(("127.0.0.1", FREE))
@isolated
def test_other_family(): socket.create_connection(("::1", PORT))
@isolated
def test_other_host():
    socket.create_connection(("203.0.113.7", PORT))
@isolated
def test_other_error(): raise OSError(5, "nobody speaks of", f"127.0.0.1:{PORT}")
@isolated
def test_assertion(): assert "connection refused" == f"127.0.0.1:{PORT}"
@isolated(net=False)
def test_shares_the_network(): socket.create_connection(("127.0.0.1", FREE))
@isolated(net=False)
def test_shares_it_and_says_so(): raise RuntimeError(f"127.0.0.1:{PORT}: Connection refused")
def test_unmarked_and_nobody_listens(): socket.create_connection(("127.0.0.1", FREE))
def test_unmarked_and_wrong(): assert not PORT
@isolated
def test_reaches_its_own():
    with socket.create_server(("127.0.0.1", PORT)): socket.create_connection(("127.0.0.1", PORT))
    print(f"PORT {PORT} {V6}")
    raise AssertionError
"""

TOLD = (
    *("test_connect", "test_attribute", "test_create_connection", "test_urllib", "test_http"),
    *("test_wrapped", "test_text", "test_asyncio", "test_group", "test_ipv6"),
    *("test_subtest", "test_unmarked"),
)
NOT_TOLD = (
    *("test_nobody_listens", "test_other_family", "test_other_host", "test_other_error"),
    *("test_assertion", "test_shares_the_network", "test_unmarked_and_nobody_listens"),
    "test_shares_it_and_says_so",
    *("test_unmarked_and_wrong", "test_reaches_its_own"),
)


@NEEDS_NAMESPACES
def test_a_refused_test_is_told_who_listens_outside(tmp_path: Path) -> None:
    """By the client that it used, wherever the address is; not one that was refused otherwise."""
    result = run_source(tmp_path, REFUSED, "--nsisolate=all", "-p", "no:randomly")

    (own,) = (r for r in result.of("test_reaches_its_own") if r["when"] == "call")
    found = re.search(r"PORT (\d+) (\d+)", str(own["sections"]))
    assert found is not None, result.text
    where = f"127.0.0.1:{found[1]}"
    hints = {name: view_of(result, name).split("\n")[0] for name in (*TOLD, *NOT_TOLD)}
    begins = f"hint: the runner's host listens on {where} (this pytest), but this test has a"
    sixth = begins.replace(where, f"[::1]:{found[2]}")
    expected = dict.fromkeys(TOLD, begins) | {"test_ipv6": sixth}
    assert {k: v[: len(expected[k])] for k, v in hints.items() if k in TOLD} == expected
    assert [name for name in NOT_TOLD if "hint" in hints[name]] == []
    ways_out = 'isolated(net=False) leaves it in the host\'s, inside="server" sets that fixture up'
    assert ways_out in hints["test_connect"]
    assert "inside=... sets" in hints["test_urllib"]
    # An unmarked test was promised the behaviour of an un-isolated one, so that is all it gets.
    assert "\n" not in view_of(result, "test_unmarked")
    assert view_of(result, "test_unmarked_and_wrong") == ""


OUTSIDERS = """
import multiprocessing, os, signal, subprocess, time, unittest
import psutil, pytest

ITSELF = psutil.Process()
isolated = pytest.mark.isolated

@pytest.fixture(scope="module")
def server():
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()

@pytest.fixture(scope="module")
def worker():
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    process.start()
    yield process
    process.kill()
    process.join()

class TestUnit(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = subprocess.Popen(["sleep", "600"])
    @classmethod
    def tearDownClass(cls):
        cls.server.kill()
        cls.server.wait()
    @isolated
    def test_unit(self): self.assertIsNone(self.server.poll())
    @isolated
    def test_unit_kill(self): os.kill(self.server.pid, signal.SIGTERM)
    @isolated(inside=True)
    def test_unit_inside(self): os.kill(self.server.pid, signal.SIGTERM); assert 0

@isolated
def test_kill(server): os.kill(server.pid, 0)
@isolated
def test_number(server):
    number = server.pid
    os.pidfd_open(number)
@isolated
def test_wait(server): os.waitpid(server.pid, os.WNOHANG)
@isolated
def test_psutil(server): psutil.Process(server.pid)
@isolated
def test_proc(server): open(f"/proc/{server.pid}/status")
@isolated
def test_poll(server): assert server.poll() is None
@isolated
def test_exists(server):
    pid = server.pid
    assert psutil.pid_exists(pid)
@isolated
def test_path(server): assert os.path.exists(f"/proc/{server.pid}")
@isolated
def test_pid1(server, pid1): pid1.assert_process(server)
@isolated
def test_dies(server, pid1): pid1.assert_dies(server)
@isolated
def test_multiprocessing(worker): assert worker.is_alive()
@isolated(init=True)
def test_itself(): ITSELF.children()
def test_unmarked(server): os.kill(server.pid, 0)

@isolated(pid=False)
def test_shares_them(server): os.kill(server.pid, 0); assert server.pid == 0
@isolated
def test_about_something_else(server): assert server.args == ["sleep"]
@isolated
def test_another_error(server): raise ValueError(f"process with number {server.pid}")
@isolated
def test_of_its_own(server):
    own = subprocess.Popen(["true"])
    own.wait()
    os.kill(own.pid, 0)
@isolated
def test_unknown(): os.kill(4_000_000, 0)
def test_unmarked_and_wrong(server): assert not server.pid
"""

OF_THE_RUNNER = {
    **dict.fromkeys(
        (
            *("test_kill", "test_number", "test_wait", "test_psutil", "test_proc", "test_poll"),
            *("test_exists", "test_path", "test_pid1", "test_dies", "test_unmarked"),
        ),
        'inside="server" sets that fixture up',
    ),
    "test_multiprocessing": 'inside="worker" sets that fixture up',
    **dict.fromkeys(
        ("TestUnit::test_unit", "TestUnit::test_unit_kill"),
        "inside=True sets wider fixtures, and setUpClass, up",
    ),
}
NOT_OF_THE_RUNNER = (
    *("TestUnit::test_unit_inside", "test_shares_them", "test_about_something_else"),
    *("test_another_error", "test_of_its_own", "test_unknown", "test_unmarked_and_wrong"),
)


@NEEDS_NAMESPACES
@pytest.mark.parametrize("options", [(), ("-p", "xdist", "-n", "1")], ids=["alone", "worker"])
def test_a_process_of_the_runner_s_is_named(tmp_path: Path, options: tuple[str, ...]) -> None:
    """However the test has looked for it; not where it has failed for another reason."""
    result = run_source(tmp_path, OUTSIDERS, "--nsisolate=all", "-p", "no:randomly", *options)

    for name, inside in OF_THE_RUNNER.items():
        assert re.match(
            r"hint: process \d+ \((sleep|python\S*)\) is one of the runner's, and not to be seen "
            rf"in this test's PID namespace: {re.escape(inside)} .*, isolated\(pid=False\) leaves",
            view_of(result, name),
        ), result.failure(name)
    itself = view_of(result, "test_itself")
    assert re.match(r"hint: process \d+ is the runner itself, .* called in the test, are", itself)
    for name in NOT_OF_THE_RUNNER:
        assert "hint" not in view_of(result, name), name
    # An unmarked test was promised the behaviour of an un-isolated one, so that is all it gets.
    assert "\n" not in view_of(result, "test_unmarked")
    assert view_of(result, "test_unmarked_and_wrong") == ""


def test_numbers_of_a_child_are_not_believed() -> None:
    """What it sends is looked up, and only if it is a list of numbers."""
    for numbers in (None, "12", {"a": 1}, [None, "1", -1, 0, 1 << 70, True], [(1, 2)]):
        assert outsiders.hint(None, numbers) == ""  # type: ignore[arg-type]


def test_addresses_are_found_in_the_texts_of_clients() -> None:
    """asyncio's, urllib3's, libpq's, redis', trio's; IPv6 in brackets, and none in other words."""
    for text, expected in {
        "[Errno 111] Connect call failed ('127.0.0.1', 80)": [("127.0.0.1", 80)],
        "[Errno 111] Connect call failed ('::1', 81, 0, 0)": [("::1", 81)],
        "HTTPPool(host='db', port=82): ... Connection refused": [("db", 82)],
        'connection to server at "::1", port 83 failed: Connection refused': [("::1", 83)],
        "Error 111 connecting to localhost:84. Connection refused.": [("localhost", 84)],
        "all attempts to connect to [::1]:85 failed": [("::1", 85)],
        "Connection refused": [],
        "Connection refused by localhost:99999": [],
        "nothing about it: localhost:86": [],
    }.items():
        assert refusals.tried([RuntimeError(text)]) == expected, text


def test_a_number_alone_counts_where_no_address_is_known() -> None:
    """It is a guess, and none is needed beside a text that names the address."""

    def refuse(text: str) -> list[tuple[str | None, int]]:
        port = 4711
        try:
            raise ConnectionRefusedError(errno.ECONNREFUSED, text, port)
        except OSError as error:
            return refusals.tried([error])

    assert refuse("localhost:80") == [("localhost", 80)]
    assert refuse("no") == [(None, 4711)]


def test_the_chain_of_an_exception_is_followed_and_bounded() -> None:
    """Causes, contexts, groups, reasons and arguments; cycles and liars do no harm."""

    class Liar(Exception):
        @property
        def reason(self) -> Any:
            raise RuntimeError

    inner = ConnectionRefusedError(errno.ECONNREFUSED, "no")
    first, second = ValueError(inner), Liar()
    first.__cause__, second.__context__ = second, first
    group = ExceptionGroup("both", [first, second])
    assert refusals.chain(group)[0] is group
    assert [error for error in refusals.chain(group) if error is inner] == [inner]
    assert refusals.numbers(refusals.chain(group)) == {errno.ECONNREFUSED}
    endless = ValueError()
    for _ in range(500):
        endless = ValueError(endless)
    assert len(refusals.chain(endless)) < 100
    assert refusals.chain(None) == []


def test_only_what_reaches_a_listener_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own address, or one of this host's where it listens on all of them."""
    monkeypatch.setattr(internals, "wider_fixtures_of_suite", lambda item: [])
    listening = [listeners.Listener("0.0.0.0", 80, 0), listeners.Listener("10.0.0.1", 81, 0)]
    monkeypatch.setattr(listeners, "_listeners", lambda: listening)
    item: Any = None
    for tried, told in {
        ("127.0.0.1", 80): True,
        ("0.0.0.0", 80): True,
        ("203.0.113.7", 80): False,
        ("::ffff:127.0.0.1", 80): True,
        ("::1", 80): False,
        ("localhost", 80): True,
        (None, 80): True,
        ("10.0.0.1", 81): True,
        ("127.0.0.1", 81): False,
        ("127.0.0.1", 82): False,
    }.items():
        assert bool(listeners.hint(item, [tried])) == told, tried
    for nonsense in (None, "x", [1], [("a",)], [(b"a", 80)], [("127.0.0.1", "80")], {"a": 80}):
        assert listeners.hint(item, nonsense) == ""


def test_the_owner_of_a_listener_is_named() -> None:
    """This process is "this pytest"; a socket that nobody holds has no owner."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (found,) = (one for one in listeners._listeners() if one.port == port)
        assert (str(found), listeners._held_by(found)) == (f"127.0.0.1:{port}", " (this pytest)")
    assert listeners._held_by(listeners.Listener("127.0.0.1", 1, 0)) == ""


# The section -------------------------------------------------------------------------------------


def test_whatever_is_sent_is_bounded_and_plain() -> None:
    """Lines, columns and characters that a terminal would act on; it says what it has left out."""
    lines = section.bounded("a\x1b[31m\r\u202e\n" + "x" * 1000 + "\nb" * 5000).split("\n")
    assert lines[0] == "a?[31m??"
    assert lines[1] == "x" * section.MOST_COLUMNS + "... (800 more characters)"
    assert len(lines) == section.MOST_LINES + 1
    assert lines[-1] == f"... and {5002 - section.MOST_LINES} more lines"


@pytest.mark.parametrize("view", [None, 1, [], {"a": 1}, ""])
def test_anything_but_a_text_is_no_section(view: object) -> None:
    """A child that sends nonsense gets a report without."""
    report: Any = types.SimpleNamespace(longrepr="text", sections=[])
    section.attach(report, view, view, "")
    assert (report.longrepr, report.sections) == ("text", [])


TWO = """
import os, pytest, socket
@pytest.mark.isolated
def test_fails():
    server = socket.create_server(("127.0.0.1", 80))
    if (pid := os.fork()) == 0: os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert 0
@pytest.mark.isolated
def test_passes(): pass
def test_unmarked(): assert 0
"""
BOLD, GREEN, RED, OFF = "\x1b[1m", "\x1b[32m", "\x1b[31m", "\x1b[0m"


def assert_coloured(text: str) -> None:
    shown = text.partition(f" {TITLE} ")[2]
    for part in (f"{BOLD}2 processes:{OFF}\n", f"{GREEN}running", f"{RED}zombie", f"{GREEN}listen"):
        assert part in shown, text
    assert f"COMMAND\n  1    0     {GREEN}running" in shown
    assert f"{BOLD}network: lo only" in shown


@NEEDS_NAMESPACES
@needs("pytest-rerunfailures")
def test_at_a_terminal_it_is_coloured(tmp_path: Path) -> None:
    """Headings bold, states by what they mean; whatever -q, --show-capture, --tb, -rA say."""
    result = run_source(
        tmp_path,
        TWO,
        *("--color=yes", "-q", "-rA", "--show-capture=no", "--tb=short", "--nsisolate=all"),
        *("-p", "rerunfailures", "--reruns=1", "-p", "no:randomly"),
    )
    assert_coloured(result.stdout)
    # One failure is shown; its first attempt, the unmarked one and the one that passed have none.
    assert result.stdout.count(TITLE) == 1, result.text
    assert "\x1b" not in view_of(result, "test_fails")


PRINTS = """
import pytest
@pytest.fixture
def noisy():
    yield
    print("its", "tear-down")
@pytest.mark.isolated
def test_fails(noisy):
    print("its", "output")
    assert 0
"""


@NEEDS_NAMESPACES
@pytest.mark.parametrize(
    ("plugins", "options"),
    [
        pytest.param((), (), id="pytest"),
        pytest.param(("xdist",), ("-n", "1"), marks=needs("pytest-xdist"), id="xdist"),
        pytest.param(("pytest_sugar",), (), marks=needs("pytest-sugar"), id="sugar"),
        pytest.param(
            ("pytest_instafail",), ("--instafail",), marks=needs("pytest-instafail"), id="instafail"
        ),
        pytest.param(
            ("xdist", "pytest_instafail"),
            ("-n", "1", "--instafail"),
            marks=needs("pytest-xdist", "pytest-instafail"),
            id="xdist and instafail",
        ),
    ],
)
def test_it_follows_what_the_test_has_printed(
    tmp_path: Path, plugins: tuple[str, ...], options: tuple[str, ...]
) -> None:
    """Whoever shows the failure: its text, its output, its world; and each of them once."""
    loaded = [option for name in plugins for option in ("-p", name)]
    result = run_source(tmp_path, PRINTS, *loaded, *options)
    shown = re.findall(rf"E  .*assert 0|its output|{TITLE}", result.stdout)
    assert [part.split()[-1] for part in shown] == ["0", "output", "failure"], result.text
    assert ALONE in result.stdout


@NEEDS_NAMESPACES
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--show-capture=no",), [TITLE]),
        (("--show-capture=stderr",), [TITLE]),
        (("--show-capture=stdout", "-rA"), ["its output", TITLE, "its tear-down"]),
        (("--tb=short", "-q"), ["its output", TITLE, "its tear-down"]),
        (("--tb=no", "-rA"), []),
    ],
    ids=" ".join,
)
def test_output_may_be_hidden_and_the_world_is_shown(
    tmp_path: Path, options: tuple[str, ...], expected: list[str]
) -> None:
    """By ``--show-capture``; ``--tb=no`` hides both. What tear-down printed came later."""
    result = run_source(tmp_path, PRINTS, *options)
    assert re.findall(rf"its output|its tear-down|{TITLE}", result.stdout) == expected, result.text


@NEEDS_NAMESPACES
@needs("pytest-xdist", "pytest-html", "pytest-metadata")
def test_from_a_worker_it_is_coloured_and_in_files_plain(tmp_path: Path) -> None:
    """xdist's controller has the colours; junit's file and pytest-html's have none."""
    names = ("xdist", "pytest_html.fixtures", "pytest_html.plugin", "pytest_metadata.plugin")
    result = run_source(
        tmp_path,
        TWO,
        *(option for name in names for option in ("-p", name)),
        *("-n", "2", "--color=yes", "--junitxml=junit.xml"),
        *("--html=report.html", "--self-contained-html"),
    )
    assert_coloured(result.stdout)

    cases = ElementTree.parse(tmp_path / "junit.xml").iter("testcase")
    failures = {case.get("name"): case.findtext("failure") or "" for case in cases}
    expected = "2 processes:\n  PID  PPID  STATE    UID  AGE  COMMAND\n  1    0     running"
    assert expected in section_of(failures["test_fails"])
    assert [name for name, text in failures.items() if TITLE in text] == ["test_fails"]

    page = (tmp_path / "report.html").read_text("utf-8")
    found = re.search(r'data-jsonblob="([^"]*)"', page)
    assert found is not None
    (entry,) = json.loads(html.unescape(found[1]))["tests"]["test_it.py::test_fails"]
    assert expected in html.unescape(entry["log"])


@NEEDS_NAMESPACES
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--nsisolate-postmortem=none",), []),
        (("-o", "nsisolate_postmortem=all", "--nsisolate=all"), ["test_fails", "test_unmarked"]),
    ],
    ids=["none", "all"],
)
def test_the_option_and_the_ini_key_choose(
    tmp_path: Path, options: tuple[str, ...], expected: list[str]
) -> None:
    """``none`` of the failed tests, or ``all`` that are isolated; ``marked`` is the default."""
    result = run_source(tmp_path, TWO, *options)
    shown = [r["nodeid"].partition("::")[2] for r in result.reports if TITLE in r["text"]]
    assert shown == expected


def test_a_bad_choice_is_a_usage_error(tmp_path: Path) -> None:
    """Named by its key."""
    result = run_suite(write_files(tmp_path, {"test_it.py": TWO}), "-o", "nsisolate_postmortem=x")
    assert result.returncode == 4
    assert "ini key nsisolate_postmortem: 'x' is not one of marked, all, none" in result.stderr


# Time --------------------------------------------------------------------------------------------


def test_the_budget_rests_meanwhile() -> None:
    """And goes on afterwards, unless it was set anew; somebody at a prompt keeps it stopped."""
    clock = deadline.Deadline(100)

    def left() -> float:
        return -1 if clock.left is None else clock.left

    with clock.resting():
        assert left() == -1
    assert 99 < left() <= 100

    with clock.resting():
        clock.set(5)
    assert 0 < left() <= 5

    with clock.resting():
        clock.pause()
    assert left() == -1
    clock.resume()
    assert 0 < left() <= 5

    unlimited = deadline.Deadline(None)
    with unlimited.resting():
        pass
    assert unlimited.left is None


SLOW = """
import os, pytest, time
from pytest_nsisolate.view.postmortem import at_failure

@pytest.fixture
def blocked(monkeypatch):
    # It takes so much longer than the budget that it would be over.
    original = at_failure.PostMortem.examine
    def examine(*args, **kwargs):
        time.sleep(1.7)
        return original(*args, **kwargs)
    monkeypatch.setattr(at_failure.PostMortem, "examine", examine)

@pytest.mark.isolated(timeout=1.5)
def test_in_time(blocked): assert 0

@pytest.mark.isolated
def test_dies_meanwhile(monkeypatch):
    monkeypatch.setattr(at_failure.PostMortem, "examine", lambda *args, **kwargs: os._exit(3))
    assert 0

@pytest.mark.isolated
def test_one_reading_is_slow(monkeypatch):
    from pytest_nsisolate.kernel import proc
    original = proc.pids
    def slow():
        monkeypatch.setattr(at_failure, "monotonic", lambda: time.monotonic() + 10)
        return original()
    monkeypatch.setattr(proc, "pids", slow)
    assert 0
"""


@NEEDS_NAMESPACES
def test_a_failure_is_told_whatever_becomes_of_the_view(tmp_path: Path) -> None:
    """Not as a timeout when the view takes long, and not as an exit when the test ends there."""
    result = run_source(tmp_path, SLOW, "-p", "no:randomly")

    late = result.of("test_in_time")
    assert [r["outcome"] for r in late] == ["passed", "failed", "passed"], result.text
    assert "assert 0" in result.failure("test_in_time")
    assert late[1]["duration"] < 1.6
    gone = [r["text"] for r in result.of("test_dies_meanwhile") if r["outcome"] == "failed"]
    assert gone[0].endswith("the view could not be read: the test's process has ended")
    assert "isolated test ended in teardown: exit status 3" in gone[1]
    slow = view_of(result, "test_one_reading_is_slow")
    lines = ["listening sockets", "network", "mounts added by the test", "limits"]
    not_read = [f"{part}: not read, the others took more than 0 s" for part in lines]
    assert slow.splitlines() == ["no other processes", *not_read]


def test_limits_are_told_when_they_can_be_shown() -> None:
    """Something is nearly used up, or the failure says so."""
    calm = limits.lines(frozenset(), 100_000, own_pids=False, own_ipc=False)
    assert calm == []
    (full,) = limits.lines(frozenset({errno.EMFILE}), 100_000, own_pids=False, own_ipc=False)
    assert re.fullmatch(r"open files: \d+ of 100000 \(RLIMIT_NOFILE\)", full)
    near = limits.lines(frozenset(), 3, own_pids=False, own_ipc=False)
    assert near[0].endswith("of 3 (RLIMIT_NOFILE)")
    busy = limits.lines(frozenset({errno.EAGAIN}), 100_000, own_pids=True, own_ipc=False)
    assert re.match(r"processes and threads: [1-9]\d* of \d+ \(kernel.pid_max\)", busy[0])
