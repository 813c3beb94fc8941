# SPDX-License-Identifier: MIT
"""What the plugin keeps for one run of pytest, under one stash key.

Everything is made, and most of the package imported, when the first isolated test needs it, so
that a run without one pays nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import pytest

from pytest_nsisolate.errors import failing
from pytest_nsisolate.host import Host, examine
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.originals import os, threading
from pytest_nsisolate.runner.notes import Notes

if TYPE_CHECKING:
    from pytest_nsisolate.child.main import Child
    from pytest_nsisolate.child.terminal import Turns
    from pytest_nsisolate.integrations.coverage import Measurement
    from pytest_nsisolate.isolate.per_process import PerProcess
    from pytest_nsisolate.isolate.unawaited import Awaitable
    from pytest_nsisolate.kernel.idmap import IdMaps
    from pytest_nsisolate.kernel.mounts import MountPlan
    from pytest_nsisolate.process.channel import Shared
    from pytest_nsisolate.process.child_process import ChildProcess
    from pytest_nsisolate.process.host_check import HostCheck
    from pytest_nsisolate.process.limit_mechanisms import LimitMechanisms
    from pytest_nsisolate.process.mount_plans import MountPlans
    from pytest_nsisolate.process.watchdog import Watchdog
    from pytest_nsisolate.request.options import Settings
    from pytest_nsisolate.request.resolve import IsolationRequest
    from pytest_nsisolate.runner.streams import StandardStreams


#: Where watchdogs die, no other is started: each may have cost a test.
_MOST_LOST: Final = 2


@dataclass(slots=True)
class Run:
    """State of one run.

    :param requests: what each collected item asked for; absent: not isolated.
    :param current: the attempt whose child is at work.
    :param outstanding: a child that finished alone and has not been reaped yet; one at most.
    :param in_child: in a child, and only there: its side of things.
    :param nextitem: what pytest is going to run after the current item.
    :param request: in a child: what its test asked for.
    :param unfinished: called when the last report has been logged: somebody is at a prompt inside.
    :param budgets: seconds that another plugin's timeout gives an item.
    :param keeps_calls: another plugin reads a phase's exception after its report.
    :param home: the runner's namespaces.
    :param remarks: what cannot be the same in isolated tests, as far as it was noticed.
    :param stopping: what Ctrl-Z does while there is a current attempt.
    :param calls: what the fixture ``isolate`` keeps, once it is set up.
    :param tasks: the calls by ``isolate`` that are at work.
    :param calls_lock: held while a call forks, and while one closes what it holds of its child.
    :param streams: what a test must not have changed.
    :param first_mounts: by a plan's id: the plan, and what is mounted when it has been followed.
    """

    settings: Settings
    requests: dict[pytest.Item, IsolationRequest] = field(default_factory=dict)
    current: ChildProcess | None = None
    outstanding: ChildProcess | None = None
    in_child: Child | None = None
    nextitem: pytest.Item | None = None
    request: IsolationRequest | None = None
    unfinished: Callable[[], None] | None = None
    budgets: dict[pytest.Item, float] = field(default_factory=dict)
    keeps_calls: bool = False
    home: Mapping[str, int] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)
    stopping: ExitStack = field(default_factory=ExitStack)
    calls: PerProcess | None = None
    tasks: list[Awaitable] = field(default_factory=list)
    calls_lock: threading.RLock = field(default_factory=threading.RLock)
    streams: StandardStreams | None = None
    first_mounts: dict[int, tuple[MountPlan, str]] = field(default_factory=dict)
    _host: Host | None = None
    _host_check: HostCheck | None = None
    _capabilities: tuple[int, int] | None = None
    _shared: Shared | None = None
    _mount_plans: MountPlans | None = None
    _maps: IdMaps | None = None
    _watchdog: Watchdog | None = None
    _watchdogs_lost: int = 0
    _measurement: Measurement | None = None
    _turns: Turns | None = None
    _limit_mechanisms: LimitMechanisms | None = None

    @property
    def host(self) -> Host:
        """The runner's standing on this machine, examined at the first use."""
        if self._host is None:
            self._host = examine()
        return self._host

    @property
    def host_check(self) -> HostCheck:
        """The verdicts on this host."""
        if self._host_check is None:
            from pytest_nsisolate.process.host_check import HostCheck

            self._host_check = HostCheck(self.host)
        return self._host_check

    @property
    def capabilities(self) -> tuple[int, int]:
        """The runner's permitted and bounding capabilities (capabilities(7)), as masks."""
        if self._capabilities is None:
            from pytest_nsisolate.kernel import process

            held = process.capabilities()
            self._capabilities = (held.permitted, held.bounding)
        return self._capabilities

    @property
    def mount_plans(self) -> MountPlans:
        """Which mounts a child makes; opened at the first use."""
        if self._mount_plans is None:
            from pytest_nsisolate.process.mount_plans import MountPlans

            self._mount_plans = MountPlans()
        return self._mount_plans

    @property
    def turns(self) -> Turns:
        """The word that a child waits for where both sides write to the terminal.

        :raises OSError: when no descriptor is left.
        """
        if self._turns is None:
            from pytest_nsisolate.child.terminal import Turns

            self._turns = Turns()
        return self._turns

    @property
    def limit_mechanisms(self) -> LimitMechanisms:
        """What holds the limits of tests; made for the first test that has any."""
        if self._limit_mechanisms is None:
            from pytest_nsisolate.process.limit_mechanisms import LimitMechanisms

            self._limit_mechanisms = LimitMechanisms(self.host)
        return self._limit_mechanisms

    def identity_maps(self) -> IdMaps:
        """The runner's own ids one to one; they cannot change during a run."""
        if self._maps is None:
            from pytest_nsisolate.kernel import idmap

            self._maps = idmap.identity_maps()
        return self._maps

    def preload(self, config: pytest.Config) -> None:
        """Import and make once what no child is to make; before a fixture can be in the way."""
        from pytest_nsisolate import kernel
        from pytest_nsisolate.process import host_check  # noqa: F401

        try:
            kernel.preload()
        except (ImportError, OSError):
            pass  # the host check says so
        try:
            internals.create_base_temp(config)
        except OSError:
            pass  # tmp_path will say so in the test that asks for it, as in plain pytest

    def shared(self, config: pytest.Config, *, watchdog: bool = False) -> Shared:
        """Descriptors that all children inherit; made, with all preloading, at the first use.

        :param watchdog: whether one may be started, for this child and those that come.
        :raises StepError: when there is no descriptor left, or no pidfd on this kernel.
        """
        from pytest_nsisolate.process import launch
        from pytest_nsisolate.process.channel import Shared

        if self._shared is None:
            self.preload(config)
            with failing("open what all children share", None):
                foreign = (*_execnet_descriptors(config), self.mount_plans.watched)
                null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                try:
                    runner = os.pidfd_open(os.getpid())
                except OSError:
                    os.close(null)
                    raise
            self._shared = Shared(null, runner, foreign)
        if self._watchdog is not None and not self._watchdog.is_alive():
            self._dismiss_watchdog()
            self._watchdogs_lost += 1
        few = self._watchdogs_lost < _MOST_LOST
        if watchdog and self._watchdog is None and few and launch.has_one_task():
            self._start_watchdog()
        return self._shared

    def _start_watchdog(self) -> None:
        from pytest_nsisolate.process import watchdog

        assert self._shared is not None
        self._watchdog = new = watchdog.spawn(self._shared.runner_pidfd)
        if new is not None:
            foreign = (*self._shared.foreign, new.pidfd)
            self._shared = replace(self._shared, watchdog=new.socket, foreign=foreign)

    def _dismiss_watchdog(self) -> None:
        if self._watchdog is not None:
            before, self._watchdog = self._watchdog, None
            before.dismiss()
            assert self._shared is not None
            foreign = tuple(fd for fd in self._shared.foreign if fd != before.pidfd)
            self._shared = replace(self._shared, watchdog=None, foreign=foreign)

    def end_own_children(self) -> None:
        """Before code of the suite runs in the runner: whom it waits for is its own. Bounded.

        ``os.wait()`` would block on the watchdog, and "kill all my children" would hit it.
        """
        self.reap_outstanding()
        self._dismiss_watchdog()

    def measurement(self, config: pytest.Config) -> Measurement | None:
        """What coverage measures in this runner, ready for a clone; None if nobody measures."""
        if "coverage" not in sys.modules:
            return None
        from pytest_nsisolate.integrations import coverage

        self._measurement = coverage.current(config, self._measurement)
        return self._measurement

    def held(self) -> tuple[int, ...]:
        """What the runner holds of a child that is not reaped yet; the next one must not."""
        held = [fd for task in self.tasks for fd in task.child.end.descriptors()]
        if self.outstanding is not None:
            held.append(self.outstanding.end.forked_pidfd)
        return tuple(held)

    def helpers(self) -> dict[int, str]:
        """Processes that this one's calls keep beside their functions, and what to call them."""
        return {} if self.calls is None else self.calls.helpers()

    def reap_outstanding(self) -> None:
        """Reap the child that was not waited for. Bounded."""
        if self.outstanding is not None:
            child, self.outstanding = self.outstanding, None
            child.reap()

    def close(self) -> None:
        """At the end of the run: nothing is left behind."""
        self.stopping.close()
        if self.current is not None:
            child, self.current = self.current, None
            child.kill()
            child.reap()
        self.reap_outstanding()
        for task in [*self.tasks]:
            task.end()
        if self._limit_mechanisms is not None:
            self._limit_mechanisms.close()
        self._dismiss_watchdog()
        if self._mount_plans is not None:
            self._mount_plans.close()
            self._mount_plans = None
        if self._turns is not None:
            self._turns.close()
            self._turns = None
        if self._shared is not None:
            os.close(self._shared.null)
            os.close(self._shared.runner_pidfd)
            self._shared = None


#: The state of a run; absent before ``pytest_configure`` and after ``pytest_unconfigure``.
RUN = pytest.StashKey[Run]()

#: The report that ``pytest_runtest_makereport`` gives the other plugins in the runner.
SHOWN = pytest.StashKey[pytest.TestReport | None]()


def _execnet_descriptors(config: pytest.Config) -> tuple[int, ...]:
    """In a worker of pytest-xdist: the pipe to the controller, which a child must not write to."""
    for plugin in config.pluginmanager.get_plugins():
        channel = getattr(plugin, "channel", None)
        io = getattr(getattr(channel, "gateway", None), "_io", None)
        files = (getattr(io, "infile", None), getattr(io, "outfile", None))
        found = tuple(file.fileno() for file in files if file is not None)
        if found:
            return found
    return ()
