# SPDX-License-Identifier: MIT
"""What the plugin keeps for one run of pytest, under one stash key.

Everything is made, and most of the package imported, when the first isolated test needs it, so
that a run without one pays nothing.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest

from pytest_nsisolate import pytest_internals as internals
from pytest_nsisolate.errors import failing
from pytest_nsisolate.host import Host, examine
from pytest_nsisolate.remarks import Remarks

if TYPE_CHECKING:
    from pytest_nsisolate.calls.custody import Charge
    from pytest_nsisolate.channel import Shared
    from pytest_nsisolate.child import Child
    from pytest_nsisolate.coverage import Measurement
    from pytest_nsisolate.host.probe import HostCheck
    from pytest_nsisolate.kernel.idmap import IdMaps
    from pytest_nsisolate.kernel.mounts import MountPlan
    from pytest_nsisolate.limits.enforcer import Enforcer
    from pytest_nsisolate.live import Turns
    from pytest_nsisolate.mount_plans import MountPlans
    from pytest_nsisolate.request import IsolationRequest
    from pytest_nsisolate.settings import Settings
    from pytest_nsisolate.supervise import Attempt
    from pytest_nsisolate.warden import Warden


#: Where wardens die, no other is started: each may have cost a test.
_MOST_LOST: Final = 2


@dataclass(slots=True)
class Run:
    """State of one run.

    :param requests: what each collected item asked for; absent: not isolated.
    :param current: the attempt whose child is at work.
    :param outstanding: a child that finished alone and has not been reaped yet; one at most.
    :param child: in a child, and only there: its side of things.
    :param nextitem: what pytest is going to run after the current item.
    :param request: in a child: what its test asked for.
    :param unfinished: called when the last report has been logged: somebody is at a prompt inside.
    :param budgets: seconds that another plugin's timeout gives an item.
    :param keeps_calls: another plugin reads a phase's exception after its report.
    :param home: the runner's namespaces.
    :param remarks: what cannot be the same in isolated tests, as far as it was noticed.
    :param stopping: what Ctrl-Z does while there is a current attempt.
    :param nested: not the runner's, but of a child that isolates calls of its own.
    :param tasks: the calls by ``isolate`` that are at work.
    :param calls_lock: held while a call forks, and while one closes what it holds of its child.
    :param last_words: what isolated tests have written at the end of their processes.
    :param first_mounts: by a plan's id: the plan, and what is mounted when it has been followed.
    """

    settings: Settings
    requests: dict[pytest.Item, IsolationRequest] = field(default_factory=dict)
    current: Attempt | None = None
    outstanding: Attempt | None = None
    child: Child | None = None
    nextitem: pytest.Item | None = None
    request: IsolationRequest | None = None
    unfinished: Callable[[], None] | None = None
    budgets: dict[pytest.Item, float] = field(default_factory=dict)
    keeps_calls: bool = False
    home: Mapping[str, int] = field(default_factory=dict)
    remarks: Remarks = field(default_factory=Remarks)
    stopping: ExitStack = field(default_factory=ExitStack)
    nested: bool = False
    tasks: list[Charge] = field(default_factory=list)
    calls_lock: threading.RLock = field(default_factory=threading.RLock)
    last_words: list[tuple[str, str]] = field(default_factory=list)
    first_mounts: dict[int, tuple[MountPlan, str]] = field(default_factory=dict)
    _host: Host | None = None
    _host_check: HostCheck | None = None
    _capabilities: tuple[int, int] | None = None
    _shared: Shared | None = None
    _mount_plans: MountPlans | None = None
    _maps: IdMaps | None = None
    _warden: Warden | None = None
    _wardens_lost: int = 0
    _measurement: Measurement | None = None
    _turns: Turns | None = None
    _enforcer: Enforcer | None = None

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
            from pytest_nsisolate.host.probe import HostCheck

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
            from pytest_nsisolate.mount_plans import MountPlans

            self._mount_plans = MountPlans()
        return self._mount_plans

    @property
    def turns(self) -> Turns:
        """The word that a child waits for where both sides write to the terminal.

        :raises OSError: when no descriptor is left.
        """
        if self._turns is None:
            from pytest_nsisolate.live import Turns

            self._turns = Turns()
        return self._turns

    @property
    def enforcer(self) -> Enforcer:
        """What holds the limits of tests; made for the first test that has any."""
        if self._enforcer is None:
            from pytest_nsisolate.limits.enforcer import Enforcer

            self._enforcer = Enforcer(self.host)
        return self._enforcer

    def identity_maps(self) -> IdMaps:
        """The runner's own ids one to one; they cannot change during a run."""
        if self._maps is None:
            from pytest_nsisolate.kernel import idmap

            self._maps = idmap.identity_maps()
        return self._maps

    def shared(self, config: pytest.Config, *, warden: bool = False) -> Shared:
        """Descriptors that all children inherit; made, with all preloading, at the first use.

        :param warden: whether one may be started, for this child and those that come.
        :raises StepError: when there is no descriptor left, or no pidfd on this kernel.
        """
        from pytest_nsisolate import kernel, launch
        from pytest_nsisolate.channel import Shared

        if self._shared is None:
            kernel.preload()
            try:
                internals.create_base_temp(config)
            except OSError:
                pass  # tmp_path will say so in the test that asks for it, as in plain pytest
            with failing("open what all children share", None):
                foreign = (*_execnet_descriptors(config), self.mount_plans.watched)
                null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                try:
                    runner = os.pidfd_open(os.getpid())
                except OSError:
                    os.close(null)
                    raise
            self._shared = Shared(null, runner, foreign)
        if self._warden is not None and not self._warden.is_alive():
            self._dismiss_warden()
            self._wardens_lost += 1
        few = self._wardens_lost < _MOST_LOST
        if warden and self._warden is None and few and launch.has_one_task():
            self._start_warden()
        return self._shared

    def _start_warden(self) -> None:
        from pytest_nsisolate import warden

        assert self._shared is not None
        self._warden = new = warden.spawn(self._shared.runner_pidfd)
        if new is not None:
            foreign = (*self._shared.foreign, new.pidfd)
            self._shared = dataclasses.replace(self._shared, warden=new.socket, foreign=foreign)

    def _dismiss_warden(self) -> None:
        if self._warden is not None:
            before, self._warden = self._warden, None
            before.dismiss()
            assert self._shared is not None
            foreign = tuple(fd for fd in self._shared.foreign if fd != before.pidfd)
            self._shared = dataclasses.replace(self._shared, warden=None, foreign=foreign)

    def end_own_children(self) -> None:
        """Before code of the suite runs in the runner: whom it waits for is its own. Bounded.

        ``os.wait()`` would block on the warden, and "kill all my children" would hit it.
        """
        self.bury_outstanding()
        self._dismiss_warden()

    def measurement(self, config: pytest.Config) -> Measurement | None:
        """What coverage measures in this runner, ready for a clone; None if nobody measures."""
        if "coverage" not in sys.modules:
            return None
        from pytest_nsisolate import coverage

        self._measurement = coverage.current(config, self._measurement)
        return self._measurement

    def held(self) -> tuple[int, ...]:
        """What the runner holds of a child that is not reaped yet; the next one must not."""
        held = [fd for task in self.tasks for fd in task.attempt.end.descriptors()]
        if self.outstanding is not None:
            held.append(self.outstanding.end.forked_pidfd)
        return tuple(held)

    def bury_outstanding(self) -> None:
        """Reap the child that was not waited for. Bounded."""
        if self.outstanding is not None:
            attempt, self.outstanding = self.outstanding, None
            attempt.bury()

    def close(self) -> None:
        """At the end of the run: nothing is left behind."""
        self.stopping.close()
        if self.current is not None:
            attempt, self.current = self.current, None
            attempt.kill()
            attempt.bury()
        self.bury_outstanding()
        for task in [*self.tasks]:
            task.end()
        if self._enforcer is not None:
            self._enforcer.close()
        self._dismiss_warden()
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
