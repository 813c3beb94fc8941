# SPDX-License-Identifier: MIT
"""Whether a failed test's world is looked at, and the look itself, which breaks nothing.

Fact: what a test has done to its world is still so when it has failed: no descriptor is left,
``/proc`` is gone, ``open`` is a mock, the user is another one, a filter refuses sockets. And the
budget of the test goes on.

Consequence: the report is sent first, and stands; the view follows it. Each reading is guarded, and
says what prevented it. None starts after :data:`SECONDS`, and none is a call that waits for another
process. Descriptors that the soft limit keeps back are used meanwhile. The runner stops the budget,
and goes on without the view after :data:`PATIENCE` seconds.

Fact: to know which mounts are new you need to have seen the old ones, and to look at them costs
every test something.
Consequence: one child for each plan of mounts looks before its test begins, and tells the runner.

Fact: to import the readings takes a child five times as long as an empty test.
Consequence: this module is imported by every run that isolates something, and with it only what a
child that cannot open a file any more still needs. After the first failure the runner imports the
rest (:func:`preload`), for the children that come.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from warnings import catch_warnings, simplefilter

import pytest

from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import open, resource
from pytest_nsisolate.view.postmortem import hints, layout, limits, outsiders, refusals
from pytest_nsisolate.view.postmortem.layout import Part, Told

if TYPE_CHECKING:
    from pytest_nsisolate.request.model import IsolationRequest
    from pytest_nsisolate.request.options import Postmortem

#: Seconds after which no other reading is begun.
SECONDS: Final = 2.0

#: Seconds that the runner waits for a view before the report goes without.
PATIENCE: Final = 10.0

#: Bytes of a list of mounts that is kept; a longer one is not compared.
_MOST_MOUNTS: Final = 1 << 20

#: A runner that mounts something before each test makes as many plans.
_MOST_PLANS: Final = 16


#: By a plan's id: the plan, and what is mounted when it has been followed.
FirstMounts: TypeAlias = "dict[int, tuple[object, str]]"


def opened(
    item: pytest.Item,
    request: IsolationRequest,
    mode: Postmortem,
    home: Mapping[str, int],
    first_mounts: FirstMounts,
    uid: int,
) -> PostMortem | None:
    """In the runner, before the clone: what will be asked if this test fails; None for nothing.

    :param mode: of which tests.
    :param home: the runner's namespaces.
    :param first_mounts: of this run; a test may add to it.
    :param uid: the runner's user.
    """
    if mode == "none":
        return None
    whole = mode == "all" or item.get_closest_marker("isolated") is not None
    return PostMortem(request, home, first_mounts, uid, whole=whole)


def preload() -> None:
    """In the runner, after a failure: import what the next child that fails would have to.

    It may fail where the suite has replaced something; then each child imports it, as the first
    one did.
    """
    with suppress(Exception):
        from pytest_nsisolate.view.postmortem import parts, unreaped  # noqa: F401


class PostMortem:
    """One test's; made in the runner, used in its child.

    :param whole: with the view; else hints only.
    """

    def __init__(
        self,
        request: IsolationRequest,
        home: Mapping[str, int],
        first_mounts: FirstMounts,
        uid: int,
        *,
        whole: bool,
    ) -> None:
        self._request = request
        self._home = home
        self._first_mounts = first_mounts
        self._whole = whole
        #: The user id with which the test begins; behind a map of one id it is root.
        self._uid = 0 if request.user == "map" else uid
        self._plan: object | None = None
        self._mounts: str | None = None
        #: The child looks at its mounts before the test begins.
        self.asks_for_mounts = False
        #: The test itself has called fork(2).
        self.forked = False
        self._subtest_shown = False

    def note_plan(self, plan: object | None) -> None:
        """In the runner: which mounts the child is going to make."""
        self._plan = plan
        if plan is not None and self._whole:
            plans = self._first_mounts
            known = plans.get(id(plan))
            self._mounts = None if known is None else known[1]
            self.asks_for_mounts = known is None and len(plans) < _MOST_PLANS

    def take_mounts(self, data: dict[str, Any]) -> None:
        """In the runner: what the first child with this plan has seen; of no other one."""
        mounts = data.get("mounts")
        if self.asks_for_mounts and isinstance(mounts, str) and len(mounts) <= _MOST_MOUNTS:
            assert self._plan is not None
            # With the plan itself, so that no other object gets its id meanwhile.
            self._first_mounts[id(self._plan)] = (self._plan, mounts)
        self.asks_for_mounts = False

    # In the child ---------------------------------------------------------------------------------

    def begin(self, send: Callable[[dict[str, object]], None]) -> None:
        """Before the test's first line."""
        if self.asks_for_mounts:
            try:
                with open("/proc/self/mountinfo", "rb") as file:
                    self._mounts = file.read(_MOST_MOUNTS + 1).decode("utf-8", "surrogateescape")
            except OSError:
                self._mounts = ""
            send({"mounts": self._mounts})

    def examine(self, error: BaseException | None, *, subtest: bool = False) -> dict[str, object]:
        """What there is to say about a failure; raises only what ends the session.

        The world is shown once for all subtests, with the first one that fails.

        :param error: the exception, if there is one.
        """
        whole = self._whole and not (subtest and self._subtest_shown)
        self._subtest_shown |= subtest
        until = monotonic() + SECONDS
        found: dict[str, object] = {}
        with _undisturbed() as open_files:
            try:
                errors = refusals.chain(error)
                found["tried"] = refusals.tried(errors)
                numbers = refusals.numbers(errors)
            except BaseException as failure:
                said = _excuse("the failure", failure)
                return {"text": said} if whole else {}
            try:
                found["asked"] = outsiders.asked(errors)
            except BaseException as failure:  # it reads the source, by means that may be mocks
                _excuse("the failure", failure)
            if whole:
                parts = [*self._parts(), ("limits", lambda: self._limits(numbers, open_files))]
                told = [_guarded(name, read, until) for name, read in parts]
                found["text"] = layout.arranged(told)
            if monotonic() <= until:
                found["hints"] = self._hints(errors, whole=whole)
        return found

    def _hints(self, errors: list[BaseException], *, whole: bool) -> list[str]:
        try:
            found = hints.told(errors, self._request)
            if whole and "pid" in self._request.namespaces and not self._request.init:
                from pytest_nsisolate.view.origin import make_readings
                from pytest_nsisolate.view.postmortem import unreaped

                view = make_readings(self._request, self._home)
                found += unreaped.hint(view, errors, forked=self.forked)
        except BaseException as failure:
            _excuse("hints", failure)  # there are none then
            return []
        return found

    def _parts(self) -> list[Part]:
        try:
            from pytest_nsisolate.view.postmortem import parts

            return parts.parts(self._request, self._home, self._mounts, self._uid)
        except BaseException as failure:
            said = _excuse("the view", failure)
            return [("the view", lambda: [said])]

    def _limits(self, numbers: frozenset[int], open_files: int) -> list[str]:
        fresh = self._request.namespaces
        own_pids, own_ipc = "pid" in fresh, "ipc" in fresh
        lines = limits.lines(numbers, open_files, own_pids=own_pids, own_ipc=own_ipc)
        return ["limits:", *(f"  {line}" for line in lines)] if lines else []


def _guarded(name: str, read: Callable[[], Told], until: float) -> Told:
    if monotonic() > until:
        return [f"{name}: not read, the others took more than {SECONDS:g} s"]
    try:
        return read()
    except BaseException as error:
        return [_excuse(name, error)]


def _excuse(name: str, error: BaseException) -> str:
    """The text that stands instead; what a signal handler of the test raises counts as well.

    :raises BaseException: the error itself, if it is to end the session.
    """
    if isinstance(error, KeyboardInterrupt | pytest.exit.Exception):
        raise error
    kind = type(error).__name__
    try:
        said = str(error)[:200]
    except Exception:
        said = ""
    return f"{name}: could not be read ({kind}{': ' if said else ''}{said})"


@contextlib.contextmanager
def _undisturbed() -> Iterator[int]:
    """Readings need a descriptor or two, and have no warnings of their own.

    :returns: the soft limit of open files that the test has.
    """

    with catch_warnings():
        simplefilter("ignore")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        try:
            yield soft
        finally:
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
