# SPDX-License-Identifier: MIT
"""The keeper of a world that tests share: it sets up the world's fixtures and forks the tests.

Fact: what a fixture gives may be any object, a socket or a thread's queue, and only a fork of the
process that has set it up has it.

Consequence: the keeper is a copy of the runner inside the namespaces, and does there what the
runner does for a test of its own: it goes through the item's protocol with every hook, sets up the
wider fixtures, and forks in the item's own ``setup``. The fork is an ordinary
:class:`~pytest_nsisolate.child.main.Child` from there on; the keeper's part of the phase is unwound
by :class:`Unwind`. Where the set-up does not come so far the test is forked at its end, so that it
tells of the failure itself.

PID 1 is an init, and the keeper its first child, because fixtures start programs: a keeper that is
PID 1 would have to reap every orphan, and would take the exit statuses of the fixtures' own
children.

A test's orphans become the init's children, those of the keeper's fixtures stay below it. So when a
test has ended, the init's new children and what is below them is what the test has left. It is
killed: the next test must not meet it.

What still fails: a daemon that a fixture's own process detaches while a test is at work is taken
for that test's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, NoReturn, Protocol

import pytest

from pytest_nsisolate.child import fixtures, inherited, output
from pytest_nsisolate.child.leftovers import LeftoverCheck
from pytest_nsisolate.child.main import Child
from pytest_nsisolate.child.outgoing import wish_to_end
from pytest_nsisolate.integrations import debuggers
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel import proc
from pytest_nsisolate.kernel.originals import (
    faulthandler,
    gc,
    of_the_suite,
    os,
    posix,
    random,
    select,
    signal,
    traceback,
)
from pytest_nsisolate.kernel.signals import stack_signal
from pytest_nsisolate.process import after_fork, launch, world
from pytest_nsisolate.process.channel import Output
from pytest_nsisolate.process.outcome import EXIT_REFUSED
from pytest_nsisolate.request.model import IsolationRequest
from pytest_nsisolate.wire import warnings
from pytest_nsisolate.wire.frames import FrameWriter, Kind

if TYPE_CHECKING:
    import _socket

    from pytest_nsisolate.integrations.coverage import Measurement
    from pytest_nsisolate.process.launcher import Launcher
    from pytest_nsisolate.runner.run import Run
    from pytest_nsisolate.view.postmortem.at_failure import PostMortem

#: Milliseconds between two looks at what a test has left, while that is being reaped.
_TURN_MS = 1


class Unwind(BaseException):
    """The keeper has done its part of a phase: unwinds what is left of it."""


class _Stays:
    """Stands for the next item, of which only the nodes above it are known."""

    def __init__(self, nodes: Sequence[object]) -> None:
        self._nodes = nodes

    def listchain(self) -> Sequence[object]:
        return self._nodes


class Guest(Protocol):
    """What a fixture has set up in the world, and each test may change."""

    def orphans(self) -> set[int]:
        """The processes there whose parents have ended."""

    def make_good(self) -> None:
        """A test has ended, in whichever way: this is as it was before.

        :raises BaseException: which ends the world.
        """


class KeeperHooks:
    """What stands for pytest's own loop over the phases, inside of every wrapper."""

    def __init__(self, act: Callable[[], NoReturn]) -> None:
        self._act = act

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self) -> None:
        self._act()


class Keeper:
    """The process that a world exists by.

    Made in the runner, just before the clone; it changes nothing there.

    :param opener: the item for which the world is opened.
    :param request: what this host gives of the request that all tests of the world agree on.
    :param files: where output goes.
    :param orders: where they come from, and the runner's end of that.
    :param make_launcher: gives what a fixture needs that isolates calls.
    :param open_post_mortem: gives what looks at the world if a test fails.
    """

    def __init__(
        self,
        opener: pytest.Item,
        request: IsolationRequest,
        run: Run,
        files: Output,
        orders: tuple[_socket.socket, int],
        measurement: Measurement | None,
        make_launcher: Callable[[pytest.Config], Launcher],
        open_post_mortem: Callable[[pytest.Item], PostMortem | None],
    ) -> None:
        self._opener = opener
        self.request = request
        self._run = run
        self._config = opener.config
        self._items = opener.session.items
        self._files = files
        self._orders, self._theirs = orders
        self._measurement = measurement
        self._make_launcher = make_launcher
        self._open_post_mortem = open_post_mortem
        self._redirection = output.Redirection(files, self._config)
        after_fork.wake_openssl()
        self._randomness = random.getstate()
        self._null = -1
        self._own: set[object] = set()
        self._seen: set[pytest.Item] = set()
        self._torn_down: set[pytest.Item] = set()
        self._orphans: set[int] = set()
        self.guests: list[Guest] = []
        self._last = opener
        self._following: pytest.Item | None = None
        self._act: Callable[[], None] = lambda: None
        #: Where what is told now goes: a test's wire, or the keeper's own.
        self._channel: FrameWriter
        self._end: world.TestEnd | None = None
        self._test = 0

    def run(self, writer: FrameWriter) -> NoReturn:
        """In the keeper: from its birth to the end of the world."""
        self._own_channel = self._channel = writer
        try:
            self._settle_in()
            writer.send_ready()
            while (received := world.receive(self._orders)) is not None:
                order, end = received
                if end is not None:
                    self._begin(order, end)
                    continue
                self._tear_down(order)
                if order.depth == 0:
                    after_fork.finish_multiprocessing()
                    break
        except BaseException as error:
            writer.send(Kind.BROKEN, {"text": "".join(traceback.format_exception(error))})
        finally:
            output.flush_streams()
            posix._exit(0)

    def _settle_in(self) -> None:
        run, opener = self._run, self._opener
        os.close(self._theirs)
        self._redirection.apply()
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._dump_faults_to(self._files)
        debuggers.mute()
        after_fork.end_twinship()
        after_fork.renew_thread_id()
        inherited.stay_visible()
        random.setstate(self._randomness)
        getattr(of_the_suite("warnings"), "filters")[:] = run.filters  # noqa: B009
        if run.jobs is not None:
            run.jobs.let_go_of_others()
        run.begin_as_keeper(self, self._make_launcher(self._config))
        if self._measurement is not None:
            self._measurement.settle_in(lambda data: self._channel.send(Kind.COVERAGE, data))
        # The runner is in the middle of the opener's set-up, with a setup of its own for it.
        vars(opener).pop("setup", None)
        internals.begin_stack_anew(opener)
        internals.setup_stack(opener).pop(opener, None)
        hooks = KeeperHooks(self._act_now)
        self._config.pluginmanager.register(hooks, "nsisolate-keeper")

    def _dump_faults_to(self, files: Output) -> None:
        faulthandler.enable(file=files.fault)
        faulthandler.register(stack_signal(), file=files.fault, all_threads=True)

    def _act_now(self) -> NoReturn:
        warnings.divert(lambda data: self._channel.send(Kind.WARNING, data))
        self._act()
        raise Unwind

    def _protocol(self, item: pytest.Item, act: Callable[[], None]) -> None:
        """Inside of every wrapper of the item's protocol.

        :raises BaseException: what ends the session, or comes of a broken hook.
        """
        self._act = act
        with suppress(Unwind):
            item.ihook.pytest_runtest_protocol(item=item, nextitem=self._following)

    # A test ---------------------------------------------------------------------------------------

    def _begin(self, order: world.Order, end: world.TestEnd) -> None:
        self._last = item = self._items[order.item]
        self._following = None if order.following < 0 else self._items[order.following]
        self._end, self._channel, self._test = end, end.writer, 0
        if item in self._seen:
            internals.begin_request_anew(item)
            internals.forget_failed(item)
        self._seen.add(item)
        self._torn_down = set()
        # The time of the machinery is over: the world's fixtures have the test's.
        end.writer.send_ready()
        self._dump_faults_to(end.files)
        try:
            self._protocol(item, self._set_up_phase)
        except BaseException as error:
            self._give_up(end, error)
        if self._test:
            self._attend(end)
            for guest in self.guests:
                guest.make_good()
        else:
            end.tell(b"S", 0)
        internals.setup_stack(item).pop(item, None)  # what it has to tear down is the test's
        self._dump_faults_to(self._files)
        self._channel, self._end = self._own_channel, None
        end.close()

    def _set_up_phase(self) -> None:
        internals.call_and_report(self._last, "setup", log=False)

    def set_up(self, item: pytest.Item) -> None:
        """Every set-up hook and every collector has had its turn: the item's own ``setup``.

        Returns in the test.
        """
        request = self._run.requests[item]
        for name in fixtures.of_world(item, request):
            internals.forget_inherited(item, name, self._own)
        theirs = frozenset(fixtures.of_runner(item, request))
        fixtures.set_up_higher_scopes(item, theirs, before=lambda: None)
        self._fork(item)

    def end_setup(self, item: pytest.Item) -> None:
        """The set-up phase is over; without a test if it has failed here. Returns in the test."""
        if self._test:
            raise Unwind
        self._fork(item)
        assert self._run.in_child is not None
        self._run.in_child.in_phase = False  # its hooks are over

    def _fork(self, item: pytest.Item) -> None:
        """Returns in the test.

        :raises Unwind: in the keeper.
        """
        end = self._end
        assert end is not None
        if self._measurement is not None:
            self._measurement.hand_over()
        settled = frozenset(proc.pids())
        orphans = _orphans(self.guests)
        child, measurement = self._make_child(item, end, settled)
        output.move_to(end.files, self._config)
        output.flush_to_terminal(self._config)
        if internals.fault_timeout(self._config) > 0:
            faulthandler.cancel_dump_traceback_later()
        after_fork.keep_tracker(True)
        with nullcontext() if measurement is None else measurement.cloning():
            pid = launch.fork()
        if pid == 0:
            self._become_test(child, end, settled)
            return
        after_fork.keep_tracker(False)
        if self._run.trace is not None:
            self._run.trace.forget()
        self._test, self._orphans = pid, orphans
        output.forget_moved(self._config)
        raise Unwind

    def _make_child(
        self, item: pytest.Item, end: world.TestEnd, settled: frozenset[int]
    ) -> tuple[Child, Measurement | None]:
        run = self._run
        leftovers = run.requests[item].leftovers
        measurement = run.measurement()
        child = Child(
            item,
            self._following,
            end.files,
            inside=frozenset(),
            own_pid=False,
            leftover_check=LeftoverCheck(item, leftovers, own_pid=True, init=True, settled=settled),
            turns=run.turns,
            measurement=measurement,
        )
        child.outgoing.post_mortem = self._open_post_mortem(item)
        return child, measurement

    def _become_test(self, child: Child, end: world.TestEnd, settled: frozenset[int]) -> None:
        collecting = gc.isenabled()
        try:
            gc.disable()
            gc.freeze()
            os.setsid()
            for fd in (self._orders.fileno(), self._own_channel.descriptor, end.control):
                os.dup2(self._null, fd, inheritable=False)
            after_fork.settle_helpers(own_ipc=False)
            if collecting:
                gc.enable()
            self._run.in_child, self._run.request = child, self.request
            self._run.settled = settled
        except BaseException as error:
            end.writer.send(Kind.BROKEN, {"text": "".join(traceback.format_exception(error))})
            posix._exit(EXIT_REFUSED)
        child.settle_in(end.writer)

    def _give_up(self, end: world.TestEnd, error: BaseException) -> None:
        """Before there is a test: an exception ends the session, or a hook is broken."""
        if self._test:
            return
        wish = wish_to_end(error)
        if wish is None:
            text = "".join(traceback.format_exception(error))
            end.writer.send(Kind.BROKEN, {"text": text})
            return
        end.writer.send(Kind.EXIT, wish)
        end.writer.send(Kind.DONE, {"phases": [], "alone": False})

    def _attend(self, end: world.TestEnd) -> None:
        """As a supervisor, until the test and all that it has left has ended."""
        pidfd = os.pidfd_open(self._test)
        end.tell(b"P", self._test)
        waiter = select.poll()
        waiter.register(pidfd, select.POLLIN)
        waiter.poll()
        os.close(pidfd)
        # The runner opens its own pidfd of this number first: until then it must not be reused.
        end.await_word()
        try:
            _, status = os.waitpid(self._test, 0)
        except ChildProcessError:
            status = 0  # a fixture waits for any child
        _end_what_is_left(self._orphans, self.guests)
        end.tell(b"S", status)

    # The end --------------------------------------------------------------------------------------

    def _tear_down(self, order: world.Order) -> None:
        """The fixtures of nodes that have no further test."""
        item = self._last
        stays = self._items[order.item].listchain()[: order.depth]
        frame: dict[str, object] = {}

        def act() -> None:
            if item in self._torn_down:
                internals.log_once_more(item)
            self._torn_down = {item}
            frame.update(_torn_down(item, stays))

        self._following = None
        self._protocol(item, act)
        if self._measurement is not None:
            self._measurement.hand_over()
        self._own_channel.send(Kind.RESULT, frame)


def _torn_down(item: pytest.Item, stays: Sequence[object]) -> dict[str, object]:
    """Tear down all but these nodes: what was written meanwhile, and the error."""
    before = len(internals.report_sections(item))
    following = _Stays(stays) if stays else None
    call = pytest.CallInfo.from_call(
        lambda: internals.tear_down_runner(item, following),  # type: ignore[arg-type]
        when="teardown",
    )
    report = pytest.TestReport.from_item_and_call(item, call)
    frame: dict[str, object] = {"texts": internals.report_sections(item)[before:]}
    if call.excinfo is not None:
        frame |= {"error": call.excinfo.exconly(), "trace": report.longreprtext}
    return frame


def _orphans(guests: Sequence[Guest]) -> set[int]:
    return {*proc.children_of(1)}.union(*(guest.orphans() for guest in guests))


def _end_what_is_left(orphans: set[int], guests: Sequence[Guest]) -> None:
    """End what the test has left.

    :param orphans: what was there of the kind before the test.
    """
    nothing = select.poll()
    while left := _orphans(guests) - orphans:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        nothing.poll(_TURN_MS)
