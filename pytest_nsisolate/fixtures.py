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
    from pytest_nsisolate.view import Pid1View

_NOT_ISOLATED = """\
the pid1 fixture shows an isolated test its own world, and {name} is not isolated: \
mark it with @pytest.mark.isolated"""

_UNSAFE = " (marked tests run on the host here, because of --nsisolate=none --nsisolate-unsafe)"


@pytest.fixture
def pid1(request: pytest.FixtureRequest) -> Pid1View:
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
                                          kill(), await
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
