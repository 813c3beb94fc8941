# SPDX-License-Identifier: MIT
"""pytest's hooks and the fixtures, and nothing else.

A hook reads what it needs and makes one call. What only an isolated test needs is imported when
there is one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_nsisolate.request.marker import MARKER_LINE
from pytest_nsisolate.request.options import add_options, read_settings
from pytest_nsisolate.runner import hookspecs, summary
from pytest_nsisolate.runner.run import RUN, SHOWN, Run
from pytest_nsisolate.runner.surroundings import make_launcher
from pytest_nsisolate.view.origin import make_view

if TYPE_CHECKING:
    from pytest_nsisolate.isolate.fixture import Isolate
    from pytest_nsisolate.testbed.bed import Testbed
    from pytest_nsisolate.view import Pid1View
    from pytest_nsisolate.view.terminal.terminal import Terminal

_NOT_ISOLATED = """\
the pid1 fixture shows an isolated test its own world, and {name} is not isolated: \
mark it with @pytest.mark.isolated"""

_NOT_ISOLATED_TESTBED = """\
the testbed fixture builds hosts inside of an isolated test, and {name} is not isolated: \
mark it with @pytest.mark.isolated"""

_NOT_SHARED_TESTBED = """\
the module_testbed fixture is set up in a world that the tests of {name} share, as an argument of \
a test or of a module fixture: pytestmark = pytest.mark.isolated(share="module")"""

_NOT_ISOLATED_TERMINAL = """\
the terminal fixture is for isolated tests, and {name} is not isolated: \
mark it with @pytest.mark.isolated"""

_UNSAFE = " (marked tests run on the host here, because of --nsisolate=none --nsisolate-unsafe)"


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    summary.refuse_namesake(config)
    config.addinivalue_line("markers", MARKER_LINE)
    config.stash[RUN] = Run(config, read_settings(config), make_launcher(config))
    summary.register_extras(config, config.stash[RUN])


def pytest_unconfigure(config: pytest.Config) -> None:
    run = config.stash.get(RUN, None)
    if run is not None:
        summary.say_last_words(config, run)
        run.close()


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    return summary.run_doctor() if config.getoption("--nsisolate-doctor") else None


def pytest_report_header(config: pytest.Config) -> str:
    return summary.header(config.stash[RUN])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # First, so that a bad marker is named also where -k or -m deselects its test.
    summary.check_markers(config, config.stash[RUN], items)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    # First, before a worker of pytest-xdist tells that it is ready for tests.
    # Again, because conftests add markers and items in pytest_collection_modifyitems.
    summary.take_requests(session.config, session.config.stash[RUN], session.items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    summary.gather(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[RUN].notes.take_over(node)
    summary.raise_for_worker(node)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    run = session.config.stash[RUN]
    summary.arrange_reports(session.config, run)
    if not summary.can_isolate(session.config, run):
        try:
            return (yield)
        finally:
            run.close()
    from pytest_nsisolate.runner import hooks

    with hooks.registered(session, run):
        return (yield)


def pytest_runtest_makereport(item: pytest.Item) -> pytest.TestReport | None:
    return item.stash.get(SHOWN, None)


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    return summary.explain_comparison(op, left, right)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    summary.summarize(terminalreporter, config.stash[RUN])


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    # pytest-timeout's own timers would fire in the runner, or start a thread in it.
    run = item.config.stash[RUN]
    if item not in run.requests:
        return None
    run.budgets[item] = float(settings.timeout)
    return True


# Fixtures -----------------------------------------------------------------------------------------


@pytest.fixture
def pid1(request: pytest.FixtureRequest) -> Iterator[Pid1View]:
    """What PID 1 sees, as data and assertions: a Pid1View (isolated tests only).

    Data is read from the kernel when you ask for it, and cannot be changed:
      processes    pid processes process_tree zombies orphans leftovers
      network      interfaces routes sockets listening connections
      files, IPC   mounts ipc files
      the test     namespaces host_namespaces isolated hostname uid_map gid_map
                   capabilities seccomp no_new_privs limits clock_offsets
                   cgroup cgroups environment
      a process    capabilities_of(process) environment_of(process)
      all of it    snapshot(), and what has changed: pid1.snapshot() - before

    Assertions say what was expected and what was seen. Many have within=, the
    seconds to wait for it:
      processes    assert_process assert_no_process assert_daemon assert_alone
                   assert_no_zombies assert_no_leftovers
      signals      assert_dies assert_survives
      sockets      assert_listening assert_not_listening assert_stays_closed
      network      assert_interfaces assert_interface assert_route
                   assert_no_route_to
      files        assert_mounted assert_not_mounted assert_files
                   assert_unchanged
      all of it    assert_no_leak(before)
      the test     assert_pid1 assert_isolated assert_hostname assert_capability
                   assert_no_capability assert_id_map

    System calls that fail or take long, in the test and what it starts:
      fail         with pid1.fail("fsync", "EIO", path="/var/*", times=1): ...
      delay        with pid1.delay("connect", 2.0): ...

    What the test sends to itself, lost, late, or otherwise:
      loopback     pid1.loopback.impair(delay=.02, loss=.1), drop(match),
                   hold(), release(), clear(), counts

    Signatures: python -m pydoc pytest_nsisolate.Pid1View
    Each assertion with its message:
    docs/howto/assertions.md of pytest-nsisolate
    """
    run = request.config.stash[RUN]
    if run.in_child is None:
        text = _NOT_ISOLATED.format(name=request.node.name)
        pytest.fail(text + (_UNSAFE if run.settings.unsafe else ""), pytrace=False)
    assert run.request is not None
    from pytest_nsisolate.testbed.loopback import offered

    outgoing = run.in_child.outgoing
    with offered(request.config, run) as lo:
        view = make_view(run.request, run.home, lo.helpers, outgoing, run.settled, lo)
        yield view
        view._end_faults()


@pytest.fixture(scope="session")
def isolate(request: pytest.FixtureRequest) -> Iterator[Isolate]:
    """Call functions in fresh children, in any test: isolate(func); an Isolate.

      isolate(func, *args, **kwargs)      the function's value, or its exception
      isolate.using(net=True, timeout=5)  an Isolate, by keywords of the marker
      isolate.start(func, ...)            a Task: result(timeout=None), done(),
                                          wait(seconds), kill(), await
      isolate.open()                      a Box: run(func), start(func),
                                          command(["ip", "link"]), close()

    Signatures: python -m pydoc pytest_nsisolate.Isolate (and .Task, .Box)
    Examples: docs/howto/isolate.md of pytest-nsisolate
    """
    run = request.config.stash[RUN]
    if run.settings.mode == "none":
        from pytest_nsisolate.runner.summary import LEFT_OUT

        pytest.skip(LEFT_OUT)
    if not run.launcher.host.linux:
        from pytest_nsisolate.runner.elsewhere import RefusingIsolate

        yield cast("Isolate", RefusingIsolate(run, {}))
        return
    from pytest_nsisolate.isolate.fixture import custody_of, make

    made = make(request.config, run)
    yield made
    request.config.pluginmanager.unregister(custody_of(made))


@pytest.fixture
def terminal(request: pytest.FixtureRequest) -> Iterator[Terminal]:
    """A window with a program in it: type, press keys, look; a Terminal.

      the program  start(args, env=None, cwd=None) wait(within) process hangup()
                   close()
      the person   type("ls\\n") press("ctrl-c", "up") resize(rows, columns)
      the screen   screen assert_screen(text, within=) assert_no_echo() output
                   describe()

    Signatures: python -m pydoc pytest_nsisolate.Terminal
    Examples: docs/howto/terminal.md of pytest-nsisolate
    """
    from pytest_nsisolate.view.terminal.terminal import OWN_TERMINAL, LastScreen, Terminal, missing

    run = request.config.stash[RUN]
    if run.in_child is None:
        text = _NOT_ISOLATED_TERMINAL.format(name=request.node.name)
        pytest.fail(text + (_UNSAFE if run.settings.unsafe else ""), pytrace=False)
    if why := missing():
        pytest.fail(why, pytrace=False)
    own = request.node.stash.get(OWN_TERMINAL, None)
    if own is not None:
        own.show()
        yield own
        return
    made = Terminal()
    shown = LastScreen(request.node, made)
    request.config.pluginmanager.register(shown)
    yield made
    request.config.pluginmanager.unregister(shown)
    made.close()


@pytest.fixture
def testbed(request: pytest.FixtureRequest, isolate: Isolate) -> Iterator[Testbed]:
    """Several hosts in one isolated test, and wires between them: a Testbed.

      networks     lan = testbed.network("10.0.0.0/24", "fd00::/64")
      hosts        a = testbed.host("a", lan), testbed.router("r", lan, wan)
      a command    a.run("ping -c1 b"), a.shell("ip route | wc -l")
      a program    with b.start("nginx", ready=80) as program: log, status,
                   running(), wait(), stop(), kill(), send_signal()
      a function   a.call(func, *args)
      what it sees a.view.assert_listening(80): all that pid1 has
      power        b.crash(), b.boot()
      a wire       b.wire.impair(delay=.02, loss=.1), drop(match), hold(),
                   release(), cut(), mend(), clear()
      all wires    testbed.partition({a}, {b}), testbed.heal()
      packets      testbed.capture(b).count(tcp_port=80)

    Signatures: python -m pydoc pytest_nsisolate.Testbed (and .Host, .Wire)
    Examples: docs/howto/testbed.md of pytest-nsisolate
    """
    run = request.config.stash[RUN]
    if run.in_child is None:
        text = _NOT_ISOLATED_TESTBED.format(name=request.node.name)
        pytest.fail(text + (_UNSAFE if run.settings.unsafe else ""), pytrace=False)
    assert run.request is not None
    from pytest_nsisolate.testbed.fixture import obstacle, opened

    if why := obstacle(run.request):
        text = "the testbed fixture builds hosts inside of an isolated test, and "
        pytest.fail(f"{text}{request.node.name} {why}", pytrace=False)

    name, keep = request.node.nodeid, run.settings.pcap
    with opened(request.config, isolate, run.home, name=name, keep=keep) as made:
        yield made


@pytest.fixture(scope="module")
def module_testbed(request: pytest.FixtureRequest, isolate: Isolate) -> Iterator[Testbed]:
    """A testbed that all tests of a module use, with share="module": a Testbed.

    A module fixture makes networks, hosts and what always runs there, once:
      lan = module_testbed.network("10.0.0.0/24")
      a, b = module_testbed.host("a", lan), module_testbed.host("b", lan)
      b.start("nginx", ready=80)

    Tests use it as that of the fixture testbed. What a test starts and disturbs
    ends with it.

    Examples: docs/howto/testbed.md of pytest-nsisolate
    """
    run = request.config.stash[RUN]
    if run.keeper is None or run.in_child is not None:
        text = _NOT_SHARED_TESTBED.format(name=request.node.nodeid)
        pytest.fail(text + (_UNSAFE if run.settings.unsafe else ""), pytrace=False)
    from pytest_nsisolate.testbed import fixture, shared

    if why := fixture.obstacle(run.keeper.request):
        text = "the module_testbed fixture builds hosts inside of a world, and that of "
        pytest.fail(f"{text}{request.node.nodeid} {why}", pytrace=False)
    keep = run.settings.pcap
    with shared.opened(request.config, isolate, run.home, run.keeper, keep) as made:
        yield made
