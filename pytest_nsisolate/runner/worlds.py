# SPDX-License-Identifier: MIT
"""Worlds that tests share (``share=``), as the runner sees them.

A world is opened by the first of its tests that begins, and is a finalizer of its node
(:class:`~pytest_nsisolate.request.worlds.Place`): pytest ends it when a fixture of that scope would
end, as part of the tear-down of the same test, after ``-x`` and Ctrl-C too, and reports what its
finalizers raise there. So do the fixtures of narrower scopes in it.

All tests of a world inherit what stood when it was opened. So the first of them has the runner set
up what any of them needs of it.
"""

from __future__ import annotations

import sys
from _socket import socketpair  # pytest-socket forbids the one of the module above
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nsisolate.child import fixtures, output
from pytest_nsisolate.child.keeper import Keeper
from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.host.refusal import Refusal, RefusedError
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel import proc
from pytest_nsisolate.kernel.originals import os, select, socket
from pytest_nsisolate.process import outcome, world
from pytest_nsisolate.process.channel import STEP_SECONDS, Output, RunnerEnd
from pytest_nsisolate.request.model import IsolationRequest
from pytest_nsisolate.request.worlds import Place, agrees, place_of
from pytest_nsisolate.runner import reports
from pytest_nsisolate.runner.run import Run
from pytest_nsisolate.runner.surroundings import make_launcher
from pytest_nsisolate.view.postmortem import at_failure
from pytest_nsisolate.wire import warnings
from pytest_nsisolate.wire.frames import Kind
from pytest_nsisolate.wire.tagged_json import text_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_nsisolate.integrations.coverage import Measurement
    from pytest_nsisolate.process.child_process import ChildProcess
    from pytest_nsisolate.runner.attempt import Attempt
    from pytest_nsisolate.wire.frames import FrameWriter


class World:
    """A world that has begun.

    :param child: its keeper; this object ends it.
    :param request: what its tests agree on, as this host gives it.
    :param asked: the same, as they say it.
    :param inherited: what of the runner's fixtures its tests have, by definition.
    :param opened_at: the place of its first test in the session's list.
    """

    def __init__(
        self,
        place: Place,
        child: ChildProcess,
        request: IsolationRequest,
        asked: IsolationRequest,
        inherited: dict[Any, Any],
        measurement: Measurement | None,
        opened_at: int,
    ) -> None:
        self.place = place
        self.opened_at = opened_at
        self.child = child
        self.request = request
        self.asked = asked
        self.inherited = inherited
        self.nodes: set[object] = {place.node}
        self._measurement = measurement
        self._told = False
        assert child.end.pid1 is not None
        #: The keeper's number, as the runner sees it.
        (self.keeper,) = proc.children_of(child.end.pid1)
        self.keeper_pidfd = os.pidfd_open(self.keeper)

    @property
    def has_ended(self) -> bool:
        """Its keeper is gone, though nothing has ended it here."""
        waiter = select.poll()
        waiter.register(self.keeper_pidfd, select.POLLIN)
        over = bool(waiter.poll(0))
        return self.child.wait(STEP_SECONDS if over else 0) and self.child.outcome is not None

    def how_it_ended(self) -> str:
        """For the report of a test that this has hit."""
        self._told = True
        self.child.wait(STEP_SECONDS)
        ended = self.child.outcome
        match ended:
            case outcome.Crashed() | outcome.Exited() | outcome.Broken():
                text = outcome.describe(ended, phase="call")
                how = text.partition(": ")[2]
            case _:
                how = "its keeper has been killed"
        return f"the world that it shares by {self.place} has ended: {how}"

    def end_with_nodes_of(self, item: pytest.Item, place: int, budget: float | None) -> None:
        """Have the fixtures of narrower nodes, a class's, torn down with these."""
        chain = item.listchain()
        for depth, node in enumerate(chain[:-1]):
            if self.place.node in chain[:depth] and node not in self.nodes:
                self.nodes.add(node)
                node.addfinalizer(partial(self._end_node, node, place, depth, budget))

    def _end_node(self, node: object, place: int, depth: int, budget: float | None) -> None:
        self.nodes.discard(node)
        self.end_nodes_from(place, depth, budget)

    def end_nodes_from(self, place: int, depth: int, budget: float | None) -> None:
        """Have the fixtures in it torn down, but for those of so many nodes above a test.

        :raises pytest.fail.Exception: with what their finalizers have raised.
        """
        if self.child.reaped or self.has_ended:
            return
        world.give(self.orders, world.Order(b"E", place, depth=depth))
        self.child.deadline.set(budget)
        found = self._hear()
        self.child.deadline.set(None)
        if found is None:
            raise pytest.fail.Exception(
                f"{self.how_it_ended()}, before its fixtures were torn down", pytrace=False
            )
        self._write(reports.read_texts(found.get("texts")))
        if "error" in found:
            raise pytest.fail.Exception(
                f"in the world of {self.place}: {text_of(found['error'])}\n\n"
                f"{text_of(found.get('trace'))}",
                pytrace=False,
            )

    def close(self, place: int, worlds: dict[Place, World], budget: float | None) -> None:
        """End it, when its fixtures have been torn down.

        :raises pytest.fail.Exception: as :meth:`end_nodes_from`; also if it had ended before, and
            no test has been told.
        """
        if worlds.pop(self.place, None) is not self:
            return  # the run has ended before it
        try:
            if self.has_ended and not self._told:
                raise pytest.fail.Exception(
                    f"{self.how_it_ended()}, before its fixtures were torn down", pytrace=False
                )
            self.end_nodes_from(place, 0, budget)
        finally:
            os.close(self.keeper_pidfd)
            self.child.end_and_reap()

    @property
    def orders(self) -> int:
        assert self.child.end.word is not None
        return self.child.end.word

    def _hear(self) -> dict[str, Any] | None:
        """What the keeper says about a tear-down; None if it has ended instead."""
        while (frame := self.child.next_frame()) is not None:
            match frame.kind:
                case Kind.RESULT:
                    return frame.data
                case Kind.WARNING:
                    with suppress(KeyError, TypeError, ValueError):
                        warnings.replay(frame.data)
                case Kind.COVERAGE if self._measurement is not None:
                    self._measurement.merge(frame.data)
                case _:
                    self.child.lose(text_of(frame.data.get("text")))
        return None

    def _write(self, texts: reports.Sections) -> None:
        """What was captured there is captured here."""
        for _, kind, text in texts:
            stream = sys.stderr if kind == "stderr" else sys.stdout
            stream.write(text)


def close_all(run: Run) -> None:
    """The run ends before their nodes do: by Ctrl-C, or ``pytest.exit``.

    pytest would tear fixtures down later still, and has no report for their errors either.
    """
    for found in [*run.worlds.values()]:
        try:
            found.close(found.opened_at, run.worlds, found.asked.timeout)
        except pytest.fail.Exception as error:
            internals.write_line(run.config, f"nsisolate: {error.msg}")


def prepare(item: pytest.Item, run: Run, request: IsolationRequest) -> tuple[World | None, Place]:
    """Set up what the runner has to, and find the world of a test; None if it has to be opened.

    :raises BaseException: what a fixture raises, and if the test cannot be in its world any more.
    """
    place = place_of(item, request)
    assert place is not None, "checked at collection"
    # The same hooks write in the keeper, whose text counts.
    output.forget_moved(item.config)
    names = fixtures.of_runner(item, request)
    in_world = fixtures.of_world(item, request)
    fixtures.set_up_higher_scopes(item, in_world, before=run.end_own_children)
    found = run.worlds.get(place)
    if found is None:
        for other in _others(item, place, run):
            _set_up_early(other, run.requests[other])
        return None, place
    if found.has_ended:
        pytest.fail(found.how_it_ended(), pytrace=False)
    if not agrees(request, found.asked):
        text = f"isolated(share={place.name!r}): pytest_nsisolate_configure has made requests of it"
        pytest.fail(f"{text} that differ", pytrace=False)
    for definition, made in internals.instances(item, names).items():
        if found.inherited.get(definition) is not made:
            pytest.fail(
                f"isolated(share={place.name!r}): the fixture {definition.argname!r} was set up in "
                "the runner after the world had begun, and is not in it; name it by inside=",
                pytrace=False,
            )
    return found, place


def _others(item: pytest.Item, place: Place, run: Run) -> Iterator[pytest.Item]:
    for other, request in run.requests.items():
        if other is not item and request.share is not None and place_of(other, request) == place:
            if not getattr(other, "_request", True):
                internals.begin_request_anew(other)
            yield other


def _set_up_early(item: pytest.Item, request: IsolationRequest) -> None:
    """What fails or skips here does so again when the test has its turn, which reports it."""
    if internals.is_left_out(item):
        return
    names = fixtures.of_runner(item, request)
    missing = [name for name in names if not internals.is_set_up(item, name)]
    if missing:
        # They derive from BaseException, as pytest.exit does, which is meant for the session.
        with suppress(Exception, pytest.skip.Exception, pytest.fail.Exception):
            internals.set_up_fixtures(item, missing)


def opened(item: pytest.Item, run: Run, asked: IsolationRequest, place: Place) -> World:
    """Open the world of a test, as a finalizer of its node.

    :raises RefusedError: if this host does not let it in.
    """
    request = run.launcher.admit(asked).replace(timeout=None)
    inherited: dict[Any, Any] = {}
    for other in (item, *_others(item, place, run)):
        names = fixtures.of_runner(other, run.requests[other])
        inherited |= internals.instances(other, names)
    measurement, uid = run.measurement(), run.launcher.host.euid
    with _refusing(run, request):
        with failing("open what all children share", None):
            run.turns.forget()
        with failing("socketpair", None):
            ours, theirs = socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def body(files: Output) -> Callable[[FrameWriter], Any]:
        keeper = Keeper(
            item,
            request,
            run,
            files,
            (theirs, ours.fileno()),
            measurement,
            make_launcher,
            lambda other: _post_mortem(other, request, run, uid),
        )
        return keeper.run

    try:
        output.flush_to_terminal(item.config)
        began = 0.0 if run.trace is None else run.trace.now()
        child = run.launcher.start(request, body, budget=None, measured=measurement is not None)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    child.end.word = ours.detach()
    child.get_ready()
    if run.trace is not None:
        run.trace.add_launch(item.nodeid, began, request.namespaces, child)
    if child.outcome is not None:
        ended = child.outcome
        child.end_and_reap()
        if isinstance(ended, Refusal):
            raise RefusedError(run.launcher.explained(ended, request.user))
        pytest.fail(f"the world of {place} could not be opened: {ended}", pytrace=False)
    at = item.session.items.index(item)
    found = World(place, child, request, asked, inherited, measurement, at)
    run.worlds[place] = found
    place.node.addfinalizer(partial(found.close, at, run.worlds, asked.timeout))
    return found


def begin(found: World, attempt: Attempt, run: Run, *, budget: float | None) -> None:
    """Have the keeper run a test.

    :raises RefusedError: when there is no descriptor left for that.
    """
    item, items = attempt.item, attempt.item.session.items
    own = run.requests[item]
    attempt.request = found.request.replace(leftovers=own.leftovers, missing=own.missing)
    at = items.index(item)
    found.end_with_nodes_of(item, at, own.timeout)
    attempt.incoming.measurement = measurement = run.measurement()
    attempt.incoming.plain = internals.PlainPass(item)
    attempt.incoming.post_mortem = _post_mortem(item, attempt.request, run, run.launcher.host.euid)
    end = found.child.end
    pidfds: list[int] = []
    made: list[world.WorldTest] = []

    def make(frames: int, control: int, nonce: bytes) -> world.WorldTest:
        assert end.pid1 is not None
        assert end.pid1_pidfd is not None
        with failing("dup", None):
            pidfds.append(os.dup(end.pid1_pidfd))
            pidfds.append(os.dup(found.keeper_pidfd))
        held = RunnerEnd(
            end.pid1, pidfds[0], False, control, frames, nonce, files, pidfds[1], found.keeper
        )
        held.keeper = found.keeper
        born = world.WorldTest(
            held, found.how_it_ended, budget=budget, measured=measurement is not None
        )
        run.launcher.take_on(born)
        made.append(born)
        return born

    following = run.nextitem
    order = world.Order(b"R", at, -1 if following is None else items.index(following))
    with _refusing(run, attempt.request):
        with failing("open what all children share", None):
            run.turns.forget()
        files = Output.create()
        try:
            output.move_to(files, item.config)
            attempt.take_on(world.begin(found.orders, order, files, make))
        except BaseException:
            if made:
                made[0].end_and_reap()
            else:
                files.close()
                for fd in pidfds:
                    os.close(fd)
            raise
    output.forget_moved(item.config)


@contextmanager
def _refusing(run: Run, request: IsolationRequest) -> Iterator[None]:
    try:
        yield
    except StepError as error:
        raise RefusedError(run.launcher.explained(Refusal.of(error), request.user)) from None


def _post_mortem(
    item: pytest.Item, request: IsolationRequest, run: Run, uid: int
) -> at_failure.PostMortem | None:
    return at_failure.opened(item, request, run.settings.postmortem, run.home, {}, uid)
