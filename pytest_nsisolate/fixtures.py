# SPDX-License-Identifier: MIT
"""The fixtures that tests ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_nsisolate.runner.run import RUN
from pytest_nsisolate.view.origin import make_view

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_nsisolate.isolate.fixture import Isolate
    from pytest_nsisolate.testbed.bed import Testbed
    from pytest_nsisolate.view import Pid1View

_NOT_ISOLATED = """\
the pid1 fixture shows an isolated test its own world, and {name} is not isolated: \
mark it with @pytest.mark.isolated"""

_NOT_ISOLATED_TESTBED = """\
the testbed fixture builds hosts inside of an isolated test, and {name} is not isolated: \
mark it with @pytest.mark.isolated"""

_UNSAFE = " (marked tests run on the host here, because of --nsisolate=none --nsisolate-unsafe)"


@pytest.fixture
def pid1(request: pytest.FixtureRequest) -> Pid1View:
    """What PID 1 sees, as data and assertions: a Pid1View (isolated tests only).

    Data is read from the kernel when you ask for it, and cannot be changed:
      processes    pid processes process_tree zombies orphans leftovers
      network      interfaces routes sockets listening connections
      files, IPC   mounts ipc
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
      files        assert_mounted assert_not_mounted
      all of it    assert_no_leak(before)
      the test     assert_pid1 assert_isolated assert_hostname assert_capability
                   assert_no_capability assert_id_map

    Signatures: python -m pydoc pytest_nsisolate.Pid1View
    Each assertion with its message:
    docs/howto/assertions.md of pytest-nsisolate
    """
    run = request.config.stash[RUN]
    if run.in_child is None:
        text = _NOT_ISOLATED.format(name=request.node.name)
        pytest.fail(text + (_UNSAFE if run.settings.unsafe else ""), pytrace=False)
    assert run.request is not None
    return make_view(run.request, run.home, run.helpers)


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
    from pytest_nsisolate.isolate.fixture import custody_of, make

    made = make(request.config, run)
    yield made
    request.config.pluginmanager.unregister(custody_of(made))


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
